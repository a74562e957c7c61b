/**
 * Dialogs of the review: the keys, the list of classes, a photo as large as the window. Each is
 * removed when it closes.
 */

import { chooser } from "./chooser.js";
import { el, freshId } from "./dom.js";

/** @param {HTMLElement} dialog */
function show(dialog) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
  });
  document.body.append(dialog);
  dialog.showModal();
}

const KEYS = [
  [["K"], "Keep the label"],
  [["⏎", "R"], "Accept the suggested label or answer. Not sure: ⏎ the first class, R the second"],
  [["X"], "Exclude the photo from training"],
  [["1", "9"], "One photo: relabel it as that class. Several: select that photo"],
  [["L"], "Choose another class by name"],
  [["O"], "Several photos: keep only the selected one"],
  [["A"], "Several photos: keep all"],
  [["Z"], "Undo"],
  [["←", "→"], "Previous finding, next finding"],
  [["F"], "Show the photo as large as the window"],
  [["?"], "Show this list"],
];

/**
 * @param {boolean} enabled whether single keys work
 * @param {(enabled: boolean) => void} onToggle
 */
export function showKeys(enabled, onToggle) {
  const title = freshId("keys");
  const switched = el("input", { type: "checkbox", onchange: () => onToggle(switched.checked) });
  switched.checked = enabled;
  const rows = KEYS.flatMap(([keys, what]) => [
    el(
      "dt",
      {},
      ...keys.flatMap((key, index) => [
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

/** @param {string[]} classes @param {(name: string) => void} onChoose */
export function chooseClass(classes, onChoose) {
  const list = chooser(
    classes,
    (name) => {
      dialog.close();
      onChoose(name);
    },
    () => dialog.close(),
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
