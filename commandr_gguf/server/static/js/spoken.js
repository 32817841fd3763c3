// What a screen reader says of a reply that is being written: whole sentences, each once. The reply itself is no live
// region, since its elements are replaced while it grows.

import { byId, make } from "./dom.js";

const place = byId("spoken");
const END = /[.!?…。！？؟]["'”’)\]]*\s|\n/g;
let said = 0;

/** A new reply begins. */
export function beginSpeaking() {
  said = 0;
  place.replaceChildren();
}

/** Say the sentences of a reply that are complete; all the rest, too, when it has ended. */
export function speak(reply) {
  let end = said;
  END.lastIndex = said;
  while (END.exec(reply.text)) end = END.lastIndex;
  if (reply.finish !== null) end = reply.text.length;
  const text = reply.text.slice(said, end).trim();
  said = end;
  if (text) say(text);
  if (reply.finish === null) return;
  const parts = [];
  if (reply.calls.length) parts.push(`The model calls ${reply.calls.map((call) => call.name).join(", ")}.`);
  if (reply.finish === "STOPPED") parts.push("Stopped.");
  if (reply.citations.length) parts.push(`${reply.citations.length} cited passages.`);
  if (parts.length) say(parts.join(" "));
}

function say(text) {
  place.append(make("p", { dir: "auto" }, text));
}
