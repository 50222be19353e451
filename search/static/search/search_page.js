// The search page: takes pictures, asks the page's own address for results, and keeps the address and history in step.

import { CropBox, cropOf, textOf } from "./crop_box.js";
import { canvasOf, fileToSend, keepPicture, keptPicture, openPicture } from "./query_picture.js";

const FRESH = 30 * 60 * 1000; // milliseconds that results are shown again without asking: their pictures' URLs expire
const DEFAULT_TOP = "20";
const isTouched = matchMedia("(pointer: coarse)").matches;

const page = document.querySelector("[data-search]");
const mostBytes = Number(page.dataset.maxBytes);
const part = (name) => page.querySelector(`[data-${name}]`);
const form = part("form");
const { folder, min_match: minMatch, min_score: minScore, top: wanted, like } = form.elements;

let picture = null; // that was uploaded, as openPicture() returns it, and its id
let crop = cropOf(new URLSearchParams(location.search).get("crop") ?? ""); // as CropBox tells it
let cropBox = null;
let asked = ""; // what the results on the page answer
let request = new AbortController();
let turn = 0; // of what people choose: a picture that takes long to open does not replace a later one
const answers = new Map(); // by history entry
const queryParts = new Map(); // HTML by id of the company's pictures

// Asking -------------------------------------------------------------------------------------------------------------

const hasQuery = () => Boolean(picture || like.value);
const question = () => JSON.stringify([picture?.id, like.value, crop, folder.value, minMatch.value, minScore.value, wanted.value]);

function address() {
    const values = {
        like: picture ? "" : like.value,
        crop: textOf(crop),
        folder: folder.value,
        min_match: minMatch.value,
        min_score: minScore.value,
        top: wanted.value === DEFAULT_TOP ? "" : wanted.value,
    };
    const given = Object.entries(values).filter(([, value]) => value);
    return given.length ? `?${new URLSearchParams(given)}`.replaceAll("%2C", ",") : location.pathname;
}

/** remember: as a step of the history. focus: on the results, where what had it is gone. */
async function search({ remember = true, focus = false } = {}) {
    if (!form.reportValidity()) return;
    if (remember && question() === asked) return;
    if (remember) history.pushState({ entry: newId(), picture: picture?.id ?? null }, "", address());
    const { entry } = history.state;
    asked = question();
    request.abort();
    request = new AbortController();
    const { signal } = request;
    part("refused").replaceChildren();
    part("found").setAttribute("aria-busy", "true");
    say("Searching…");
    try {
        const answer = await ask(signal);
        if (signal.aborted) return;
        if (!answer.failed) answers.set(entry, { ...answer, at: Date.now() });
        if (!picture) queryParts.set(like.value, answer.query);
        show(answer);
        if (answer.failed) fail(answer.status);
    } catch (error) {
        if (signal.aborted) return;
        complain(error.inWords ?? "The server can't be reached. Check the connection and try again.");
        fail(error.status);
    } finally {
        if (!signal.aborted) {
            part("found").removeAttribute("aria-busy");
            if (focus) page.querySelector("[data-results-heading], [data-remedy]")?.focus({ preventScroll: true });
        }
    }
}

async function ask(signal) {
    const headers = { Accept: "application/json" };
    const response = picture
        ? await fetch(location.pathname, { method: "POST", headers, body: await filledIn(), signal })
        : await fetch(address(), { headers, signal });
    if (response.headers.get("Content-Type") === "application/json") {
        return { ...(await response.json()), failed: !response.ok, status: response.status };
    }
    if (response.redirected || response.status === 403) throw inWords("You are no longer signed in. Reload this page.", 403);
    if (response.status === 404) throw inWords("This page is gone: the company was removed or switched off.", 404);
    throw inWords("Something went wrong on the server. Try again in a moment.");
}

async function filledIn() {
    const data = new FormData(form);
    const file = await fileToSend(picture, { crop, mostBytes });
    data.delete("like");
    data.set("image", file, file.name);
    data.set("crop", textOf(crop));
    return data;
}

/** status: of the answer that this error stands for; a server that is not reached or does not work has 503. */
function inWords(message, status = 503) {
    return Object.assign(new Error(message), { inWords: message, status });
}

function newId() {
    return `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`; // sorts by age
}

// Showing ------------------------------------------------------------------------------------------------------------

function show(answer) {
    part("results").innerHTML = answer.results;
    // A failure leaves the pictures to begin with, but not a second notice in their place.
    part("start").hidden = answer.failed ? !part("start").querySelector("li") : Boolean(answer.results.trim());
    if (!picture && like.value && shownQuery() !== like.value) showCompanyPicture(queryParts.get(like.value) ?? answer.query);
    enhance(page);
    say(answer.said);
}

