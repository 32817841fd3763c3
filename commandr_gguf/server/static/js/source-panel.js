// The panel beside the conversation: a document with the passages that a citation names, or what a tool gave.

import { closedByBack } from "./back.js";
import { byId, make } from "./dom.js";
import { findPassage } from "./conversation.js";
import { bestSentence } from "./passages.js";

const panel = byId("source");
const body = byId("source-text");
const covering = matchMedia("(max-width: 34rem)"); // the panel covers all of the page
let targets = []; // of the citation that is shown: {source, cited}
let current = 0;
let opener = null; // gets the focus back
let context = null; // {conversation, reply}
let shownKey = null;
let endBack = null;

/** Let the panel's buttons work. */
export function initSourcePanel() {
  byId("close-source").addEventListener("click", closeSource);
  byId("source-before").addEventListener("click", () => step(-1));
  byId("source-next").addEventListener("click", () => step(1));
  covering.addEventListener("change", () => setOpen(isSourceOpen()));
}

export const isSourceOpen = () => !panel.hidden;

function setOpen(open) {
  const covers = open && covering.matches;
  if (covers !== Boolean(endBack)) {
    endBack?.();
    endBack = covers ? closedByBack(closeSource) : null;
  }
  panel.hidden = !open;
  byId("center").inert = covers;
}

/**
 * Show what citations lead to.
 * @param {{source: string, cited: string}[]} wanted sources, and the text of the reply that was taken from each
 */
export function openSources(conversation, reply, wanted, element) {
  context = { conversation, reply };
  targets = wanted;
  current = 0;
  mark(element);
  show();
}

/** Show a document, none of its passages marked. */
export function openDocument(conversation, shown, element) {
  context = { conversation, reply: null };
  targets = [];
  mark(element);
  showDocument(shown, null);
  byId("source-steps").hidden = true;
  body.scrollTop = 0;
  body.focus();
}

/** Close the panel; the focus goes back to what opened it. */
export function closeSource() {
  if (panel.hidden) return;
  setOpen(false);
  const back = opener;
  mark(null);
  (back?.isConnected ? back : byId("question")).focus();
}

/** Close it without touching the focus, as when another conversation is shown. */
export function dropSource() {
  setOpen(false);
  shownKey = null;
  mark(null);
}

function mark(element) {
  opener?.classList.remove("shown");
  opener = element;
  opener?.classList.add("shown");
}

function step(by) {
  current = (current + by + targets.length) % targets.length;
  show();
}

function show() {
  const { source, cited } = targets[current];
  const found = findPassage(context.conversation, source);
  if (found) showDocument(found.document, { index: found.index, cited });
  else showText("Result of a tool", context.reply.tools[source] ?? "");
  byId("source-steps").hidden = targets.length < 2;
  byId("source-count").textContent = `${current + 1} of ${targets.length}`;
  const place = body.querySelector("mark") ?? body;
  place.scrollIntoView({ block: "center" });
  place.focus({ preventScroll: true });
}

function showText(name, text) {
  byId("source-name").textContent = name;
  body.replaceChildren(make("section", { class: "passage", dir: "auto" }, make("mark", { tabIndex: -1 }, text)));
  setOpen(true);
  shownKey = null;
}

function showDocument(shown, place) {
  byId("source-name").textContent = shown.name;
  const key = `${context.conversation.id} ${shown.id}`;
  if (shownKey !== key) {
    let above = shown.name;
    const sections = shown.passages.map(({ title, text }) => {
      const heading = title === above || text.startsWith(title) ? null : make("h3", { dir: "auto" }, title);
      above = title;
      return make("section", { dir: "auto" }, heading, make("div", {}, text));
    });
    body.replaceChildren(...sections);
    shownKey = key;
  }
  for (const old of body.querySelectorAll("section.passage")) {
    old.classList.remove("passage");
    const text = old.lastElementChild;
    text.textContent = text.textContent;
  }
  setOpen(true);
  if (place) markPassage(shown.passages[place.index].text, place);
}

function markPassage(text, { index, cited }) {
  const [start, end] = bestSentence(text, cited);
  const section = body.children[index];
  section.classList.add("passage");
  const marked = make("mark", { tabIndex: -1 }, text.slice(start, end));
  section.lastElementChild.replaceChildren(text.slice(0, start), marked, text.slice(end));
}
