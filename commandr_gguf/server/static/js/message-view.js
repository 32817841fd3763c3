// One message as an element.

import { button, make, speedText } from "./dom.js";
import { CitationMarks, citedDocuments } from "./citations.js";
import { showCalls } from "./calls-view.js";
import { findPassage } from "./conversation.js";
import { showMarkdown } from "./markdown-view.js";

const FINISHES = {
  MAX_TOKENS: "The reply reached the most tokens it may have, or the end of the context.",
  TIMEOUT: "The reply took longer than the server allows.",
  STOPPED: "Stopped.",
};

/** A question. */
export function questionElement(message) {
  const heading = make("h2", { class: "hidden" }, "You");
  return make("article", { class: "user" }, heading, make("div", { dir: "auto" }, message.text));
}

/** A reply, which `update` shows anew while it is written. */
export class ReplyView {
  /**
   * @param {Object} actions what buttons do: openSource(reply, targets, element), regenerate(), giveResults(texts),
   *     copy(reply)
   */
  constructor(conversation, reply, actions) {
    this.conversation = conversation;
    this.reply = reply;
    this.actions = actions;
    this.thoughts = make("div", { dir: "auto" });
    this.details = make("details", { class: "thoughts" }, make("summary", {}, "Thoughts"), this.thoughts);
    this.prose = make("div", { class: "prose" });
    this.after = make("div");
    this.element = make("article", { class: "assistant" }, make("h2", { class: "hidden" }, "Reply"));
    this.element.append(...[this.sent(), this.details, this.prose, this.after].filter(Boolean));
    this.update(false);
  }

  /** Show what the reply holds by now. */
  update(isLast) {
    const { reply } = this;
    this.details.hidden = !reply.plan.trim();
    if (this.thoughts.textContent !== reply.plan) this.thoughts.textContent = reply.plan;
    const marks = new CitationMarks(this.conversation, reply, (numbers, element) => this.open(numbers, element));
    showMarkdown(
      this.prose,
      reply.text,
      (start, end) => marks.nodes(start, end),
      (start, end) => marks.marks(start, end),
    );
    this.element.classList.toggle("writing", reply.finish === null);
    if (reply.finish === null) this.element.setAttribute("aria-busy", "true");
    else this.element.removeAttribute("aria-busy");
    const children = reply.finish === null ? [] : [this.note(), this.sources(), this.buttons(isLast)];
    this.after.replaceChildren(
      ...showCalls(this.conversation, reply, isLast, this.actions),
      ...children.filter(Boolean),
    );
  }

  /** Open the sources of some citations; `only` some of them, when given. */
  open(numbers, element, only = null) {
    const targets = numbers.flatMap((number) => {
      const { start, end, sources } = this.reply.citations[number];
      const wanted = sources.filter((source) => only === null || only.includes(source));
      return wanted.map((source) => ({ source, cited: this.reply.text.slice(start, end) }));
    });
    this.actions.openSource(this.reply, targets, element);
  }

  note() {
    if (this.reply.problem) return make("p", { class: "note problem", role: "alert" }, this.reply.problem);
    const text = FINISHES[this.reply.finish];
    return text ? make("p", { class: "note" }, text) : null;
  }

  /** Which passages it was asked with, when these were not all. */
  sent() {
    const { sent } = this.reply;
    if (!sent) return null;
    const items = sent.ids.map((id) => {
      const found = findPassage(this.conversation, id);
      if (!found) return null;
      const { name, passages } = found.document;
      const { title } = passages[found.index];
      const open = (event) => this.actions.openSource(this.reply, [{ source: id, cited: "" }], event.currentTarget);
      const text = `${title.includes(name) ? title : `${name}: ${title}`} (${found.index + 1})`;
      return make("li", {}, make("button", { type: "button", dir: "auto", on: { click: open } }, text));
    });
    const count = (number) => number.toLocaleString("en");
    return make(
      "details",
      { class: "thoughts sent" },
      make("summary", {}, `Asked with ${count(sent.ids.length)} of ${count(sent.total)} passages`),
      make("p", { class: "fine" }, "Those that share most words with the question: all of them do not fit."),
      make("ul", {}, ...items),
    );
  }

  sources() {
    const documents = citedDocuments(this.conversation, this.reply);
    if (!documents.length) return null;
    const items = documents.map(({ name, sources }, i) => {
      const open = (event) => this.open(this.citing(sources), event.currentTarget, sources);
      return make(
        "li",
        {},
        make("button", { type: "button", on: { click: open } }, make("b", {}, String(i + 1)), name),
      );
    });
    return make("ul", { class: "sources", "aria-label": "Sources" }, ...items);
  }

  /** The numbers of the citations that name one of some sources. */
  citing(sources) {
    const { citations } = this.reply;
    return [...citations.keys()].filter((i) => citations[i].sources.some((source) => sources.includes(source)));
  }

  buttons(isLast) {
    const { reply, actions } = this;
    const row = make("div", { class: "actions" });
    if (reply.text) row.append(button("copy", "Copy", () => actions.copy(reply)));
    if (isLast) row.append(button("again", reply.problem ? "Try again" : "Regenerate", () => actions.regenerate()));
    const stats = [];
    if (reply.usage) stats.push(`${reply.usage.reply} tokens`);
    if (reply.speed) stats.push(speedText(reply.speed));
    if (stats.length) row.append(make("span", { class: "stats" }, stats.join(" · ")));
    return row;
  }
}
