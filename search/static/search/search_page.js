// The search page: takes pictures, asks the page's own address for results, and keeps the address and history in step.

import { CropBox } from "./crop_box.js";
import { canvasOf, fileToSend, keepPicture, keptPicture, openPicture } from "./query_picture.js";

const FRESH = 30 * 60 * 1000; // milliseconds that results are shown again without asking: their pictures' URLs expire
const DEFAULT_TOP = "20";
const isTouched = matchMedia("(pointer: coarse)").matches;

const page = document.querySelector("[data-search]");
const part = (name) => page.querySelector(`[data-${name}]`);
const form = part("form");
const { folder, min_score: minScore, top: wanted, like } = form.elements;

let picture = null; // that was uploaded, as openPicture() returns it, and its id
let crop = null; // { x, y, w, h }, fractions of the upright picture
let cropBox = null;
let asked = ""; // what the results on the page answer
let request = new AbortController();
const answers = new Map(); // by history entry
const queryParts = new Map(); // HTML by id of the company's pictures

// Asking -------------------------------------------------------------------------------------------------------------

const hasQuery = () => Boolean(picture || like.value);
const question = () => JSON.stringify([picture?.id, like.value, crop, folder.value, minScore.value, wanted.value]);

function address() {
    const values = { like: picture ? "" : like.value, folder: folder.value, min_score: minScore.value, top: wanted.value };
    if (values.top === DEFAULT_TOP) values.top = "";
    const given = Object.entries(values).filter(([, value]) => value);
    return given.length ? `?${new URLSearchParams(given)}` : location.pathname;
}

/** remember: as a step of the history. focus: on the results, where what had it is gone. */
async function search({ remember = true, focus = false } = {}) {
    if (!form.reportValidity()) return;
    if (remember && question() === asked) return;
    if (remember) history.pushState({ entry: newId(), picture: picture?.id ?? null, crop }, "", address());
    const { entry } = history.state;
    asked = question();
    request.abort();
    request = new AbortController();
    const { signal } = request;
    part("found").setAttribute("aria-busy", "true");
    say("Searching…");
    try {
        const answer = await ask(signal);
        if (signal.aborted) return;
        if (answer.failed) asked = ""; // so that it can be tried again
        else answers.set(entry, { ...answer, at: Date.now() });
        if (!picture && !crop) queryParts.set(like.value, answer.query);
        show(answer);
        if (focus) page.querySelector("[data-results-heading]")?.focus({ preventScroll: true });
    } catch (error) {
        if (!signal.aborted) complain(error.inWords ?? "The server can't be reached. Check the connection and try again.");
    } finally {
        if (!signal.aborted) part("found").removeAttribute("aria-busy");
    }
}

async function ask(signal) {
    const headers = { Accept: "application/json" };
    const response = picture || crop
        ? await fetch(location.pathname, { method: "POST", headers, body: await filledIn(signal), signal })
        : await fetch(address(), { headers, signal });
    if (response.headers.get("Content-Type") === "application/json") {
        return { ...(await response.json()), failed: !response.ok };
    }
    if (response.redirected || response.status === 403) throw inWords("You are no longer signed in. Reload this page.");
    throw inWords("Something went wrong on the server. Try again in a moment.");
}

async function filledIn(signal) {
    const data = new FormData(form);
    const file = await fileToSend(picture ?? (await originalPicture(signal)), crop); // here the crop is cut out
    data.delete("like");
    data.set("image", file, file.name);
    return data;
}

/** Return the picture of the company that is searched with, to be cut. */
async function originalPicture(signal) {
    const { original, name } = page.querySelector("[data-stage]").dataset;
    const response = await fetch(original, { signal });
    if (!response.ok) throw inWords("This picture can't be cut: its file is missing.");
    const opened = await openPicture(await response.blob(), name.split("/").at(-1));
    if (!opened.bitmap) throw inWords("This browser can't cut this kind of picture.");
    return opened;
}

function inWords(message) {
    return Object.assign(new Error(message), { inWords: message });
}

function newId() {
    return `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`; // sorts by age
}

// Showing ------------------------------------------------------------------------------------------------------------

function show(answer) {
    part("results").innerHTML = answer.results;
    part("start").hidden = !answer.failed && Boolean(answer.results.trim());
    if (!picture && like.value && shownQuery() !== like.value) showCompanyPicture(queryParts.get(like.value) ?? answer.query);
    enhance(page);
    say(answer.said);
}

function say(text) {
    part("said").textContent = text;
}

function complain(message) {
    const notice = document.createElement("div");
    notice.className = "notice is-failed";
    const words = document.createElement("strong");
    words.textContent = message;
    notice.append(words);
    part("results").replaceChildren(notice);
    part("start").hidden = false;
    say(message);
    asked = "";
}

const shownQuery = () => part("query").dataset.shown ?? "";

function showCompanyPicture(html) {
    part("query").innerHTML = html;
    part("query").dataset.shown = like.value;
    putStage(page.querySelector("[data-stage]"));
}

function showUpload() {
    const stage = document.createElement("div");
    const name = document.createElement("p");
    name.className = "query-name";
    const strong = document.createElement("strong");
    strong.textContent = picture.name;
    name.append(strong);
    part("query").replaceChildren(name);
    part("query").dataset.shown = picture.id;
    if (picture.bitmap) {
        stage.className = "stage";
        stage.dataset.stage = "";
        const canvas = canvasOf(picture);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `The picture that is searched with: ${picture.name}`);
        stage.append(canvas);
        name.before(stage);
    } else {
        name.append(" – this browser can't show this kind of picture");
    }
    putStage(picture.bitmap ? stage : null);
}

