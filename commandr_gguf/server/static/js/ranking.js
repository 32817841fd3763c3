// How well texts fit a question: Okapi BM25 with its usual constants, over words as Unicode divides text.

const SATURATION = 1.2; // k1: how soon a word that stands there often counts no more
const LENGTH = 0.75; // b: how much long texts are held back

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });

/** The words of a text, in small letters. */
export function wordsOf(text) {
  const words = [];
  for (const { segment, isWordLike } of segmenter.segment(text.normalize("NFKC").toLowerCase()))
    if (isWordLike) words.push(segment);
  return words;
}

/** What the ranking needs to know of a text: how often each word stands in it, and how many words it has. */
export function countWords(text) {
  const words = wordsOf(text);
  const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return { counts, length: words.length };
}

/**
 * How well each text fits.
 * @param {Map<string, number>} wanted words, and how much each counts
 * @param {{counts: Map<string, number>, length: number}[]} texts as `countWords` gives them
 * @returns {number[]} 0 for a text that has none of the words
 */
export function scoresOf(wanted, texts) {
  const meanLength = texts.reduce((sum, { length }) => sum + length, 0) / texts.length || 1;
  const scores = texts.map(() => 0);
  for (const [word, weight] of wanted) {
    const among = texts.filter(({ counts }) => counts.has(word)).length;
    const rarity = Math.log(1 + (texts.length - among + 0.5) / (among + 0.5));
    texts.forEach(({ counts, length }, i) => {
      const count = counts.get(word) ?? 0;
      const long = 1 - LENGTH + (LENGTH * length) / meanLength;
      scores[i] += (weight * rarity * count * (SATURATION + 1)) / (count + SATURATION * long);
    });
  }
  return scores;
}
