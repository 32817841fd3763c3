// A sentence for a few seconds, with something that may be done about it.

import { byId, make } from "./dom.js";

let timer = 0;

/** Show a text; `action` is {label, run}. */
export function toast(text, action = null) {
  const place = byId("toast");
  const hide = () => place.replaceChildren();
  place.replaceChildren(make("span", { dir: "auto" }, text));
  if (action) {
    const run = () => {
      hide();
      action.run();
    };
    place.append(make("button", { type: "button", on: { click: run } }, action.label));
  }
  clearTimeout(timer);
  timer = setTimeout(hide, action ? 8000 : 5000);
}
