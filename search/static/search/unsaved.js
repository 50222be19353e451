"use strict";
/*
 * Asks before a button of a company's page, or a link, loses what somebody has typed into its settings or has chosen
 * to upload.
 */
{
    let leaving = false; // by a form that is saved, or as somebody has agreed to

    function isChanged(control) {
        if (control.type === "file") {
            return control.files.length > 0;
        }
        if (control.type === "checkbox" || control.type === "radio") {
            return control.checked !== control.defaultChecked;
        }
        return control.type !== "hidden" && "defaultValue" in control && control.value !== control.defaultValue;
    }

    function name(control) {
        return control.ariaLabel ?? control.labels?.[0]?.textContent.trim().replace(/:$/, "") ?? control.name;
    }

    /* Returns the names of what was changed, of all forms but the one that is submitted. */
    function unsaved(submitted = null) {
        return [...document.querySelectorAll("#company_form :is(input, textarea), form.upload input[type=file]")]
            .filter((control) => control.form !== submitted && isChanged(control))
            .map(name);
    }

    // After all other scripts: a form that one of them sends leaves the page as it is.
    window.addEventListener("submit", (event) => {
        if (event.defaultPrevented) {
            return;
        }
        const lost = unsaved(event.target);
        leaving = !lost.length || window.confirm(`Not saved yet, and lost if you go on: ${lost.join(", ")}. Go on?`);
        if (!leaving) {
            event.preventDefault();
        }
    });

    window.addEventListener("beforeunload", (event) => {
        if (!leaving && unsaved().length) {
            event.preventDefault();
        }
    });

    window.addEventListener("pageshow", () => { leaving = false; });
}
