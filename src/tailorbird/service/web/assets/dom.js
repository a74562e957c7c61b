/**
 * Builds DOM nodes. Strings always become text nodes, so a file name or a class name cannot become
 * markup.
 * Styles are set through the CSSOM: the page's Content-Security-Policy forbids style attributes in
 * markup.
 */

/** @typedef {Node | string | null | undefined | false} Child */

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] `onclick` and the like are listeners; true is an
 *   empty attribute; null, undefined and false are left out
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/**
 * Like `el`, for SVG.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child || child === ""));
  return node;
}

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

let ids = 0;

/** Returns an id that is unique in the page. @param {string} stem */
export function freshId(stem) {
  ids += 1;
  return `${stem}-${ids}`;
}

const SHAPES = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  cross: "M6 6l12 12M18 6L6 18",
  question:
    "M9.3 9.5a2.7 2.7 0 1 1 3.9 2.4c-.8.4-1.2.9-1.2 1.7v.2M12 16.9v.01" +
    "M21.5 12a9.5 9.5 0 1 1-19 0a9.5 9.5 0 1 1 19 0",
  alert: "M12 7v6M12 16.7v.01M21.5 12a9.5 9.5 0 1 1-19 0a9.5 9.5 0 1 1 19 0",
  pencil: "M5 19l1-4L16 5l3 3L9 18z",
};

/** A decorative icon, hidden from screen readers. @param {keyof typeof SHAPES} name */
export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("path", { d: SHAPES[name] }),
  );
}
