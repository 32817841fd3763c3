// Before anything is painted: the colors that were chosen, or else the system's. No module, since modules run later.
"use strict";
document.documentElement.dataset.theme =
  localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
