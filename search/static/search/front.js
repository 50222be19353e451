// Copies the command beside a button; browsers allow that on https and on this machine alone.

for (const button of document.querySelectorAll("[data-copy]")) {
    const row = button.parentElement;
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
        const said = row.querySelector("[role=status]");
        try {
            await navigator.clipboard.writeText(row.querySelector("code").textContent);
            button.textContent = said.textContent = "Copied";
        } catch {
            said.textContent = "The browser did not allow copying";
            getSelection().selectAllChildren(row.querySelector("code"));
        }
    });
}