function say(text) {
    part("said").textContent = text;
}

/** Say why there are no results. */
function complain(message) {
    part("results").replaceChildren(notice(message));
    part("start").hidden = false;
    say(message);
}

/** Say what is wrong with what people gave; the results stay. */
function refuse(message) {
    part("refused").replaceChildren(notice(message));
    say(message);
    window.scrollTo({ top: 0 });
}

function notice(message) {
    const element = document.createElement("div");
    element.className = "notice is-failed";
    const words = document.createElement("strong");
    words.textContent = message;
    element.append(words);
    return element;
}

/** Let a search that failed be asked again, with a button where that may help. */
function fail(status = 503) {
    asked = "";
    const reloads = status === 403; // signed out, or the page is too old
    if (!reloads && status < 429) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button";
    button.dataset.remedy = "";
    button.textContent = reloads ? "Reload the page" : "Try again";
    button.addEventListener("click", () => (reloads ? location.reload() : search({ remember: false, focus: true })));
    page.querySelector("[data-results] .notice")?.append(button);
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
    const within = isTouched ? "Drag the box or its corners." : "Drag the box or its corners. Arrow keys move it, with Shift they change its size; Escape removes it.";
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

/** Search with the first of the files that came at once. */
async function take(files) {
    const [file] = files;
    const own = (turn += 1);
    const opened = await openPicture(file, file.name || "picture").catch(() => null); // a folder can't be read
    if (own !== turn) return;
    const problem = problemOf(file, opened);
    if (problem) {
        refuse(problem);
        return;
    }
    picture = { ...opened, id: newId() };
    crop = null;
    like.value = "";
    showUpload();
    window.scrollTo({ top: 0 });
    const kept = keepPicture(picture.id, picture);
    await search();
    if (files.length > 1) refuse(`Only the first of the ${files.length} files was searched with: ${file.name}.`);
    await kept;
}

function takeChosen(input) {
    if (input.files.length) take([...input.files]);
    input.value = ""; // so that the same file can be chosen again
}

/** Return why a file that was opened as this can't be searched with, "" where it can. */
function problemOf(file, opened) {
    if (!opened) return "A folder can't be searched with. Choose one picture.";
    if (!file.size) return `${opened.name} is empty. Choose another picture.`;
    if (opened.bitmap) return "";
    if (!opened.extension) return `${opened.name} can't be read as a picture. Use JPEG, PNG, GIF, BMP, TIFF or WebP.`;
    return file.size > mostBytes ? "The picture is larger than 16 MB. Choose a smaller one." : "";
}

async function searchLike(id) {
    turn += 1;
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

const inputs = page.querySelectorAll("[data-choose]");
for (const input of inputs) input.addEventListener("change", () => takeChosen(input));
for (const input of [folder, minMatch, minScore, wanted]) input.addEventListener("change", filtersChanged);
form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (hasQuery()) search();
});

document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length && event.target.closest?.("input, textarea")) return;
    event.preventDefault();
    if (files.length) take(files);
    else refuse("What was pasted is no picture. Copy a picture, not its address, and paste again.");
});
const over = (isOver) => part("drop").classList.toggle("is-over", isOver);
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
    else refuse("That is no picture file. Save the picture first, or copy it and paste it here.");
});

// Back, forward, reload ----------------------------------------------------------------------------------------------

async function restore() {
    turn += 1;
    const state = history.state ?? {};
    const given = new URLSearchParams(location.search);
    chooseFolder(given.get("folder") ?? "");
    minMatch.value = given.get("min_match") ?? "";
    minScore.value = given.get("min_score") ?? "";
    wanted.value = given.get("top") ?? DEFAULT_TOP;
    like.value = given.get("like") ?? "";
    picture = state.picture ? await keptPicture(state.picture) : null;
    crop = picture || like.value ? cropOf(given.get("crop") ?? "") : null;
    if (picture) showUpload();
    else if (like.value && queryParts.has(like.value)) showCompanyPicture(queryParts.get(like.value));
    else if (!like.value) { part("query").replaceChildren(); part("query").dataset.shown = ""; putStage(null); }
    const answer = answers.get(state.entry);
    request.abort();
    part("found").removeAttribute("aria-busy");
    part("refused").replaceChildren();
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
    if (history.state?.picture) { restore(); return; }
    if (!like.value) crop = null; // of a picture that was uploaded elsewhere
    const entry = newId();
    history.replaceState({ entry, picture: null }, "");
    if (like.value) answers.set(entry, { results: part("results").innerHTML, query: part("query").innerHTML, said: "", at: Date.now() });
    asked = question();
    putStage(page.querySelector("[data-stage]"));
    for (const input of inputs) takeChosen(input); // while this script was on its way
}

begin();
