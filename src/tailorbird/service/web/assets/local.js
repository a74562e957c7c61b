/** Parts that the local pages share: notices, facts of the footer, a command to copy. */

import { byId, el, icon } from "./dom.js";

/** A fact of the footer. @param {string} name @param {import("./dom.js").Child[]} value */
export const fact = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value));

/** @param {string} [message] none removes it @param {Node[]} more */
export function notice(message, ...more) {
  byId("notice").replaceChildren(
    ...(message
      ? [el("div", { class: "trouble" }, icon("alert"), el("p", {}, message), ...more)]
      : []),
  );
}

/** A command with a button that copies it. @param {string} command */
export function commandLine(command) {
  const copied = el("span", { role: "status" });
  return el(
    "div",
    { class: "command" },
    el("code", {}, command),
    el("button", { type: "button", onclick: () => copy(command, copied) }, "Copy"),
    copied,
  );
}

async function copy(command, copied) {
  try {
    await navigator.clipboard.writeText(command);
    copied.textContent = "Copied";
  } catch {
    copied.textContent = "This browser does not let pages copy; select the line instead";
  }
}
