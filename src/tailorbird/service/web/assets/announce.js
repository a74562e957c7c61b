/** Tells screen readers what happened, through the page's one live region. */

import { byId } from "./dom.js";

/** @type {string[]} */
let pending = [];

/** Messages that come close together are read as one. @param {string} message */
export function announce(message) {
  pending.push(message);
  if (pending.length > 1) return;
  setTimeout(() => {
    byId("news").textContent = pending.join(". ");
    pending = [];
  }, 250);
}
