// Light and dark: the system's choice until the switch is used.

import { byId } from "./dom.js";

const system = matchMedia("(prefers-color-scheme: dark)");

function show(theme) {
  document.documentElement.dataset.theme = theme;
  byId("switch-theme").setAttribute("aria-label", theme === "dark" ? "Use light colors" : "Use dark colors");
}

/** Let the switch work. */
export function initTheme() {
  show(document.documentElement.dataset.theme);
  byId("switch-theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    show(theme);
  });
  system.addEventListener("change", () => {
    if (!localStorage.getItem("theme")) show(system.matches ? "dark" : "light");
  });
}
