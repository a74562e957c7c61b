/** What a person can do about each refusal. The server's own message stands above it. */

/** @type {Record<string, string>} by the API's error codes, and those of api.js */
const ADVICE = {
  "bad-request": "Try again; if it stays, tell whoever runs this server.",
  "too-many-parts": "Send fewer photos at once.",
  "bad-host": "Open the page under the address that whoever runs this server gave you.",
  unauthorized: "Try again and enter the token.",
  forbidden: "Open the page itself, not a copy inside another site, and try again.",
  "not-found": "This server may be an older one. Reload the page.",
  "method-not-allowed": "Reload the page; it may be older than the server.",
  "request-timeout": "The connection is slow. Try again, perhaps nearer to the router.",
  conflict: "The model has changed since. Ask about the photo again.",
  "body-too-large": "Save the photo in a smaller size and add it again.",
  "image-too-large": "Save the photo with fewer pixels and add it again.",
  "unsupported-format": "Save it as JPEG or PNG and add it again.",
  "unsupported-media-type": "Save it as JPEG or PNG and add it again.",
  "unreadable-image": "If it is a photo, the file is damaged or incomplete: copy it from the camera again, or take the photo anew.",
  invalid: "The model may have changed since. Reload the page and ask about the photo again.",
  overloaded: "Many photos are coming in just now. Try again in a moment.",
  deadline: "The server is busy just now. Try again in a moment.",
  "not-ready": "The server is still starting. Try again in a moment.",
  "storage-full": "Your answer was not kept. Tell whoever runs this server that its disk is full, then try again.",
  "storage-failed": "Your answer was not kept. Try again in a moment.",
  network: "Check your connection; the photo goes on by itself when you are back online.",
  timeout: "Try again in a moment.",
  unexpected: "Try again; if it stays, tell whoever runs this server.",
};

/** Trying the same bytes again cannot help with these. */
const FINAL = new Set(["body-too-large", "image-too-large", "unsupported-format", "unsupported-media-type", "unreadable-image"]);

/** @param {string} code @returns {string} */
export const advice = (code) => ADVICE[code] ?? ADVICE.unexpected;

/** @param {string} code @returns {boolean} */
export const worthRetrying = (code) => !FINAL.has(code);

/** The message as a sentence. @param {string} text */
export function sentence(text) {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
