"use strict";
/*
 * Keeps what a build changes up to date without a reload: elements with data-fragment are replaced by what the
 * page's data-live-url answers, every two seconds while a build is active and the tab is seen. Where there is no such
 * answer, the page's element of that data-contact says so: "lost" (it tries on), "refused" or "gone" (it does not).
 */
{
    const EVERY = 2000; // milliseconds
    const AT_MOST_EVERY = 60000; // after errors, each of which doubles the pause
    const PATIENCE = 30000; // for an answer

    const live = document.querySelector("[data-live-url]");
    const states = new Map(); // company -> "acme: running", as last announced
    let timer = null;
    let errors = 0; // since the last answer

    const activeRows = new Set(); // companies of a list that are known to be active

    function listed() {
        return new Set([...document.querySelectorAll("[data-fragment][data-company]")].map((cell) => cell.dataset.company));
    }

    function address(everything) {
        const url = new URL(live.dataset.liveUrl, window.location.href);
        if ("liveList" in live.dataset) {
            for (const id of everything ? listed() : activeRows) {
                url.searchParams.append("id", id);
            }
        }
        return url;
    }

    function replaceFragment(name, html) {
        const old = document.querySelector(`[data-fragment="${CSS.escape(name)}"]`);
        if (!old) {
            return;
        }
        const fresh = old.cloneNode(false);
        fresh.innerHTML = html; // ours: rendered and escaped by the server
        for (const open of old.querySelectorAll("details[open][id]")) {
            fresh.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
        }
        if (fresh.isEqualNode(old)) {
            return;
        }
        const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
        old.replaceChildren(...fresh.childNodes);
        if (focused) {
            (document.getElementById(focused) ?? old.querySelector("button, a"))?.focus();
        }
    }

    function announce(answer) {
        const changed = [];
        for (const [company, state] of Object.entries(answer.states)) {
            if (states.has(company) && states.get(company) !== state) {
                changed.push(state);
            }
            states.set(company, state);
        }
        if (changed.length) {
            document.querySelector("[data-announcements]").textContent = changed.join(", ");
        }
    }

    function tell(contact) {
        for (const notice of document.querySelectorAll("[data-contact]")) {
            const shown = notice.dataset.contact === contact;
            if (shown && notice.hidden) {
                document.querySelector("[data-announcements]").textContent = notice.textContent;
            }
            notice.hidden = !shown;
        }
    }

    /* Returns "", "refused" or "gone"; throws where there is no answer of ours. */
    async function update(everything) {
        const response = await fetch(address(everything), {
            headers: { Accept: "application/json" },
            signal: AbortSignal.timeout(PATIENCE),
        });
        if (response.redirected || response.status === 401 || response.status === 403) { // to the login
            return "refused";
        }
        if (response.status === 404) {
            return "gone";
        }
        if (!response.ok) {
            throw new Error(`status ${response.status}`);
        }
        const answer = await response.json();
        for (const [name, html] of Object.entries(answer.fragments)) {
            replaceFragment(name, html);
        }
        announce(answer);
        activeRows.clear();
        answer.active.forEach((company) => activeRows.add(String(company)));
        return "";
    }

    function later(delay, options) {
        window.clearTimeout(timer);
        timer = document.hidden ? null : window.setTimeout(follow, delay, options);
    }

    async function follow({ everything = false } = {}) {
        let contact = "lost";
        try {
            contact = await update(everything);
            errors = 0;
        } catch {
            errors += 1;
            later(Math.min(EVERY * 2 ** errors, AT_MOST_EVERY), { everything: true }); // one may have ended meanwhile
        }
        tell(contact);
        if (!contact && activeRows.size) {
            later(EVERY);
        }
    }

    if (live && (!("liveList" in live.dataset) || listed().size)) {
        document.addEventListener("visibilitychange", () => {
            if (document.hidden) {
                window.clearTimeout(timer);
            } else {
                follow({ everything: true });
            }
        });
        document.addEventListener("pictures-uploaded", () => follow({ everything: true })); // a build is queued
        follow({ everything: true });
    }

    for (const place of document.querySelectorAll("[data-found-url]")) {
        place.textContent = "counting pictures...";
        fetch(place.dataset.foundUrl, { headers: { Accept: "application/json" } })
            .then((response) => (response.ok ? response.json() : Promise.reject(response)))
            .then((answer) => { place.textContent = answer.text; })
            .catch(() => { place.textContent = "The pictures could not be counted."; });
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest("[data-confirm]");
        if (button && !window.confirm(button.dataset.confirm)) {
            event.preventDefault();
        }
    });
}
