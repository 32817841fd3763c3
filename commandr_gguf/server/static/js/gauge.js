// Speed of the last reply, and how much of the context the conversation takes.

import { byId, speedText } from "./dom.js";
import { shownDocuments } from "./conversation.js";

const count = (number) => number.toLocaleString("en");

/**
 * Show both for a conversation.
 * @param {number | null} total the context's length, null as long as it is not known
 * @param {number | null} budget tokens of passages that a question is sent with, null when it is sent with all
 */
export function showGauge(conversation, total, budget) {
  const last = conversation.messages.findLast((message) => message.usage);
  const documents = shownDocuments(conversation).reduce((sum, one) => sum + one.tokens, 0);
  const used = Math.max(last ? last.usage.prompt + last.usage.reply : 0, budget === null ? documents : 0);
  byId("gauge").hidden = total === null || used === 0;
  if (total === null) return;
  byId("speed").textContent = last?.speed ? speedText(last.speed) : "";
  const text = `${count(used)} of ${count(total)} tokens`;
  const meter = byId("context");
  meter.setAttribute("aria-valuemax", total);
  meter.setAttribute("aria-valuenow", Math.min(used, total));
  meter.setAttribute("aria-valuetext", text);
  meter.title = `Context: ${text}`;
  meter.classList.toggle("full", used > 0.9 * total);
  meter.firstElementChild.style.width = `${Math.min(100, (100 * used) / total)}%`;
  byId("context-text").textContent = `${count(used)} / ${count(total)}`;
}
