/* The pages of a company's pictures: placeholders for what is gone, choosing several, a look at what is to replace. */

import { draw } from "./preview.js";

function showPlaceholder(image) {
    image.closest(".frame")?.classList.add("is-gone");
    image.hidden = true;
}

for (const image of document.querySelectorAll("[data-thumbnail]")) {
    image.addEventListener("error", () => showPlaceholder(image));
    if (image.complete && image.naturalWidth === 0 && image.getAttribute("loading") !== "lazy") {
        showPlaceholder(image); // it failed before this was loaded
    }
}

for (const details of document.querySelectorAll("[data-narrow-closed]")) {
    details.open = !window.matchMedia("(max-width: 767px)").matches;
}

for (const form of document.querySelectorAll("[data-grid]")) {
    const boxes = [...form.querySelectorAll("input[name=id]")];
    const all = form.querySelector("[data-all]");
    if (!all) {
        continue;
    }
    const remove = form.querySelector("[data-delete]");
    const count = form.querySelector("[data-count]");
    const show = () => {
        const chosen = boxes.filter((box) => box.checked).length;
        remove.disabled = chosen === 0;
        all.checked = chosen === boxes.length;
        all.indeterminate = chosen > 0 && chosen < boxes.length;
        count.textContent = chosen ? `${chosen} selected` : "";
    };
    form.querySelectorAll("[data-scripted]").forEach((element) => { element.hidden = false; });
    all.addEventListener("change", () => {
        boxes.forEach((box) => { box.checked = all.checked; });
        show();
    });
    form.addEventListener("change", show);
    window.addEventListener("pageshow", show); // back again, with the boxes as they were left
    show();
}

for (const form of document.querySelectorAll("[data-replace]")) {
    const input = form.querySelector("input[type=file]");
    const preview = form.querySelector("[data-preview]");
    input.addEventListener("change", async () => {
        preview.replaceChildren();
        preview.hidden = true;
        const picture = input.files.length ? await draw(input.files[0], 160) : null;
        if (picture) {
            preview.append(picture);
            preview.hidden = false;
        }
    });
}
