/** Texts for errors: what went wrong, and one sentence of advice. */

import { hasText, showsMessages, t } from "./texts.js";

/** Errors of the photo itself, for which sending the same bytes again is useless. */
const FINAL = new Set([
  "body-too-large",
  "image-too-large",
  "unsupported-format",
  "unsupported-media-type",
  "unreadable-image",
]);

/** Errors that the page itself found; their messages are in its language. */
const OWN = new Set(["network", "timeout", "unexpected", "signed_out"]);

/** @param {string} code @returns {string} */
export const advice = (code) => t(`error.${known(code)}.todo`);

/** Returns the code, or that of a failed server for one that this page does not know. */
const known = (code) => (hasText(`error.${code}.what`) ? code : "internal");

/** @param {string} code @returns {boolean} */
export const worthRetrying = (code) => !FINAL.has(code);

/**
 * Returns what went wrong: the server's message where it may be shown, else the page's own text.
 * @param {import("./api.js").ApiError} error
 */
export function said({ code, message }) {
  return sentence(showsMessages || OWN.has(code) ? message : t(`error.${known(code)}.what`));
}

/**
 * Returns what went wrong, and one sentence of advice. The server's messages end with advice after
 * a semicolon. It is shown for errors of the photo itself; for others it addresses programmers, and
 * the page's own advice is shown instead.
 * @param {import("./api.js").ApiError} error
 * @returns {{what: string, todo: string}}
 */
export function explained(error) {
  const { code, message } = error;
  if (!showsMessages) return { what: said(error), todo: advice(code) };
  const parts = message.split("; ");
  const hint = FINAL.has(code) && parts.length > 1 ? parts.pop() : "";
  const what = hint ? parts.join("; ") : parts[0];
  return { what: sentence(what), todo: sentence(hint || advice(code)) };
}

/** Returns the message as a sentence. @param {string} text */
export function sentence(text) {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
