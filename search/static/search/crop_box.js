// A box on a picture, drawn and moved by pointer and keyboard; it tells its place as fractions of the picture.

const SMALLEST = 0.05;
const LEAST_PIXELS = 16; // that the server accepts
const KEY_STEP = 0.02;
const KEY_PAUSE = 600; // milliseconds without a key after which the box counts as placed
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Return the text of a place in addresses and forms, "" for none. */
export function textOf(place) {
    return place ? [place.x, place.y, place.w, place.h].map((side) => Number(side.toFixed(9))).join(",") : "";
}

/** Return the place, { x, y, w, h }, that a text names; null where it names none. */
export function cropOf(text) {
    const [x, y, w, h, ...others] = text.split(",").map(Number);
    return w > 0 && h > 0 && x >= 0 && y >= 0 && !others.length ? { x, y, w, h } : null;
}

export class CropBox {
    /** stage: the element that encloses the picture and nothing else. onPlaced: called with { x, y, w, h } or null. */
    constructor(stage, { place = null, describedBy = "", onPlaced }) {
        this.stage = stage;
        this.onPlaced = onPlaced;
        this.place = place;
        this.box = madeBox(describedBy);
        stage.append(this.box);
        stage.classList.add("can-crop");
        stage.addEventListener("pointerdown", (event) => this.#begin(event));
        this.box.addEventListener("keydown", (event) => this.#key(event));
        this.#draw();
    }

    /** Put a box on the middle of the picture for the keyboard or a finger to move. */
    start() {
        const [w, h] = this.#smallest().map((side) => Math.max(0.6, side));
        this.place = rounded({ x: (1 - w) / 2, y: (1 - h) / 2, w, h });
        this.#draw();
        this.box.focus();
        this.onPlaced(this.place);
    }

    remove() {
        clearTimeout(this.pause);
        this.place = null;
        this.#draw();
        this.onPlaced(null);
    }

    #begin(event) {
        const corner = event.target.dataset?.corner;
        const isOnBox = this.box.contains(event.target);
        if (event.button !== 0 || (event.pointerType === "touch" && !isOnBox)) return; // a finger beside it scrolls
        event.preventDefault();
        const [startX, startY] = this.#point(event);
        const before = this.place;
        const moved = (x, y) => {
            if (corner) return resized(before, corner, x, y);
            if (isOnBox) return shifted(before, x - startX, y - startY);
            return between(startX, startY, x, y);
        };
        this.stage.setPointerCapture(event.pointerId);
        const track = new AbortController();
        const { signal } = track;
        const listen = (name, heard) => this.stage.addEventListener(name, heard, { signal });
        listen("pointermove", (move) => { this.place = moved(...this.#point(move)); this.#draw(); });
        listen("pointercancel", () => { track.abort(); this.place = before; this.#draw(); });
        listen("pointerup", () => { track.abort(); this.#placed(before); });
    }

    #placed(before) {
        const [wide, high] = this.#smallest();
        if (this.place && (this.place.w < wide || this.place.h < high)) this.place = before; // a mere click
        this.#draw();
        if (this.place) this.box.focus({ preventScroll: true });
        if (JSON.stringify(this.place) !== JSON.stringify(before)) this.onPlaced(this.place);
    }

    #key(event) {
        const arrow = ARROWS[event.key];
        if (arrow) {
            const [x, y] = arrow.map((step) => step * KEY_STEP);
            this.place = event.shiftKey ? grown(this.place, x, y, this.#smallest()) : shifted(this.place, x, y);
            this.#draw();
            clearTimeout(this.pause);
            this.pause = setTimeout(() => this.onPlaced(this.place), KEY_PAUSE);
        } else if (event.key === "Enter") {
            clearTimeout(this.pause);
            this.onPlaced(this.place);
        } else if (event.key === "Escape") {
            this.remove();
        } else {
            return;
        }
        event.preventDefault();
    }

    /** Return the least width and height of a box: the picture as shown is never larger than the picture itself. */
    #smallest() {
        const { naturalWidth, naturalHeight, width, height } = this.stage.firstElementChild;
        const sides = [naturalWidth ?? width, naturalHeight ?? height]; // 0 until it is loaded
        return sides.map((side) => Math.max(SMALLEST, side ? Math.min(1, LEAST_PIXELS / side) : 0));
    }

    #point(event) {
        const around = this.stage.getBoundingClientRect();
        return [clamp((event.clientX - around.left) / around.width), clamp((event.clientY - around.top) / around.height)];
    }

    #draw() {
        this.box.hidden = !this.place;
        if (!this.place) return;
        const { x, y, w, h } = this.place;
        const percent = (fraction) => `${(100 * fraction).toFixed(2)}%`;
        Object.assign(this.box.style, { left: percent(x), top: percent(y), width: percent(w), height: percent(h) });
        const [left, top, wide, high] = [x, y, w, h].map((fraction) => Math.round(100 * fraction));
        this.box.setAttribute(
            "aria-label",
            `Crop box: ${wide} percent wide, ${high} percent high, ${left} percent from the left, ${top} percent from the top`,
        );
    }
}

function madeBox(describedBy) {
    const box = document.createElement("div");
    box.className = "crop-box";
    box.tabIndex = 0;
    box.setAttribute("role", "application"); // so that screen readers pass the arrow keys on
    if (describedBy) box.setAttribute("aria-describedby", describedBy);
    for (const corner of ["nw", "ne", "sw", "se"]) {
        const handle = document.createElement("span");
        handle.className = `handle is-${corner}`;
        handle.dataset.corner = corner;
        box.append(handle);
    }
    return box;
}

function shifted({ x, y, w, h }, byX, byY) {
    return rounded({ x: clamp(x + byX, 1 - w), y: clamp(y + byY, 1 - h), w, h });
}

function grown({ x, y, w, h }, byX, byY, [wide, high]) {
    return rounded({ x, y, w: Math.max(wide, clamp(w + byX, 1 - x)), h: Math.max(high, clamp(h + byY, 1 - y)) });
}

function resized({ x, y, w, h }, corner, toX, toY) {
    return between(corner.includes("w") ? x + w : x, corner.includes("n") ? y + h : y, toX, toY);
}

function between(x1, y1, x2, y2) {
    return rounded({ x: Math.min(x1, x2), y: Math.min(y1, y2), w: Math.abs(x2 - x1), h: Math.abs(y2 - y1) });
}

/** Round the edges, so that none lies outside the picture. */
function rounded({ x, y, w, h }) {
    const [left, top, right, bottom] = [x, y, x + w, y + h].map((edge) => Math.round(1e4 * clamp(edge)));
    return { x: left / 1e4, y: top / 1e4, w: (right - left) / 1e4, h: (bottom - top) / 1e4 };
}

function clamp(value, most = 1) {
    return Math.min(most, Math.max(0, value));
}
