"use strict";
/* Swagger's dark theme for readers whose system is dark: it hangs on a class, and not on what the system prefers. */
{
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
    dark.addEventListener("change", follow);
    follow();
}
