/*
 * Uploads with what a form alone can't do: files and whole folders that are dropped, a bar that shows how far it is,
 * and more files than one request may hold. Without this script the form is sent as it is.
 */

import { draw } from "./preview.js";

const FILES_AT_ONCE = 50; // in a request; the server takes 100
const BYTES_AT_ONCE = 64 * 2 ** 20; // so that what is stored shows in steps
const SHOWN = 60; // pictures of the outcome
const NAMES_SHOWN = 3; // of files that stay behind
const PICTURE = /\.(png|jpe?g|gif|bmp|tiff?|webp)$/i;
const ZIP = /\.zip$/i;

class Refused extends Error {} // with words from the server, which trying again does not change

/* Yields { file, path } for a dropped file, or for each file of a dropped folder and those below it. */
async function* filesOf(entry) {
    if (entry.isFile) {
        const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
        yield { file, path: entry.fullPath.replace(/^\//, "") };
        return;
    }
    const reader = entry.createReader();
    for (;;) {
        const entries = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
        if (!entries.length) {
            return;
        }
        for (const below of entries) {
            yield* filesOf(below);
        }
    }
}

function size(bytes) {
    const units = ["bytes", "KB", "MB", "GB"];
    const power = Math.min(units.length - 1, Math.floor(Math.log(Math.max(1, bytes)) / Math.log(1024)));
    return `${(bytes / 1024 ** power).toLocaleString("en", { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

function counted(number, what) {
    return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
}

function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
}

class UploadForm {
    constructor(form) {
        this.form = form;
        this.input = form.querySelector("#upload-files");
        this.folder = form.querySelector("#upload-folder");
        this.drop = form.querySelector("[data-drop]");
        this.chosenText = form.querySelector("[data-chosen]");
        this.sendButton = form.querySelector("[data-send]");
        this.stopButton = form.querySelector("[data-stop]");
        this.progress = form.querySelector("[data-progress]");
        this.outcome = form.querySelector("[data-outcome]");
        this.chosen = []; // of { file, path }
        this.request = null; // the XMLHttpRequest under way
        this.enhance();
    }

    enhance() {
        this.form.querySelectorAll("[data-plain]").forEach((plain) => {
            if (plain.contains(this.input)) {
                this.drop.prepend(this.input);
                this.input.classList.add("seen-by-readers");
                this.input.setAttribute("aria-label", "Pictures, or a zip of pictures");
                this.folder.setAttribute("aria-label", "A folder of pictures");
            }
            plain.hidden = true;
        });
        this.input.required = false;
        this.drop.hidden = false;
        const takeChosen = () => this.choose([...this.input.files].map((file) => ({ file, path: file.name })));
        this.input.addEventListener("change", takeChosen);
        this.folder.addEventListener("change", () => {
            this.choose([...this.folder.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
        });
        this.form.addEventListener("submit", (event) => {
            event.preventDefault();
            this.send();
        });
        this.stopButton.addEventListener("click", () => this.stop());
        window.addEventListener("beforeunload", (event) => {
            if (this.request) {
                event.preventDefault();
            }
        });
        // The whole page takes what is dropped: a file that misses the box would replace the page.
        let inside = 0;
        document.addEventListener("dragenter", (event) => {
            if (event.dataTransfer?.types.includes("Files")) {
                inside += 1;
                this.form.closest("details")?.setAttribute("open", "");
                this.drop.classList.add("is-over");
            }
        });
        document.addEventListener("dragleave", () => {
            inside = Math.max(0, inside - 1);
            this.drop.classList.toggle("is-over", inside > 0);
        });
        document.addEventListener("dragover", (event) => event.preventDefault());
        document.addEventListener("drop", (event) => {
            event.preventDefault();
            inside = 0;
            this.drop.classList.remove("is-over");
            if (event.dataTransfer?.files.length && !this.request) {
                this.take(event.dataTransfer);
            }
        });
        takeChosen(); // while this script was on its way
    }

    async take(transfer) {
        const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // before any wait
        if (!entries.length) {
            this.choose([...transfer.files].map((file) => ({ file, path: file.name })));
            return;
        }
        const found = [];
        try {
            for (const entry of entries) {
                for await (const each of filesOf(entry)) {
                    found.push(each);
                }
            }
        } catch {
            this.tell("A folder could not be read. Choose it with the button instead.");
            return;
        }
        this.choose(found);
        this.form.scrollIntoView({ block: "nearest" });
    }

    choose(all) {
        const travels = ({ file, path }) => (PICTURE.test(path) || ZIP.test(path)) && !file.name.startsWith(".");
        this.chosen = all.filter(travels);
        this.outcome.hidden = true;
        this.progress.hidden = true;
        this.showChosen(all.filter((each) => !travels(each)).map(({ file }) => file.name));
    }

    showChosen(ignored) {
        const bytes = this.chosen.reduce((sum, { file }) => sum + file.size, 0);
        const parts = this.chosen.length ? [`${counted(this.chosen.length, "file")}, ${size(bytes)}`] : ["Nothing chosen yet"];
        if (ignored.length) {
            const names = ignored.slice(0, NAMES_SHOWN).join(", ") + (ignored.length > NAMES_SHOWN ? " …" : "");
            parts.push(`${counted(ignored.length, "file")} of other types left out: ${names}`);
        }
        this.chosenText.textContent = parts.join("; ");
        this.sendButton.disabled = !this.chosen.length;
        this.sendButton.textContent = this.chosen.length ? `Upload ${counted(this.chosen.length, "file")}` : "Upload";
    }

    /* Requests of so many files and bytes; one that is larger than all travels alone. */
    batches(files) {
        const most = Math.min(BYTES_AT_ONCE, Number(this.form.dataset.maxBytes));
        const batches = [];
        let bytes = Infinity;
        for (const each of files) {
            bytes += each.file.size;
            if (bytes > most || batches.at(-1).length === Math.min(FILES_AT_ONCE, Number(this.form.dataset.maxFiles))) {
                batches.push([]);
                bytes = each.file.size;
            }
            batches.at(-1).push(each);
        }
        return batches;
    }

    /* The reason why a file need not travel, "" where it may. */
    tooLarge({ file, path }) {
        const most = Number(ZIP.test(path) ? this.form.dataset.maxBytes : this.form.dataset.maxPictureBytes);
        return file.size > most ? `The file is larger than ${size(most)}` : "";
    }

    async send() {
        const files = this.chosen.filter((each) => !this.tooLarge(each));
        const result = { stored: 0, refused: 0, ignored: 0, storedTiles: [], refusedRows: [], messages: new Set(), left: [] };
        for (const each of this.chosen.filter((one) => this.tooLarge(one))) {
            await this.addRefused(result, { path: each.path, reason: this.tooLarge(each), thumbnail_url: "" }, [each]);
        }
        const total = files.reduce((sum, { file }) => sum + file.size, 0) || 1;
        const batches = this.batches(files);
        let sent = 0;
        let problem = "";
        this.begin();
        for (const [number, batch] of batches.entries()) {
            try {
                const answer = await this.post(batch, (loaded) => this.showProgress(sent + loaded, total));
                await this.add(result, answer, batch);
                sent += batch.reduce((sum, { file }) => sum + file.size, 0);
            } catch (error) {
                problem = error.message;
                result.left = batches.slice(number).flat();
                break;
            }
        }
        this.end(result, problem);
    }

    /* Posts some files and returns the server's answer; onSent is called with how many bytes have left. */
    post(batch, onSent) {
        const body = new FormData();
        for (const name of ["csrfmiddlewaretoken", "location"]) {
            body.append(name, this.form.elements[name].value);
        }
        if (this.form.elements.replace.checked) {
            body.append("replace", "1");
        }
        for (const { file, path } of batch) {
            body.append("path", path);
            body.append("files", file);
        }
        const request = new XMLHttpRequest();
        this.request = request;
        return new Promise((resolve, reject) => {
            const fail = (text) => reject(new Error(text));
            request.upload.addEventListener("progress", (event) => onSent(event.loaded));
            request.addEventListener("error", () => fail("The connection broke."));
            request.addEventListener("abort", () => fail("You stopped the upload."));
            request.addEventListener("load", () => {
                if (request.response === null || request.responseURL.includes("/login/")) {
                    const loggedOut = request.status === 403 || request.responseURL.includes("/login/");
                    fail(loggedOut ? "You are logged out, or may no longer upload here: load the page again." : `The server answers with an error (${request.status}).`);
                } else if (request.response.error) {
                    reject(new Refused(request.response.error));
                } else {
                    resolve(request.response);
                }
            });
            request.open("POST", this.form.action);
            request.setRequestHeader("Accept", "application/json");
            request.responseType = "json";
            request.send(body);
        });
    }

    stop() {
        this.request?.abort();
    }

    begin() {
        this.stopButton.hidden = false;
        if (document.activeElement === this.sendButton) {
            this.stopButton.focus(); // a disabled button keeps no focus
        }
        this.sendButton.disabled = true;
        this.outcome.hidden = true;
        this.progress.hidden = false;
        this.showProgress(0, 1);
        this.announce("The upload has begun");
    }

    showProgress(sent, total) {
        const part = Math.min(1, sent / total);
        this.progress.querySelector("progress").value = part;
        const text = part < 1 ? `${Math.floor(part * 100)} %` : "All sent; the server checks and stores the pictures...";
        this.progress.querySelector("[data-told]").textContent = text;
    }

    async add(result, answer, batch) {
        result.stored += answer.stored_count;
        result.ignored += answer.ignored;
        answer.messages.forEach((message) => result.messages.add(message));
        for (const { path, replaced, thumbnail_url } of answer.stored.slice(0, SHOWN - result.storedTiles.length)) {
            const frame = element("span", { className: "frame" }, element("img", { src: thumbnail_url, alt: "", loading: "lazy" }));
            frame.firstChild.addEventListener("error", () => frame.classList.add("is-gone"));
            const name = element("span", { className: "tile-name", title: path }, element("bdi", { textContent: path.split("/").at(-1) }));
            result.storedTiles.push(element("li", { className: "tile" }, frame, name, ...(replaced ? [element("span", { className: "quiet", textContent: "replaced" })] : [])));
        }
        for (const refused of answer.refused) {
            await this.addRefused(result, refused, batch);
        }
        result.refused += answer.refused_count - answer.refused.length;
    }

    async addRefused(result, { path, reason }, batch) {
        result.refused += 1;
        if (result.refusedRows.length >= SHOWN) {
            return;
        }
        const cell = element("td", {}, element("code", { textContent: path }));
        result.refusedRows.push(element("tr", {}, cell, element("td", { textContent: reason })));
        const own = batch.find((each) => each.path === path);
        const picture = own && (await draw(own.file, 40));
        if (picture) {
            picture.className = "in-line";
            cell.prepend(picture, " ");
        }
    }

    end(result, problem) {
        const focused = document.activeElement === this.stopButton;
        this.request = null;
        this.stopButton.hidden = true;
        this.progress.hidden = true;
        this.chosen = result.left;
        this.input.value = this.folder.value = "";
        this.showChosen(0);
        if (focused) {
            (this.chosen.length ? this.sendButton : this.input).focus();
        }
        const text = `${counted(result.stored, "picture")} stored, ${result.refused.toLocaleString("en")} refused.`;
        const parts = [];
        if (problem) {
            const rest = result.left.length ? ` ${counted(result.left.length, "file")} not uploaded: press Upload to go on.` : "";
            parts.push(element("p", { className: "notice is-failed", textContent: problem + rest }));
        }
        parts.push(element("p", {}, element("strong", { textContent: text })));
        if (result.ignored) {
            parts.push(element("p", { className: "quiet", textContent: `${counted(result.ignored, "hidden file")} of macOS, Windows or a server ignored.` }));
        }
        [...result.messages].forEach((message) => parts.push(element("p", { className: "quiet", textContent: message })));
        if (result.refusedRows.length) {
            const table = element("table", { className: "files" }, element("tbody", {}, ...result.refusedRows));
            parts.push(element("h3", { textContent: "Refused" }), element("div", { className: "scrolls" }, table));
            parts.push(...this.cutNote(result.refusedRows.length, result.refused));
        }
        if (result.storedTiles.length) {
            parts.push(element("h3", { textContent: "Stored" }), element("ul", { className: "grid is-small" }, ...result.storedTiles));
            parts.push(...this.cutNote(result.storedTiles.length, result.stored));
        }
        this.outcome.replaceChildren(...parts);
        this.outcome.hidden = false;
        this.announce(`${problem} ${text}`.trim());
        document.dispatchEvent(new Event("pictures-uploaded"));
    }

    cutNote(shown, all) {
        return shown < all ? [element("p", { className: "quiet", textContent: `The first ${shown} of ${all.toLocaleString("en")}.` })] : [];
    }

    tell(text) {
        this.outcome.replaceChildren(element("p", { className: "notice is-failed", textContent: text }));
        this.outcome.hidden = false;
        this.announce(text);
    }

    announce(text) {
        this.form.querySelector("[data-upload-announcements]").textContent = text;
    }
}

for (const form of document.querySelectorAll("form[data-upload]")) {
    new UploadForm(form);
}
