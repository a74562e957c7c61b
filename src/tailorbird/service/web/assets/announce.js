/** Announces messages to screen readers through the page's live region. */

import { byId } from "./dom.js";

/** @type {string[]} */
let pending = [];

/** Announces a message; messages within 250 ms are joined. @param {string} message */
export function announce(message) {
  pending.push(message);
  if (pending.length > 1) return;
  setTimeout(() => {
    byId("news").textContent = pending.join(". ");
    pending = [];
  }, 250);
}