function putStage(stage) {
    const isThere = Boolean(picture || stage);
    page.classList.toggle("has-query", isThere);
    if (!isTouched) part("prompt").textContent = isThere ? "Drop or paste another one" : "Drop a picture here, or paste one";
    else part("prompt").textContent = "What do you want to find?";
    cropBox = stage && new CropBox(stage, { place: crop, describedBy: "crop-help", onPlaced: placeCrop });
    part("crop").hidden = part("crop-help").hidden = !stage;
    tellCrop();
}

function placeCrop(place) {
    crop = place;
    tellCrop();
    search();
}

function tellCrop() {
    part("crop").textContent = crop ? "Remove crop" : "Crop";
    const without = isTouched ? "Press Crop to search with a part of it." : "Drag on the picture to search with a part of it.";
    const within = isTouched ? "Drag the box or its corners." : "Arrow keys move the box, Shift and arrow keys change its size, Escape removes it.";
    part("crop-help").textContent = crop ? within : without;
}

/** Give what the server has written the parts that only a script can do. */
function enhance(root) {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const image of root.querySelectorAll(".thumb img")) if (image.complete && !image.naturalWidth) miss(image);
}

function miss(image) {
    if (image.matches(".thumb img")) image.closest(".thumb").classList.add("is-missing");
}

// What people do -----------------------------------------------------------------------------------------------------

async function take(file) {
    const opened = await openPicture(file, file.name || "picture");
    if (!opened.bitmap && !opened.extension) {
        complain(`${opened.name} can't be read as a picture. Use JPEG, PNG, GIF, BMP, TIFF or WebP.`);
        return;
    }
    if (!opened.bitmap && file.size > Number(page.dataset.maxBytes)) {
        complain("The picture is larger than 16 MB. Choose a smaller one.");
        return;
    }
    picture = { ...opened, id: newId() };
    crop = null;
    like.value = "";
    showUpload();
    window.scrollTo({ top: 0 });
    await Promise.all([keepPicture(picture.id, picture), search()]);
}

async function searchLike(id) {
    picture = crop = null;
    like.value = id;
    window.scrollTo({ top: 0 });
    await search({ focus: true });
}

function chooseFolder(path) {
    if (![...folder.options].some((option) => option.value === path)) folder.add(new Option(path, path));
    folder.value = path;
}

function filtersChanged() {
    if (hasQuery()) search();
    else if (form.reportValidity()) history.replaceState(history.state, "", address());
}

async function copy(button) {
    const words = button.innerHTML;
    await copyText(button.dataset.copy);
    button.textContent = "Copied";
    say("Copied.");
    setTimeout(() => { button.innerHTML = words; }, 1500);
}

async function copyText(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea"); // without https there is no clipboard to write to
    area.value = text;
    area.className = "seen-by-readers";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
}

document.addEventListener("click", (event) => {
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    const link = event.target.closest("a[data-like], a[data-folder]");
    const button = event.target.closest("button");
    if (link && isPlain) {
        event.preventDefault();
        if (link.dataset.folder === undefined) searchLike(new URL(link.href).searchParams.get("like"));
        else { chooseFolder(link.dataset.folder); filtersChanged(); }
    } else if (button?.matches("[data-copy]")) {
        copy(button);
    } else if (button?.matches("[data-crop]") && cropBox) {
        if (crop) cropBox.remove();
        else cropBox.start();
    }
});
document.addEventListener("error", (event) => { if (event.target instanceof HTMLImageElement) miss(event.target); }, true);

for (const input of page.querySelectorAll("[data-choose]")) {
    input.addEventListener("change", () => {
        if (input.files.length) take(input.files[0]);
        input.value = ""; // so that the same file can be chosen again
    });
}
for (const input of [folder, minScore, wanted]) input.addEventListener("change", filtersChanged);
form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (hasQuery()) search();
});

document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file) return;
    event.preventDefault();
    take(file);
});
const over = (isOver) => part("drop").classList.toggle("is-over", isOver);
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const file = event.dataTransfer.files[0];
    if (file) take(file);
    else complain("That is no picture file. Save the picture first, or copy it and paste it here.");
});

// Back, forward, reload ----------------------------------------------------------------------------------------------

async function restore() {
    const state = history.state ?? {};
    const given = new URLSearchParams(location.search);
    chooseFolder(given.get("folder") ?? "");
    minScore.value = given.get("min_score") ?? "";
    wanted.value = given.get("top") ?? DEFAULT_TOP;
    like.value = given.get("like") ?? "";
    picture = state.picture ? await keptPicture(state.picture) : null;
    crop = picture || like.value ? (state.crop ?? null) : null;
    if (picture) showUpload();
    else if (like.value && queryParts.has(like.value)) showCompanyPicture(queryParts.get(like.value));
    else if (!like.value) { part("query").replaceChildren(); part("query").dataset.shown = ""; putStage(null); }
    const answer = answers.get(state.entry);
    request.abort();
    part("found").removeAttribute("aria-busy");
    asked = question();
    if (answer && Date.now() - answer.at < FRESH) show(answer);
    else if (hasQuery()) await search({ remember: false });
    else show({ results: "", said: "" });
}

window.addEventListener("popstate", restore);

function begin() {
    part("submit").hidden = true;
    if (isTouched) part("photograph").hidden = page.querySelector("#photograph").hidden = false;
    enhance(page);
    if (like.value) {
        queryParts.set(like.value, part("query").innerHTML);
        part("query").dataset.shown = like.value;
    }
    if (history.state?.picture || history.state?.crop) { restore(); return; }
    const entry = newId();
    history.replaceState({ entry, picture: null, crop: null }, "");
    if (like.value) answers.set(entry, { results: part("results").innerHTML, query: part("query").innerHTML, said: "", at: Date.now() });
    asked = question();
    putStage(page.querySelector("[data-stage]"));
}

begin();
