/**
 * Holds the access token: requested once, stored for this browser tab only (sessionStorage), sent
 * with every API call.
 */

import { el, freshId } from "./dom.js";
import { t } from "./texts.js";

const KEY = "tailorbird-token";
let held = stored();
/** @type {Promise<void> | null} */
let asking = null;

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // storage is blocked: the token then lives as long as the page
  }
}

/** @returns {string} the token, "" when there is none */
export const token = () => held;

/**
 * Opens the token form; callers that ask while it is open share it. Rejects when the person closes
 * the form.
 * @param {boolean} refused a token was sent and the server rejected it
 * @returns {Promise<void>}
 */
export function askToken(refused) {
  asking ??= open(refused).finally(() => {
    asking = null;
  });
  return asking;
}

function open(refused) {
  const [title, field, note] = [freshId("token"), freshId("token"), freshId("token")];
  const input = el("input", {
    id: field,
    type: "password",
    name: "token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": note,
  });
  const form = el(
    "form",
    {},
    el("h2", { id: title }, t("token.title")),
    el(
      "p",
      { id: note, class: refused ? "trouble" : "" },
      t(refused ? "token.refused" : "token.ask"),
    ),
    el("label", { for: field }, t("token.label")),
    input,
    el(
      "div",
      { class: "actions" },
      el("button", { type: "submit", class: "primary" }, t("token.continue")),
      el("button", { type: "button", onclick: () => dialog.close() }, t("token.cancel")),
    ),
  );
  const dialog = el("dialog", { class: "token", "aria-labelledby": title }, form);
  document.body.append(dialog);
  return new Promise((resolve, reject) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      held = input.value.trim();
      try {
        sessionStorage.setItem(KEY, held);
      } catch {
        // kept in memory alone
      }
      resolve();
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      reject(new Error("the token form was closed")); // does nothing after resolve()
    });
    dialog.showModal();
    input.focus();
  });
}
