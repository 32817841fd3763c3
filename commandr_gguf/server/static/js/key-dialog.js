// Asking for the key, when the server wants one.

import { byId } from "./dom.js";
import { getKey, setKey } from "./api.js";

const dialog = byId("key-dialog");
const form = dialog.querySelector("form");

/** Ask for a key; resolves when one was given, to false when the dialog was dismissed. */
export function askForKey() {
  const problem = getKey() ? "This is not the server's key." : "";
  byId("key-error").textContent = problem;
  byId("key-error").hidden = !problem;
  form.elements.key.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      setKey(form.elements.key.value.trim());
      dialog.close("given");
    };
    dialog.onclose = () => resolve(dialog.returnValue === "given");
    dialog.returnValue = "";
  });
}
