// Which passages of the documents a question is sent with: all of them where they fit the context, or those that fit
// the question best.

import { shownPassages } from "./conversation.js";
import { countWords, scoresOf, wordsOf } from "./ranking.js";

const MOST = 6000; // tokens of chosen passages, unless the settings say else: more takes long to read on a small machine
const AROUND = 24; // tokens that the prompt puts around a passage
const EARLIER = 0.5; // what a word of the question before counts: "who designed it?" leans on it

const known = new WeakMap(); // passage -> its words

/**
 * @param {{n_ctx: number, max_documents: number} | null} limits of the server; null as long as they are not known
 * @param {Object} settings see settings.js
 * @returns {{passages: {id: string, passage: Object}[], total: number}} in the documents' order; how many there are
 */
export function choosePassages(conversation, limits, settings) {
  const all = shownPassages(conversation);
  const budget = budgetOf(conversation, limits, settings, all);
  const passages = budget === null ? all : bestOf(all, questionsOf(conversation), budget, limits.max_documents);
  return { passages, total: all.length };
}

/** The tokens that passages may take where not all of them are sent, null where all are. */
export function passageBudget(conversation, limits, settings) {
  return budgetOf(conversation, limits, settings, shownPassages(conversation));
}

function budgetOf(conversation, limits, settings, all) {
  if (!limits) return null;
  const { n_ctx: context, max_documents: mostDocuments } = limits;
  const total = all.reduce((sum, { passage }) => sum + costOf(passage), 0);
  const forReply = Math.min(settings.maxTokens ?? Infinity, context / 4);
  const forTemplate = Math.min(512, context / 8);
  const room = Math.floor(context - forReply - forTemplate - tokensSaid(conversation, settings));
  const most = settings.documentTokens ?? room;
  if (total <= Math.min(room, most) && all.length <= mostDocuments) return null;
  return Math.min(room, settings.documentTokens ?? Math.min(MOST, Math.floor(context / 2)));
}

const costOf = (passage) => (passage.n_tokens ?? Math.ceil(passage.text.length / 3)) + AROUND;

/** About how many tokens all but the documents has; how long a token is, the documents tell. */
function tokensSaid(conversation, settings) {
  const passages = conversation.documents.flatMap((one) => one.passages);
  const characters = passages.reduce((sum, { text }) => sum + text.length, 0);
  const tokens = passages.reduce((sum, passage) => sum + costOf(passage), 0);
  const said = [settings.preamble, settings.tools ? JSON.stringify(settings.tools) : ""];
  for (const { text, calls = [] } of conversation.messages) said.push(text, ...calls.map((call) => call.arguments));
  return Math.ceil((said.join("").length * tokens) / (characters || 1));
}

function questionsOf(conversation) {
  const [last = "", before = ""] = conversation.messages
    .filter((message) => message.role === "user")
    .map((message) => message.text)
    .reverse();
  const wanted = new Map(wordsOf(before).map((word) => [word, EARLIER]));
  for (const word of wordsOf(last)) wanted.set(word, 1);
  return wanted;
}

/** The best first as long as they fit the budget, one in any case; where nothing fits the question, the first ones. */
function bestOf(all, wanted, budget, most) {
  const scores = scoresOf(
    wanted,
    all.map(({ passage }) => countsOf(passage)),
  );
  const order = [...all.keys()].sort((a, b) => scores[b] - scores[a] || a - b);
  const chosen = new Set();
  let left = budget;
  for (const i of order) {
    const cost = costOf(all[i].passage);
    if (chosen.size > 0 && (cost > left || chosen.size === most)) continue;
    chosen.add(i);
    left -= cost;
  }
  return all.filter((_, i) => chosen.has(i));
}

function countsOf(passage) {
  if (!known.has(passage)) known.set(passage, countWords(`${passage.title}\n${passage.text}`));
  return known.get(passage);
}
