/** Keyboard control: single keys, which can be turned off, and keys that always work. */

import { showKeys } from "./dialogs.js";

const KEYS_OFF = "tailorbird-review-keys-off"; // shared by the local pages, under its first name
const keysOff = () => localStorage.getItem(KEYS_OFF) === "1";

/**
 * Shows the list of keys, and whether single keys are on.
 * @param {[string[], string][]} keys keys and what they do
 */
export function help(keys) {
  showKeys(keys, !keysOff(), (enabled) => localStorage.setItem(KEYS_OFF, enabled ? "0" : "1"));
}

/**
 * @param {(key: string) => (() => void) | null | undefined | false} actOf returns the action of a
 *   key (in lower case)
 */
export function listenToKeys(actOf) {
  document.addEventListener("keydown", (event) => {
    if (
      event.defaultPrevented ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.isComposing ||
      document.querySelector("dialog[open]")
    )
      return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("input, select, textarea")) return;
    const key = event.key.toLowerCase();
    if (key === "enter" && target.closest("button, a")) return;
    if (keysOff() && !["enter", "arrowleft", "arrowright"].includes(key)) return;
    const act = actOf(key);
    if (!act) return;
    event.preventDefault();
    if (event.repeat && !key.startsWith("arrow")) return; // a key that is held down decides once
    act();
  });
}
