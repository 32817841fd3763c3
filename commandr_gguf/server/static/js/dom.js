// Making and finding elements. Text becomes text nodes: nothing here or elsewhere turns strings into markup.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {Object} properties `class`, `on` = {event: listener}; what contains "-" or is role or dir is set as an
 *     attribute, all else as a property.
 * @param {...(Node|string|null|undefined)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "on")
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name.includes("-") || name === "role" || name === "dir") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the drawings in icons.svg. */
export function icon(name) {
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A speed, as precisely as it is of use. */
export const speedText = (speed) =>
  `${speed.toLocaleString("en", { maximumFractionDigits: speed < 100 ? 1 : 0 })} tokens/s`;

/** A button with an icon, and a text that is shown or only spoken. */
export function button(name, text, onClick, { shown = true, ...more } = {}) {
  const label = shown ? {} : { "aria-label": text, title: text };
  const properties = { type: "button", class: shown ? "quiet" : "icon", on: { click: onClick }, ...label, ...more };
  return make("button", properties, icon(name), shown ? make("span", {}, text) : null);
}
