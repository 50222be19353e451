// The search page: takes pictures, asks the page's own address for results, and keeps the address and history in step.

import { CropBox, cropOf, textOf } from "./crop_box.js";
import { canvasOf, fileToSend, keepPicture, keptPicture, openPicture, shrunk } from "./query_picture.js";

const FRESH = 30 * 60 * 1000; // milliseconds that results are shown again without asking: their pictures' URLs expire
const DEFAULT_TOP = "20";
const isTouched = matchMedia("(pointer: coarse)").matches;

const page = document.querySelector("[data-search]");
const [mostBytes, mostPictures, mostLike] = ["maxBytes", "maxPictures", "maxLike"].map((name) => Number(page.dataset[name]));
const part = (name) => page.querySelector(`[data-${name}]`);
const form = part("form");
const { folder, min_match: minMatch, min_score: minScore, top: wanted, collapse } = form.elements;

let pictures = []; // that were uploaded, as openPicture() returns them, each with an id
let likes = []; // ids of the company's pictures that results are to be like, in place of uploads
let unlikes = []; // and unlike
let crop = null; // of the only picture, as CropBox tells it
let cropBox = null;
let asked = ""; // what the results on the page answer
let request = new AbortController();
let turn = 0; // of what people choose: a picture that takes long to open does not replace a later one
const answers = new Map(); // by history entry
const queryParts = new Map(); // HTML by the company's pictures

// Asking -------------------------------------------------------------------------------------------------------------

const hasQuery = () => pictures.length + likes.length > 0;
const asking = () => JSON.stringify(pictures.length ? pictures.map(({ id }) => id) : [likes, unlikes]);
const question = () => JSON.stringify([asking(), crop, folder.value, minMatch.value, minScore.value, collapse.checked, wanted.value]);

function address() {
    const values = {
        crop: textOf(crop),
        folder: folder.value,
        min_match: minMatch.value,
        min_score: minScore.value,
        collapse: collapse.checked ? collapse.value : "",
        top: wanted.value === DEFAULT_TOP ? "" : wanted.value,
    };
    const ids = pictures.length ? [] : [...likes.map((id) => ["like", id]), ...unlikes.map((id) => ["unlike", id])];
    const given = [...ids, ...Object.entries(values).filter(([, value]) => value)];
    return given.length ? `?${new URLSearchParams(given)}`.replaceAll("%2C", ",") : location.pathname;
}

/** remember: as a step of the history. focus: on the results, where what had it is gone. */
async function search({ remember = true, focus = false } = {}) {
    if (!form.reportValidity()) return;
    if (remember && question() === asked) return;
    if (remember) history.pushState({ entry: newId(), pictures: pictures.map(({ id }) => id) }, "", address());
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
        if (!pictures.length && !answer.failed) queryParts.set(asking(), answer.query);
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
    const response = pictures.length
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
    for (const name of ["like", "unlike", "image"]) data.delete(name);
    const files = await Promise.all(pictures.map((picture) => fileToSend(picture, { crop, mostBytes })));
    if (files.reduce((bytes, { size }) => bytes + size, 0) > mostBytes && files.length > 1) {
        throw inWords("Together the pictures are larger than 16 MB. Choose fewer.", 413);
    }
    for (const file of files) data.append("image", file, file.name);
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
    if (likes.length && shownQuery() !== asking()) showCompanyPictures(queryParts.get(asking()) ?? answer.query);
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

function showCompanyPictures(html) {
    part("query").innerHTML = html;
    part("query").dataset.shown = asking();
    putStage(page.querySelector("[data-stage]"));
}

function showUploads() {
    part("query").dataset.shown = asking();
    if (pictures.length > 1) showSmall();
    else showUpload(pictures[0]);
}

function showSmall() {
    const list = document.createElement("ul");
    list.className = "asked";
    list.setAttribute("aria-label", "The pictures that are searched with");
    for (const picture of pictures) {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.className = "remove";
        button.dataset.remove = picture.id;
        button.setAttribute("aria-label", `Search without ${picture.name}`);
        button.textContent = "×";
        item.title = picture.name;
        item.append(picture.bitmap ? labelled(canvasOf(picture), picture.name) : noPreview(), button);
        list.append(item);
    }
    part("query").replaceChildren(list);
    putStage(null);
}

function labelled(canvas, words) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    return canvas;
}

function noPreview() {
    const words = document.createElement("span");
    words.className = "gone";
    words.textContent = "no preview";
    return words;
}

function showUpload(picture) {
    const stage = document.createElement("div");
    const name = document.createElement("p");
    name.className = "query-name";
    const strong = document.createElement("strong");
    strong.textContent = picture.name;
    name.append(strong);
    part("query").replaceChildren(name);
    if (picture.bitmap) {
        stage.className = "stage";
        stage.dataset.stage = "";
        stage.append(labelled(canvasOf(picture), `The picture that is searched with: ${picture.name}`));
        name.before(stage);
    } else {
        name.append(" – this browser can't show this kind of picture");
    }
    putStage(picture.bitmap ? stage : null);
}

