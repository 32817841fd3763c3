// A conversation as a file.

import { make } from "./dom.js";
import { citedDocuments } from "./citations.js";

/** As Markdown, citations as footnotes of their sentences. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  const notes = [];
  for (const message of conversation.messages) {
    if (message.role === "user") parts.push(`## You\n\n${message.text}`);
    else if (message.role === "tool") parts.push(`## Result of a tool\n\n${fenced(message.text)}`);
    else parts.push(`## Reply\n\n${replyText(conversation, message, notes)}`);
  }
  return `${[...parts, notes.join("\n")].filter(Boolean).join("\n\n")}\n`;
}

function replyText(conversation, reply, notes) {
  const documents = citedDocuments(conversation, reply);
  const footnotes = documents.map(({ name }) => notes.push(`[^${notes.length + 1}]: ${name}`));
  const inserts = reply.citations.map(({ end, sources }) => {
    const found = documents.flatMap((one, i) =>
      one.sources.some((source) => sources.includes(source)) ? [footnotes[i]] : [],
    );
    return { end, text: found.map((number) => `[^${number}]`).join("") };
  });
  let { text } = reply;
  for (const { end, text: note } of inserts.sort((a, b) => b.end - a.end))
    text = text.slice(0, end) + note + text.slice(end);
  const calls = reply.calls.map((call) => fenced(`${call.name}(${call.arguments})`));
  return [text, ...calls].filter(Boolean).join("\n\n");
}

function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

/** As JSON: all that is kept, documents included. */
export const toJson = (conversation) =>
  `${JSON.stringify({ format: "commandr-conversation", version: 1, ...conversation }, null, 2)}\n`;

/** Let the browser save a text. */
export function download(conversation, ending, type, text) {
  const stem = (conversation.title || "conversation")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 60);
  const href = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href, download: `${stem || "conversation"}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}
