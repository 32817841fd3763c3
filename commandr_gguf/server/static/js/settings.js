// Parameters of requests, kept in the browser, and the dialog for them.

import { byId } from "./dom.js";
import { getKey, setKey } from "./api.js";
import { toast } from "./toast.js";

const DEFAULTS = {
  preamble: "",
  temperature: "",
  topP: "",
  maxTokens: "",
  seed: "",
  documentTokens: "",
  citations: "ACCURATE",
  tools: "",
};
const dialog = byId("settings");
const form = dialog.querySelector("form");

function load() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem("settings") ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

/** What requests say: null for a number that is left to the server. */
export function currentSettings() {
  const { preamble, citations, tools, ...numbers } = load();
  const parsed = Object.fromEntries(
    Object.entries(numbers).map(([name, text]) => [name, text === "" ? null : Number(text)]),
  );
  return { preamble, citations, tools: tools.trim() ? JSON.parse(tools) : null, ...parsed };
}

/** Let the dialog work; changed() is called after it, keyChanged() when another key was given. */
export function initSettings({ changed, keyChanged }) {
  byId("open-settings").addEventListener("click", open);
  byId("reset-settings").addEventListener("click", () => fill(DEFAULTS));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const problem = toolsProblem(form.elements.tools.value);
    byId("tools-error").hidden = !problem;
    byId("tools-error").textContent = problem;
    if (problem) form.elements.tools.focus();
    else dialog.close("done");
  });
  // However it is closed, what is valid in it counts: there is nothing to lose by that.
  dialog.addEventListener("close", () => {
    const values = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, form.elements[name].value]));
    const old = load();
    for (const input of form.querySelectorAll("input"))
      if (!input.checkValidity()) values[input.name] = old[input.name];
    if (toolsProblem(values.tools)) values.tools = old.tools;
    try {
      localStorage.setItem("settings", JSON.stringify(values));
    } catch {
      toast("The browser does not let this page keep settings.");
    }
    if (form.elements.key.value !== getKey()) {
      setKey(form.elements.key.value);
      keyChanged();
    }
    changed();
  });
}

/** Show what the server does by itself. */
export function showDefaults(props) {
  form.elements.temperature.placeholder = String(Number(props.sampling.temperature.toPrecision(3)));
  form.elements.topP.placeholder = String(Number(props.sampling.top_p.toPrecision(3)));
  form.elements.maxTokens.placeholder = props.max_tokens ?? "no limit";
}

function open() {
  fill(load());
  form.elements.key.value = getKey();
  byId("tools-error").hidden = true;
  dialog.showModal();
  dialog.scrollTop = 0;
}

function fill(values) {
  for (const name of Object.keys(DEFAULTS)) form.elements[name].value = values[name];
}

function toolsProblem(text) {
  if (!text.trim()) return "";
  try {
    const tools = JSON.parse(text);
    return Array.isArray(tools) && tools.length ? "" : "The tools must be a JSON list that is not empty.";
  } catch (error) {
    return `The tools are not valid JSON: ${error.message}`;
  }
}
