/* The pages of a company's pictures: placeholders for what is gone, choosing several, a look at what is to replace. */

import { draw } from "./preview.js";

const RETRY = 5000; // milliseconds: the server may have been busy with large pictures

/* Shows a placeholder where there is no picture, and the picture if it comes after all. */
function mind(image) {
    const fail = () => {
        image.closest(".frame")?.classList.add("is-gone");
        if (!("retried" in image.dataset)) {
            image.dataset.retried = "";
            window.setTimeout(() => {
                image.loading = "eager"; // a hidden one is loaded by nothing else
                image.src = image.src;
            }, RETRY);
        }
    };
    image.addEventListener("error", fail);
    image.addEventListener("load", () => image.closest(".frame")?.classList.remove("is-gone"));
    if (image.complete && image.naturalWidth === 0) { // a lazy one that was not asked for yet is not complete
        fail(); // before this was loaded
    }
}

document.querySelectorAll("[data-thumbnail]").forEach(mind);

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