function putStage(stage) {
    const isThere = hasQuery();
    page.classList.toggle("has-query", isThere);
    if (!isTouched) part("prompt").textContent = isThere ? "Drop or paste others" : "Drop pictures here, or paste one";
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

/** Search with the files that came at once, or as many as can be. */
async function take(files) {
    const own = (turn += 1);
    const [taken, problems] = [[], []];
    for (const file of files.slice(0, mostPictures)) {
        const opened = await openPicture(file, file.name || "picture").catch(() => null); // a folder can't be read
        const problem = problemOf(file, opened);
        if (problem) problems.push(problem);
        else taken.push({ ...(files.length > 1 ? await shrunk(opened) : opened), id: newId() });
    }
    if (own !== turn) return;
    if (files.length > mostPictures) problems.push(`Only the first ${mostPictures} of the ${files.length} files were taken.`);
    if (!taken.length) {
        refuse(problems.join(" "));
        return;
    }
    pictures = taken;
    likes = [];
    unlikes = [];
    crop = null;
    showUploads();
    window.scrollTo({ top: 0 });
    const kept = Promise.all(taken.map(keepPicture));
    await search();
    if (problems.length) refuse(problems.join(" "));
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

/** Search with pictures of the company: to be like some and unlike others. */
async function searchLike(wantedIds, unwantedIds = []) {
    if (Math.max(wantedIds.length, unwantedIds.length) > mostLike) {
        refuse(`At most ${mostLike} pictures can be chosen at a time.`);
        return;
    }
    turn += 1;
    pictures = [];
    crop = null;
    likes = wantedIds;
    unlikes = unwantedIds;
    window.scrollTo({ top: 0 });
    await search({ focus: true });
}

async function searchWithout(id) {
    const isOther = (each) => each !== id;
    if (!pictures.length) {
        await searchLike(likes.filter(isOther), unlikes.filter(isOther));
        return;
    }
    turn += 1;
    pictures = pictures.filter((picture) => isOther(picture.id));
    showUploads();
    await search({ focus: true });
}

const tickedIds = () => [...page.querySelectorAll("[data-ticks] :checked")].map(({ value }) => value);

/** Search on with the ticked pictures beside those of the company that are searched with. */
function searchTicked(where) {
    const before = pictures.length ? [] : likes;
    if (where === "unlike") searchLike(before, [...unlikes, ...tickedIds()]);
    else searchLike([...before, ...tickedIds()], unlikes);
}

function tellTicks() {
    const { length } = tickedIds();
    const words = `${length} picture${length === 1 ? "" : "s"} ticked`;
    if (length) part("tick-count").textContent = words;
    say(length ? `${words}. Enter searches for more like ${length === 1 ? "it" : "them"}; more buttons follow after the results.` : "");
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
    const remove = event.target.closest("[data-remove]");
    if (remove && isPlain) {
        event.preventDefault();
        searchWithout(remove.dataset.remove);
    } else if (link && isPlain) {
        event.preventDefault();
        if (link.dataset.folder === undefined) searchLike(new URL(link.href).searchParams.getAll("like"));
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
for (const input of [folder, minMatch, minScore, wanted, collapse]) input.addEventListener("change", filtersChanged);
form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (hasQuery()) search();
});

part("results").addEventListener("change", tellTicks);
part("results").addEventListener("reset", () => setTimeout(tellTicks)); // when they are unticked
part("results").addEventListener("submit", (event) => {
    event.preventDefault();
    if (tickedIds().length) searchTicked(event.submitter?.value ?? "like");
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
    const own = (turn += 1);
    const state = history.state ?? {};
    const given = new URLSearchParams(location.search);
    chooseFolder(given.get("folder") ?? "");
    minMatch.value = given.get("min_match") ?? "";
    minScore.value = given.get("min_score") ?? "";
    collapse.checked = given.has("collapse");
    wanted.value = given.get("top") ?? DEFAULT_TOP;
    const kept = (await Promise.all((state.pictures ?? []).map(keptPicture))).filter(Boolean);
    if (own !== turn) return;
    pictures = kept;
    readAddress(given);
    if (pictures.length) showUploads();
    else if (queryParts.has(asking())) showCompanyPictures(queryParts.get(asking()));
    else if (!likes.length) { part("query").replaceChildren(); part("query").dataset.shown = ""; putStage(null); }
    const answer = answers.get(state.entry);
    request.abort();
    part("found").removeAttribute("aria-busy");
    part("refused").replaceChildren();
    asked = question();
    if (answer && Date.now() - answer.at < FRESH) show(answer);
    else if (hasQuery()) await search({ remember: false });
    else show({ results: "", said: "" });
    if (own === turn && kept.length < (state.pictures ?? []).length) refuse("Not all of the pictures are still at hand. Choose them again.");
}

/** Take what is searched with from the address; a crop without its picture was that of somebody else's upload. */
function readAddress(given) {
    [likes, unlikes] = pictures.length ? [[], []] : [given.getAll("like"), given.getAll("unlike")];
    crop = hasQuery() ? cropOf(given.get("crop") ?? "") : null;
}

window.addEventListener("popstate", restore);

function begin() {
    part("submit").hidden = true;
    if (isTouched) part("photograph").hidden = page.querySelector("#photograph").hidden = false;
    enhance(page);
    readAddress(new URLSearchParams(location.search));
    if (likes.length) {
        queryParts.set(asking(), part("query").innerHTML);
        part("query").dataset.shown = asking();
    }
    if (history.state?.pictures?.length) { restore(); return; }
    const entry = newId();
    history.replaceState({ entry, pictures: [] }, "");
    if (likes.length) answers.set(entry, { results: part("results").innerHTML, query: part("query").innerHTML, said: "", at: Date.now() });
    asked = question();
    putStage(page.querySelector("[data-stage]"));
    for (const input of inputs) takeChosen(input); // while this script was on its way
}

begin();
