// Which sentence of a passage a cited text was taken from. A citation names the passage; this is for the reader's eye.

import { wordsOf } from "./ranking.js";

const segmenter = new Intl.Segmenter(undefined, { granularity: "sentence" });

/**
 * The sentence that shares most with a cited text, rare words counting more than those in every sentence.
 * @returns {[number, number]} its start and end in the passage; all of the passage when nothing is shared
 */
export function bestSentence(passage, cited) {
  const sentences = [...segmenter.segment(passage)].map(({ index, segment }) => {
    const start = index + segment.length - segment.trimStart().length;
    return { start, end: index + segment.trimEnd().length, words: new Set(wordsOf(segment)) };
  });
  const wanted = new Set(wordsOf(cited));
  const weight = new Map();
  for (const word of wanted) {
    const among = sentences.filter((sentence) => sentence.words.has(word)).length;
    weight.set(word, Math.log(1 + sentences.length / (among || 1)));
  }
  let best = [0, passage.length];
  let most = 0;
  for (const { start, end, words } of sentences) {
    let score = 0;
    for (const word of wanted) if (words.has(word)) score += weight.get(word);
    if (score > most) {
      most = score;
      best = [start, end];
    }
  }
  return best;
}
