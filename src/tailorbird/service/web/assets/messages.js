/** Texts for errors: what went wrong, and one sentence of advice. */

/** @type {Record<string, string>} by the API's error codes, and those of api.js */
const ADVICE = {
  "bad-request": "Try again; if it fails again, tell whoever runs this server.",
  "too-many-parts": "Send fewer photos at once.",
  "bad-host": "Open the page under the address that whoever runs this server gave you.",
  unauthorized: "Try again and enter the token.",
  forbidden: "Open the page itself, not a copy inside another site, and try again.",
  "not-found": "Reload the page; it may be newer than the server.",
  "method-not-allowed": "Reload the page; it may be older than the server.",
  "request-timeout": "Try again, with a faster connection if you can.",
  conflict: "Ask about the photo again.",
  "body-too-large": "Save the photo in a smaller size and add it again.",
  "image-too-large": "Save the photo with fewer pixels and add it again.",
  "unsupported-format": "Save it as JPEG or PNG and add it again.",
  "unsupported-media-type": "Save it as JPEG or PNG and add it again.",
  "unreadable-image": "Copy the photo from the camera again, or take a new one.",
  invalid: "Reload the page and send the photo again.",
  overloaded: "Try again in a moment.",
  deadline: "Try again in a moment.",
  "not-ready": "Try again in a moment.",
  "storage-full": "Tell whoever runs this server that its disk is full, then try again.",
  "storage-failed": "Try again in a moment.",
  network: "Check your connection; the photo is sent again when you are back online.",
  timeout: "Try again in a moment.",
  unexpected: "Try again; if it fails again, tell whoever runs this server.",
};

/** Errors of the photo itself, for which sending the same bytes again is useless. */
const FINAL = new Set([
  "body-too-large",
  "image-too-large",
  "unsupported-format",
  "unsupported-media-type",
  "unreadable-image",
]);

/** @param {string} code @returns {string} */
export const advice = (code) => ADVICE[code] ?? ADVICE.unexpected;

/** @param {string} code @returns {boolean} */
export const worthRetrying = (code) => !FINAL.has(code);

/**
 * Returns what went wrong, and one sentence of advice. The server's messages end with advice after
 * a semicolon. It is shown for errors of the photo itself; for others it addresses programmers, and
 * ADVICE is shown instead.
 * @param {import("./api.js").ApiError} error
 * @returns {{what: string, todo: string}}
 */
export function explained({ code, message }) {
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
