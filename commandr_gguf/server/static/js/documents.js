// Documents on their way into a conversation: chosen, dropped or pasted; and the row that shows them.

import { shownDocuments } from "./conversation.js";
import { button, byId, icon, make } from "./dom.js";
import { droppedFiles } from "./dropped.js";

const LONG = 1200; // characters: a text that is pasted and longer is a document rather than a question
const tooLarge = (name, bytes) =>
  `${name} is larger than the ${Math.floor(bytes / 2 ** 20)} MiB that this server takes.`;
const textDialog = byId("text-dialog");
let reading = []; // names of files that are being read or wait for that
let lastRead = Promise.resolve();

/** Let all ways work. `actions`: add(name, getData), notify(text), maxBytes(). */
export function initDocuments(actions) {
  const addFiles = (files) => [...files].forEach((file) => addFile(actions, file));
  const addText = (title, text) =>
    actions.add(/\.[a-z]+$/i.test(title) ? title : `${title}.md`, async () => new TextEncoder().encode(text));

  byId("add-files").addEventListener("click", () => byId("file-input").click());
  byId("file-input").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  initDrop(addFiles, addText, actions.notify);
  byId("question").addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text/plain");
    // Office programs copy a picture of the text beside it.
    if (event.clipboardData.files.length && !text) addFiles(event.clipboardData.files);
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

function addFile(actions, file) {
  if (file.size > actions.maxBytes()) actions.notify(tooLarge(file.name, actions.maxBytes()));
  else actions.add(file.name, () => file.arrayBuffer());
}

function initDrop(addFiles, addText, notify) {
  const hint = byId("drop-hint");
  const isText = (event) => !event.dataTransfer?.types.includes("Files") && event.dataTransfer?.types.includes("text/plain");
  const isWanted = (event) => event.dataTransfer?.types.includes("Files") || isText(event);
  // Text may be dropped where text is written, too.
  const isForField = (event) => isText(event) && event.target instanceof Element && event.target.matches("textarea, input");
  let depth = 0; // a drag enters every element on its way before it leaves the one before
  addEventListener("dragenter", (event) => {
    if (isWanted(event)) depth += 1;
    hint.hidden = depth === 0;
  });
  addEventListener("dragleave", (event) => {
    if (isWanted(event)) depth = Math.max(0, depth - 1);
    hint.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => {
    if (!isForField(event)) event.preventDefault();
  });
  addEventListener("drop", async (event) => {
    depth = 0;
    hint.hidden = true;
    if (isForField(event)) return;
    event.preventDefault();
    const text = event.dataTransfer.getData("text/plain");
    if (event.dataTransfer.types.includes("Files")) {
      const files = await droppedFiles(event.dataTransfer).catch(() => []);
      if (files.length) addFiles(files);
      else notify("There is no file in it that can be read.");
    } else if (text.trim()) addText("Dropped text", text);
  });
}

/** Whether files are being read. */
export const isReading = () => reading.length > 0;

/** Run `work` when all work before it is done, and show until then that a file is being read. */
export async function whileReading(name, refresh, work) {
  reading.push(name);
  refresh();
  const done = lastRead.then(work);
  lastRead = done.catch(() => {});
  try {
    return await done;
  } finally {
    reading.shift();
    refresh();
  }
}

/**
 * Show the row.
 * @param {number | null} budget tokens of passages that a question is sent with, null when it is sent with all
 * @param {Object} actions open(document, element), remove(document)
 */
export function showDocuments(conversation, budget, actions) {
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
  if (isReading()) {
    const more = reading.length > 1 ? ` and ${reading.length - 1} more` : "";
    items.push(make("li", {}, make("span", { class: "reading", role: "status" }, `Reading ${reading[0]}${more} …`)));
  }
  byId("documents").replaceChildren(...items);
  byId("documents-note").hidden = budget === null;
  byId("documents-note").textContent =
    "More than fits: each question is sent with the passages that share most with it.";
}
