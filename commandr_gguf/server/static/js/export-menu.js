// The menu that exports the conversation.

import { byId } from "./dom.js";
import { download, toJson, toMarkdown } from "./exporting.js";

const menu = byId("export");

/** Let it work; `current()` is the conversation. */
export function initExport(current) {
  const exportAs = (ending, type, make) => {
    closeExport();
    download(current(), ending, type, make(current()));
  };
  byId("export-markdown").addEventListener("click", () => exportAs("md", "text/markdown", toMarkdown));
  byId("export-json").addEventListener("click", () => exportAs("json", "application/json", toJson));
  for (const type of ["pointerdown", "focusin"]) {
    addEventListener(type, (event) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
  }
}

export const isExportOpen = () => menu.open;

/** Close it; the focus goes back to what opens it. */
export function closeExport() {
  menu.open = false;
  menu.firstElementChild.focus();
}
