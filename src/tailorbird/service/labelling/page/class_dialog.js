/** The dialog about one class, and the list of keys. */

import { show } from "./dialogs.js";
import { el, freshId } from "./dom.js";

/** @type {[string[], string][]} */
export const KEYS = [
  [["1", "9"], "One photo: its class. A sheet: the class of the selected photo"],
  [["⏎"], "Confirm the whole sheet"],
  [["←", "→", "↑", "↓"], "Select another photo of the sheet"],
  [["L"], "Choose a class by name, or type a new one"],
  [["C"], "Type a new class"],
  [["N"], "None of these classes"],
  [["U"], "Unusable: not to train on"],
  [["S"], "Ask again later"],
  [["Z"], "Undo"],
  [["F"], "Show the photo as large as the window"],
  [["?"], "Show this list"],
];

/**
 * A dialog to rename a class, merge it, or see only what looks like it.
 * @param {string} name
 * @param {{rename: (text: string) => void, showOnly: () => void}} acts
 */
export function editClass(name, acts) {
  const [title, field, note] = [freshId("edit"), freshId("edit"), freshId("edit")];
  const input = el("input", {
    id: field,
    type: "text",
    maxlength: "100",
    autocomplete: "off",
    "aria-describedby": note,
  });
  input.value = name;
  const close = () => dialog.close();
  const form = el(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        close();
        acts.rename(input.value);
      },
    },
    el("h2", { id: title }, `Class ${name}`),
    el("label", { for: field }, "Name"),
    input,
    el("p", { id: note, class: "quiet" }, "The name of another class merges both."),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "submit", class: "primary" }, "Rename"),
      el(
        "button",
        { type: "button", onclick: () => (close(), acts.showOnly()) },
        `Show photos that look like ${name}`,
      ),
      el("button", { type: "button", onclick: close }, "Cancel"),
    ),
  );
  const dialog = el("dialog", { "aria-labelledby": title }, form);
  show(dialog);
  input.select();
}
