// Blocks of Markdown as elements. What changes while a reply is written is its last block: the others stay.

import { make } from "./dom.js";
import { parseInline } from "./inline.js";
import { parseMarkdown } from "./markdown.js";

/**
 * Show a text in an element.
 * @param {Element} parent what it showed before and is the same now is left alone
 * @param {string} source
 * @param {(start: number, end: number) => Node[]} leaf makes the nodes of a piece of text
 * @param {(start: number, end: number) => string} marks changes when `leaf` would give something else
 */
export function showMarkdown(parent, source, leaf, marks) {
  const view = { source, leaf };
  const blocks = parseMarkdown(source);
  blocks.forEach((block, i) => {
    const key = `${block.start} ${source.slice(block.start, block.end)} ${marks(block.start, block.end)}`;
    const old = parent.children[i];
    if (old?.shownBlock === key) return;
    const element = blockElement(view, block);
    element.dir ||= "auto"; // by all that is in it, which must have no direction of its own for that
    element.shownBlock = key;
    if (old) old.replaceWith(element);
    else parent.append(element);
  });
  while (parent.children.length > blocks.length) parent.lastElementChild.remove();
}

function blockElement(view, block) {
  switch (block.type) {
    case "heading":
      // A reply stands below the page's title and the message's own: its headings begin at the third level.
      return make(`h${Math.min(block.level + 2, 6)}`, {}, ...lineNodes(view, block.lines));
    case "code":
      return make("pre", { dir: "ltr", tabIndex: 0 }, make("code", {}, ...codeNodes(view, block.lines)));
    case "quote":
      return make("blockquote", {}, ...block.blocks.map((inner) => blockElement(view, inner)));
    case "list":
      return listElement(view, block);
    case "table":
      return tableElement(view, block.rows);
    case "rule":
      return make("hr");
    default:
      return make("p", {}, ...lineNodes(view, block.lines));
  }
}

function listElement(view, { ordered, first, items }) {
  const elements = items.map((blocks) => make("li", {}, ...itemNodes(view, blocks)));
  return make(ordered ? "ol" : "ul", ordered && first !== 1 ? { start: first } : {}, ...elements);
}

function itemNodes(view, blocks) {
  const [only] = blocks;
  if (blocks.length > 0 && only.type === "paragraph") {
    const rest = blocks.slice(1).map((inner) => blockElement(view, inner));
    return [...lineNodes(view, only.lines), ...rest];
  }
  return blocks.map((inner) => blockElement(view, inner));
}

function tableElement(view, [head, ...rows]) {
  const row = (tag, cells) => make("tr", {}, ...cells.map((cell) => make(tag, {}, ...lineNodes(view, [cell]))));
  const body = make("tbody", {}, ...rows.map((cells) => row("td", cells)));
  return make("div", { class: "table", tabIndex: 0 }, make("table", {}, make("thead", {}, row("th", head)), body));
}

function codeNodes(view, lines) {
  return lines.flatMap(([start, end]) => [...view.leaf(start, end), document.createTextNode("\n")]);
}

function lineNodes(view, lines) {
  return lines.flatMap(([start, end], i) => {
    const nodes = inlineNodes(view, parseInline(view.source, start, end));
    return i ? [make("br"), ...nodes] : nodes;
  });
}

function inlineNodes(view, nodes) {
  return nodes.flatMap((node) => {
    if (node.type === "text") return view.leaf(node.start, node.end);
    const children = inlineNodes(view, node.children);
    if (node.type !== "link") return make(node.type, {}, ...children);
    return make("a", { href: node.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
  });
}
