// Documents on their way into a conversation: chosen, dropped or pasted; and the row that shows them.

import { button, byId, icon, make } from "./dom.js";
import { shownDocuments } from "./conversation.js";

const LONG = 1200; // characters: a text that is pasted and longer is a document rather than a question
const tooLarge = (name, bytes) =>
  `${name} is larger than the ${Math.floor(bytes / 2 ** 20)} MiB that this server takes.`;
const textDialog = byId("text-dialog");
let reading = []; // names of files that the server reads at the moment

/** Let all ways work. `actions`: add(name, data), notify(text), maxBytes(). */
export function initDocuments(actions) {
  const addFiles = (files) => [...files].forEach((file) => addFile(actions, file));
  const addText = (title, text) =>
    actions.add(/\.[a-z]+$/i.test(title) ? title : `${title}.md`, new TextEncoder().encode(text));

  byId("add-files").addEventListener("click", () => byId("file-input").click());
  byId("file-input").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  initDrop(addFiles, addText);
  byId("question").addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text/plain");
    if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
    else if (text.length > LONG) addText("Pasted text", text);
    else return;
    event.preventDefault();
  });
  byId("add-text").addEventListener("click", () => textDialog.showModal());
  const form = textDialog.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    addText(form.elements.title.value.trim() || "Pasted text", form.elements.text.value);
    form.reset();
    textDialog.close();
    byId("question").focus();
  });
}

async function addFile(actions, file) {
  if (file.size > actions.maxBytes()) actions.notify(tooLarge(file.name, actions.maxBytes()));
  else actions.add(file.name, await file.arrayBuffer());
}

function initDrop(addFiles, addText) {
  const hint = byId("drop-hint");
  const isWanted = (event) => ["Files", "text/plain"].some((type) => event.dataTransfer?.types.includes(type));
  let depth = 0; // a drag enters every element on its way before it leaves the one before
  addEventListener("dragenter", (event) => {
    if (isWanted(event)) depth += 1;
    hint.hidden = depth === 0;
  });
  addEventListener("dragleave", (event) => {
    if (isWanted(event)) depth = Math.max(0, depth - 1);
    hint.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    hint.hidden = true;
    const text = event.dataTransfer.getData("text/plain");
    if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
    else if (text.trim()) addText("Dropped text", text);
  });
}

/** While `work` runs, show that a file is being read. */
export async function whileReading(name, refresh, work) {
  reading.push(name);
  refresh();
  try {
    return await work();
  } finally {
    reading = reading.filter((other, i) => i !== reading.indexOf(name));
    refresh();
  }
}

/** Show the row. `actions`: open(document, element), remove(document). */
export function showDocuments(conversation, actions) {
  const items = shownDocuments(conversation).map((one) => {
    const tokens = `${one.tokens.toLocaleString("en")} tokens`;
    const open = (event) => actions.open(one, event.currentTarget);
    const name = make("button", { type: "button", class: "name", title: one.name, on: { click: open } });
    name.append(icon("file"), make("span", { dir: "auto" }, one.name), make("small", {}, tokens));
    return make(
      "li",
      {},
      name,
      button("close", `Remove ${one.name}`, () => actions.remove(one), { shown: false }),
    );
  });
  const waiting = reading.map((name) =>
    make("li", {}, make("span", { class: "reading", role: "status" }, `Reading ${name} …`)),
  );
  byId("documents").replaceChildren(...items, ...waiting);
}
