// Markdown to a tree of blocks: what replies use of it. HTML is no part of that and stays text.
//
// block: {type, start, end, ...}: [start, end) of the source, and by type
//   paragraph, heading (level)   lines: [[start, end]]
//   code                         lines, language
//   quote                        blocks
//   list                         ordered, first, items: [blocks]
//   table                        rows: [[[start, end]]], the first is the head
//   rule

const DEEPEST = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3})([-*+•]|\d{1,9}[.)])([ \t]+|$)/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** The blocks of a text. */
export function parseMarkdown(source) {
  const lines = [];
  for (let start = 0; start <= source.length;) {
    const newline = source.indexOf("\n", start);
    const end = newline === -1 ? source.length : newline;
    lines.push({ start, text: source.slice(start, end) });
    start = end + 1;
  }
  return parseBlocks(lines, 0);
}

const endOf = (line) => line.start + line.text.length;
const isBlank = (line) => /^\s*$/.test(line.text);

function afterBlanks(lines, i) {
  while (i < lines.length && isBlank(lines[i])) i++;
  return i;
}

const range = (line, from = 0, to = line.text.length) => [line.start + from, line.start + to];

function parseBlocks(lines, depth) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i++;
      continue;
    }
    const [block, next] = blockAt(lines, i, depth);
    blocks.push({ ...block, start: lines[i].start, end: endOf(lines[next - 1]) });
    i = next;
  }
  return blocks;
}

function blockAt(lines, i, depth) {
  const { text } = lines[i];
  if (FENCE.test(text)) return codeBlock(lines, i);
  const heading = HEADING.exec(text);
  if (heading) {
    const from = text.indexOf(heading[2], text.indexOf(heading[1]) + heading[1].length);
    return [
      { type: "heading", level: heading[1].length, lines: [range(lines[i], from, from + heading[2].length)] },
      i + 1,
    ];
  }
  if (RULE.test(text)) return [{ type: "rule" }, i + 1];
  if (depth < DEEPEST && QUOTE.test(text)) return quote(lines, i, depth);
  if (depth < DEEPEST && ITEM.test(text)) return list(lines, i, depth);
  if (text.includes("|") && TABLE_RULE.test(lines[i + 1]?.text ?? "")) return table(lines, i);
  return paragraph(lines, i, depth);
}

function codeBlock(lines, i) {
  const [, fence, language] = FENCE.exec(lines[i].text);
  const close = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  let end = i + 1;
  while (end < lines.length && !close.test(lines[end].text)) end++;
  const inside = lines.slice(i + 1, end).map((line) => range(line));
  return [{ type: "code", language, lines: inside }, Math.min(end + 1, lines.length)];
}

function quote(lines, i, depth) {
  const inside = [];
  let end = i;
  for (; end < lines.length && QUOTE.test(lines[end].text); end++) {
    inside.push(cut(lines[end], QUOTE.exec(lines[end].text)[0].length));
  }
  return [{ type: "quote", blocks: parseBlocks(inside, depth + 1) }, end];
}

const cut = (line, n) => ({ start: line.start + n, text: line.text.slice(n) });

function list(lines, i, depth) {
  const first = ITEM.exec(lines[i].text);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = i;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end].text);
    if (!found || /\d/.test(found[2]) !== ordered || RULE.test(lines[end].text)) break;
    const [item, next] = listItem(lines, end, found);
    items.push(parseBlocks(item, depth + 1));
    end = next;
    const following = afterBlanks(lines, end);
    if (following < lines.length && ITEM.test(lines[following].text)) end = following;
  }
  return [{ type: "list", ordered, first: ordered ? Number.parseInt(first[2], 10) : 1, items }, end];
}

/** An item's lines without its mark and indentation, and the number of the line after it. */
function listItem(lines, i, [mark]) {
  const width = Math.min(mark.length, 6);
  const item = [cut(lines[i], mark.length)];
  let end = i + 1;
  for (; end < lines.length; end++) {
    const { text } = lines[end];
    const indent = text.length - text.trimStart().length;
    if (isBlank(lines[end])) {
      const next = afterBlanks(lines, end);
      if (next === lines.length || !/^\s{2,}/.test(lines[next].text)) break;
      item.push(...lines.slice(end, next - 1));
      end = next - 1;
    } else if (indent < 2 && startsBlock(text)) break;
    item.push(cut(lines[end], Math.min(indent, width)));
  }
  return [item, end];
}

const startsBlock = (text) => [FENCE, HEADING, RULE, ITEM, QUOTE].some((pattern) => pattern.test(text));

function table(lines, i) {
  const rows = [cells(lines[i])];
  let end = i + 2;
  for (; end < lines.length && lines[end].text.includes("|"); end++) rows.push(cells(lines[end]));
  return [{ type: "table", rows }, end];
}

function cells(line) {
  const found = [];
  let from = /^\s*\|?/.exec(line.text)[0].length;
  const stop = line.text.trimEnd().length;
  for (let at = from; at <= stop; at++) {
    if (at < stop && (line.text[at] !== "|" || line.text[at - 1] === "\\")) continue;
    if (at < stop || at > from) {
      const cell = line.text.slice(from, at);
      const left = from + cell.length - cell.trimStart().length;
      found.push(range(line, Math.min(left, at), Math.max(left, from + cell.trimEnd().length)));
    }
    from = at + 1;
  }
  return found;
}

function paragraph(lines, i, depth) {
  const inside = [];
  let end = i;
  for (; end < lines.length && !isBlank(lines[end]); end++) {
    const { text } = lines[end];
    if (end > i && depth < DEEPEST && startsBlock(text)) break;
    inside.push(range(lines[end], text.length - text.trimStart().length, text.trimEnd().length));
  }
  return [{ type: "paragraph", lines: inside }, end];
}
