// The citations of a reply: which pieces of its text are cited, and as what they are shown.

import { make } from "./dom.js";
import { findPassage } from "./conversation.js";

/**
 * The sources of a reply in the order in which they are first cited, each document once.
 * @returns {{id: string, name: string, sources: string[]}[]} `id` of the document or the tool's result
 */
export function citedDocuments(conversation, reply) {
  const found = new Map();
  for (const source of reply.citations.flatMap((citation) => citation.sources)) {
    const passage = findPassage(conversation, source);
    const id = passage?.document.id ?? source;
    if (!found.has(id)) found.set(id, { id, name: passage?.document.name ?? toolName(source), sources: [] });
    const { sources } = found.get(id);
    if (!sources.includes(source)) sources.push(source);
  }
  return [...found.values()];
}

const toolName = (source) => `Result of ${source.replace(/_[0-9a-f]{12}(:\d+)?$/, "")}`;

/** Makes the text nodes and cited spans of one reply, see `showMarkdown`. */
export class CitationMarks {
  /** @param {(numbers: number[], element: Element) => void} open what a click on citations does */
  constructor(conversation, reply, open) {
    this.reply = reply;
    this.open = open;
    this.documents = citedDocuments(conversation, reply);
    this.conversation = conversation;
  }

  /** What the spans in [start, end) depend on, beside the text. */
  marks(start, end) {
    const numbers = this.over(start, end);
    return numbers.map((number) => JSON.stringify([number, this.reply.citations[number]])).join();
  }

  /** The numbers of the citations that touch [start, end). */
  over(start, end) {
    const numbers = this.reply.citations.keys();
    return [...numbers].filter((i) => this.reply.citations[i].start < end && this.reply.citations[i].end > start);
  }

  /** The nodes of a piece of text. */
  nodes(start, end) {
    const numbers = this.over(start, end);
    const cuts = new Set([start, end]);
    for (const number of numbers) {
      for (const cut of [this.reply.citations[number].start, this.reply.citations[number].end]) {
        if (cut > start && cut < end) cuts.add(cut);
      }
    }
    const places = [...cuts].sort((a, b) => a - b);
    return places.slice(1).map((to, i) => this.piece(places[i], to, numbers));
  }

  piece(start, end, candidates) {
    const text = this.reply.text.slice(start, end);
    const numbers = candidates.filter(
      (i) => this.reply.citations[i].start < end && this.reply.citations[i].end > start,
    );
    if (!numbers.length) return document.createTextNode(text);
    const cited = numbers.map((i) => this.reply.citations[i]);
    const isFirst = cited.some((citation) => citation.start === start);
    const documents = this.documentsOf(numbers);
    const span = make("span", {
      class: "cited",
      role: "button",
      tabIndex: isFirst ? 0 : -1, // a citation that is cut, as by bold type, is one stop of the keyboard
      "aria-label": `${text}, source: ${documents.map((one) => one.name).join(", ")}`,
      "data-citations": numbers.join(" "),
    });
    span.append(text);
    if (cited.some((citation) => citation.end === end)) {
      const shown = documents.map((one) => this.documents.indexOf(one) + 1).join(",");
      span.append(make("sup", { "aria-hidden": "true" }, shown));
    }
    span.addEventListener("click", () => this.open(numbers, span));
    span.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.open(numbers, span);
    });
    return span;
  }

  documentsOf(numbers) {
    const sources = new Set(numbers.flatMap((number) => this.reply.citations[number].sources));
    return this.documents.filter((one) => one.sources.some((source) => sources.has(source)));
  }
}
