// Markdown within a line, to a tree. A text leaf knows where in the source it stands, so that citations find it.
//
// node: {type: "text", start, end} | {type: "code" | "strong" | "em" | "del" | "link", children, href}

const DEEPEST = 6;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;
const LINK = /\[([^[\]\n]*)\]\((https?:\/\/[^\s()<>]+(?:\([^\s()<>]*\)[^\s()<>]*)*)\)/y;
const ADDRESS = /https?:\/\/[^\s<>"]+/y;
const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

/** The nodes of source[start, end). */
export function parseInline(source, start, end, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that were looked for and not found: none stands further on either
  let from = start;
  let at = start;
  const flush = () => {
    if (at > from) nodes.push({ type: "text", start: from, end: at });
  };
  const put = (node, next) => {
    flush();
    if (node) nodes.push(node);
    from = at = next;
  };

  while (at < end) {
    const character = source[at];
    if (character === "\\" && at + 1 < end && PUNCTUATION.test(source[at + 1])) {
      put(null, at + 1);
      at += 1;
    } else if (character === "`") {
      const found = codeAt(source, at, end, missing);
      if (found) put(found.node, found.next);
      else while (source[at] === "`" && at < end) at++;
    } else {
      const found = depth < DEEPEST && (markedAt(source, at, end, depth, missing) ?? linkAt(source, at, end, depth));
      if (found) put(found.node, found.next);
      else at++;
    }
  }
  flush();
  return nodes;
}

function codeAt(source, at, end, missing) {
  let inside = at;
  while (inside < end && source[inside] === "`") inside++;
  const mark = source.slice(at, inside);
  if (missing.has(mark)) return null;
  for (let close = source.indexOf(mark, inside); close !== -1 && close < end;) {
    let after = close;
    while (source[after] === "`") after++;
    if (after - close === mark.length) {
      return { node: { type: "code", children: [{ type: "text", start: inside, end: close }] }, next: after };
    }
    close = source.indexOf(mark, after);
  }
  missing.add(mark);
  return null;
}

function markedAt(source, at, end, depth, missing) {
  for (const [mark, type] of MARKS) {
    if (!source.startsWith(mark, at) || missing.has(mark)) continue;
    const inside = at + mark.length;
    if (inside >= end || /\s/.test(source[inside])) continue;
    if (mark[0] === "_" && at > 0 && WORD.test(source[at - 1])) continue;
    const close = closing(source, mark, inside, end);
    if (close === -1) missing.add(mark);
    else return { node: { type, children: parseInline(source, inside, close, depth + 1) }, next: close + mark.length };
  }
  return null;
}

function closing(source, mark, inside, end) {
  for (let at = source.indexOf(mark, inside + 1); at !== -1 && at + mark.length <= end;) {
    // Of three in a row the last two close what is strong, and the first what is emphasized in it.
    if (mark === "**" && source[at + 2] === "*" && at + 3 <= end) at += 1;
    const after = at + mark.length;
    const isDouble = mark.length === 1 && ((after < end && source[after] === mark) || source[at - 1] === mark);
    const isWord = mark[0] === "_" && after < end && WORD.test(source[after]);
    if (!/\s/.test(source[at - 1]) && source[at - 1] !== "\\" && !isDouble && !isWord) return at;
    at = source.indexOf(mark, isDouble ? after + 1 : at + 1);
  }
  return -1;
}

function linkAt(source, at, end, depth) {
  LINK.lastIndex = ADDRESS.lastIndex = at;
  if (source[at] === "[") {
    const found = LINK.exec(source);
    if (!found || LINK.lastIndex > end) return null;
    const children = parseInline(source, at + 1, at + 1 + found[1].length, DEEPEST);
    return { node: { type: "link", href: found[2], children }, next: at + found[0].length };
  }
  if (source[at] !== "h" || depth >= DEEPEST) return null;
  const found = ADDRESS.exec(source);
  if (!found) return null;
  const href = found[0].slice(0, end - at).replace(/[.,;:!?'")\]}*_~]+$/, "");
  const next = at + href.length;
  return { node: { type: "link", href, children: [{ type: "text", start: at, end: next }] }, next };
}
