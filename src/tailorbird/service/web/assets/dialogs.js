/**
 * Dialogs of the local pages: the keys, the list of classes, a photo as large as the window.
 * Each is removed when it closes.
 */

import { chooser } from "./chooser.js";
import { el, freshId } from "./dom.js";

/** @param {HTMLElement} dialog */
export function show(dialog) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
  });
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {[string[], string][]} keys keys and what they do; a first and a last key of a range
 *   begin their text with "One"
 * @param {boolean} enabled whether single keys work
 * @param {(enabled: boolean) => void} onToggle
 */
export function showKeys(keys, enabled, onToggle) {
  const title = freshId("keys");
  const switched = el("input", { type: "checkbox", onchange: () => onToggle(switched.checked) });
  switched.checked = enabled;
  const rows = keys.flatMap(([names, what]) => [
    el(
      "dt",
      {},
      ...names.flatMap((key, index) => [
        index > 0 && (what.startsWith("One") ? " to " : " "),
        el("kbd", {}, key),
      ]),
    ),
    el("dd", {}, what),
  ]);
  const dialog = el(
    "dialog",
    { "aria-labelledby": title },
    el("h2", { id: title }, "Keys"),
    el("dl", { class: "keys" }, ...rows),
    el("label", { class: "toggle" }, switched, "Use single keys"),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Close"),
    ),
  );
  show(dialog);
}

/**
 * @param {string[]} classes @param {(name: string) => void} onChoose
 * @param {{onNew?: (text: string) => void}} [more] onNew: offers what was typed as a new class
 */
export function chooseClass(classes, onChoose, more = {}) {
  const list = chooser(
    classes,
    (name) => {
      dialog.close();
      onChoose(name);
    },
    () => dialog.close(),
    undefined,
    more.onNew
      ? {
          onNew: (text) => {
            dialog.close();
            more.onNew?.(text);
          },
        }
      : {},
  );
  const dialog = el("dialog", { "aria-label": "Classes" }, list);
  show(dialog);
  list.focusInside();
}

/** @param {string} source @param {string} name */
export function enlarge(source, name) {
  const dialog = el(
    "dialog",
    {
      class: "full",
      "aria-label": `Photo ${name}`,
      onkeydown: (event) => event.key.toLowerCase() === "f" && dialog.close(),
    },
    el("img", { src: `${source}&side=2048`, alt: `Photo ${name}`, onclick: () => dialog.close() }),
    el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  show(dialog);
}
