// A reply's tool calls, and the fields for what the tools gave.

import { icon, make } from "./dom.js";

/**
 * The elements of a reply's calls; the last reply's have a form when no results are there yet.
 * @param {Object} actions giveResults(texts), one text for each call
 */
export function showCalls(conversation, reply, isLast, actions) {
  if (!reply.calls.length) return [];
  const results = new Map();
  for (const message of conversation.messages) if (message.role === "tool") results.set(message.call, message.text);
  const isOpen = isLast && reply.finish === "TOOL_CALL" && !results.has(reply.calls[0].id);
  const cards = reply.calls.map((call) => callElement(call, results.get(call.id), isOpen));
  if (!isOpen) return cards;
  const form = make("form", { class: "results-form" }, ...cards);
  form.append(
    make("div", { class: "dialog-row" }, make("button", { type: "submit", class: "strong" }, "Send results")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    actions.giveResults([...form.querySelectorAll("textarea")].map((field) => field.value));
  });
  return [form];
}

function callElement(call, result, isOpen) {
  const card = make("div", { class: "call", role: "group", "aria-label": `Tool call ${call.name}` });
  card.append(make("div", { class: "call-head" }, icon("tool"), call.name), argumentList(call.arguments));
  if (result !== undefined) card.append(make("div", { class: "result", dir: "auto" }, result));
  if (isOpen)
    card.append(
      make("label", {}, "What the tool gives back", make("textarea", { rows: 2, dir: "auto", required: true })),
    );
  return card;
}

function argumentList(text) {
  const list = make("dl");
  for (const [name, value] of entriesOf(text)) {
    list.append(make("dt", {}, name), make("dd", {}, typeof value === "string" ? value : JSON.stringify(value)));
  }
  return list;
}

function entriesOf(text) {
  try {
    return Object.entries(JSON.parse(text || "{}"));
  } catch {
    return [["", text]]; // not complete yet
  }
}
