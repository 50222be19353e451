"use strict";
/*
 * Asks before a button of a company's page, or a link, loses what somebody has typed into another form of it.
 */
{
    let leaving = false; // by a form that is saved, or as somebody has agreed to

    function isChanged(control) {
        if (control.type === "hidden" || !control.name) {
            return false;
        }
        if (control.type === "file") {
            return control.files.length > 0;
        }
        if (control.type === "checkbox" || control.type === "radio") {
            return control.checked !== control.defaultChecked;
        }
        return "defaultValue" in control && control.value !== control.defaultValue;
    }

    /* Returns the labels of what was changed, of all forms but the one that is submitted. */
    function unsaved(submitted = null) {
        return [...document.querySelectorAll("#company_form, form.upload")]
            .filter((form) => form !== submitted)
            .flatMap((form) => [...form.elements])
            .filter(isChanged)
            .map((control) => control.labels?.[0]?.textContent.trim().replace(/:$/, "") ?? control.name);
    }

    document.addEventListener("submit", (event) => {
        const lost = unsaved(event.target);
        if (lost.length && !window.confirm(`Not saved yet, and lost if you go on: ${lost.join(", ")}. Go on?`)) {
            event.preventDefault();
            event.stopImmediatePropagation();
            return;
        }
        leaving = true;
    }, { capture: true });

    window.addEventListener("beforeunload", (event) => {
        if (!leaving && unsaved().length) {
            event.preventDefault();
        }
    });

    window.addEventListener("pageshow", () => { leaving = false; });
}
