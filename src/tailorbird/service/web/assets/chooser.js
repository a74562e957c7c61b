/**
 * A searchable list of classes: type to filter, arrow keys to move, Enter to choose, Escape to go
 * back. Fast with a thousand classes.
 */

import { el, freshId } from "./dom.js";
import { counted, number, t } from "./texts.js";

const SHOWN = 100; // options at once; typing filters them

/**
 * Returns the classes that contain the text; first those that start with it.
 * @param {string[]} classes @param {string} text @param {(label: string) => string} named
 */
export function matching(classes, text, named) {
  const sought = text.trim().toLowerCase();
  const lower = (label) => named(label).toLowerCase();
  const starts = (label) => Number(lower(label).startsWith(sought));
  const found = classes.filter((label) => lower(label).includes(sought));
  return sought ? found.sort((a, b) => starts(b) - starts(a)) : found;
}

/** Returns whether a text is a class's label or name. */
function written(text, ...names) {
  return names.some((name) => name.toLowerCase() === text.toLowerCase());
}

/**
 * Creates the list, following the ARIA combobox pattern with its list always open.
 * @param {string[]} classes @param {(label: string) => void} onChoose @param {() => void} onCancel
 * @param {(label: string) => string} [named] the name for people of a class
 * @param {{onNone?: () => void, onNew?: (text: string) => void}} [more]
 *   onNone: offers "None of these"; onNew: offers what was typed as a new category
 * @returns {HTMLElement & {focusInside: () => void}}
 */
export function chooser(classes, onChoose, onCancel, named = (label) => label, more = {}) {
  const [field, list, note] = [freshId("choose"), freshId("choose"), freshId("choose")];
  /** @type {{text: string, choose: () => void}[]} */
  let offers = [];
  let active = -1;
  const options = el("ul", {
    id: list,
    role: "listbox",
    "aria-label": t("chooser.classes"),
    class: "options",
  });
  const found = el("p", { id: note, class: "quiet", role: "status" });
  const input = el("input", {
    id: field,
    type: "text",
    role: "combobox",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    placeholder: t("chooser.search"),
    "aria-expanded": "true",
    "aria-controls": list,
    "aria-autocomplete": "list",
    "aria-describedby": note,
    oninput: fill,
    onkeydown: (event) => {
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 5, PageUp: -5 };
      if (event.key in moves) point(active + moves[event.key]);
      else if (event.key === "Enter" && !event.isComposing) offers[active]?.choose();
      else if (event.key === "Escape") onCancel();
      else return;
      event.preventDefault();
    },
  });

  function fill() {
    const all = matching(classes, input.value, named);
    const typed = input.value.trim();
    offers = all
      .slice(0, SHOWN)
      .map((label) => ({ text: named(label), choose: () => onChoose(label) }));
    if (more.onNew && typed && !all.some((label) => written(typed, label, named(label))))
      offers.push({ text: t("chooser.new", { text: typed }), choose: () => more.onNew?.(typed) });
    options.replaceChildren(
      ...offers.map(({ text, choose }, index) =>
        el(
          "li",
          {
            role: "option",
            id: `${list}-${index}`,
            "aria-selected": "false",
            onclick: choose,
          },
          text,
        ),
      ),
    );
    found.textContent = !all.length
      ? t("chooser.none", { classes: counted("class", classes.length), text: typed })
      : all.length > SHOWN
        ? t("chooser.some", { shown: number(SHOWN), classes: counted("class", all.length) })
        : "";
    active = -1;
    if (typed) point(0);
    else input.removeAttribute("aria-activedescendant");
  }

  function point(index) {
    options.children[active]?.setAttribute("aria-selected", "false");
    active = Math.max(-1, Math.min(offers.length - 1, Math.max(0, index)));
    const option = options.children[active];
    if (!option) return input.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    input.setAttribute("aria-activedescendant", option.id);
    // Scroll only the list: scrollIntoView would scroll the page as well.
    if (option.offsetTop < options.scrollTop) options.scrollTop = option.offsetTop;
    const below = option.offsetTop + option.offsetHeight - options.clientHeight;
    if (below > options.scrollTop) options.scrollTop = below;
  }

  fill();
  const box = el(
    "div",
    { class: "chooser" },
    el("label", { for: field }, t("chooser.label")),
    input,
    options,
    found,
    el(
      "div",
      { class: "actions" },
      more.onNone
        ? el("button", { type: "button", onclick: more.onNone }, t("answer.none_of_these"))
        : null,
      el("button", { type: "button", onclick: onCancel }, t("answer.back")),
    ),
  );
  return Object.assign(box, { focusInside: () => input.focus({ preventScroll: true }) });
}
