/** Asks whether a prediction is right, or which class is, and stores the answer. */

import { announce } from "./announce.js";
import { ApiError } from "./api.js";
import { correct } from "./calls.js";
import { chooser } from "./chooser.js";
import { el, icon, percent } from "./dom.js";
import { advice, sentence } from "./messages.js";

/**
 * Creates the controls below one answer. They show one of: the question, the list of all classes,
 * "storing", thanks, or an error.
 * @param {{name: string, result: import("./calls.js").Result, photo: Blob, model:
 *   import("./calls.js").Model, askAgain: () => void}} subject
 *   photo: the bytes that were predicted; askAgain: sends the photo once more, to replace a receipt
 *   that the server no longer accepts
 * @returns {HTMLElement}
 */
export function corrections({ name, result, photo, model, askAgain }) {
  const box = el("div", {
    class: "corrections",
    role: "group",
    "aria-label": `Your answer about ${name}`,
  });
  /** @type {string | null} the answer that is stored */
  let stored = null;

  const show = (focus, ...children) => {
    const held = box.contains(document.activeElement);
    box.replaceChildren(...children);
    if (held && focus) focus.focus({ preventScroll: true });
  };
  const other = () => el("button", { type: "button", onclick: pick }, "Something else…");
  const promise = () =>
    el(
      "p",
      { class: "quiet" },
      model.keep_photos
        ? "Your answer and the photo are stored, so that the model can learn from them."
        : "Your answer is stored, the photo is not.",
    );

  function question() {
    const choices = result.unsure
      ? result.top.map((each) => choice(each, () => store(each.label)))
      : [
          el(
            "button",
            { type: "button", class: "right", onclick: () => store(result.label) },
            icon("check"),
            "Right",
          ),
        ];
    const asked = el("p", { class: "ask" }, result.unsure ? "Which is it?" : "Is this right?");
    show(
      choices[0],
      asked,
      el("div", { class: result.unsure ? "choices" : "actions" }, ...choices, other()),
      promise(),
    );
  }

  function pick() {
    const list = chooser(model.classes, store, stored === null ? question : thanks);
    show(list, list);
    list.focusInside();
  }

  async function store(answer) {
    const busy = el("p", { class: "ask", tabindex: "-1" }, `Storing “${answer}”…`);
    show(busy, busy);
    try {
      await correct(
        /** @type {string} */ (result.receipt),
        answer,
        model.keep_photos ? photo : null,
      );
      stored = answer;
      thanks();
      announce(`Thank you. ${name} is noted as ${answer}`);
    } catch (error) {
      failed(answer, error);
    }
  }

  function thanks() {
    const again = el("button", { type: "button", class: "plain", onclick: pick }, "Change");
    show(
      again,
      el(
        "p",
        { class: "thanks" },
        icon("check"),
        el("span", {}, "Thank you. Noted as ", el("strong", {}, stored ?? ""), "."),
      ),
      again,
    );
  }

  function failed(answer, error) {
    if (!(error instanceof ApiError)) throw error;
    // The server no longer accepts the receipt (or the model changed): only a new prediction can
    // be corrected.
    const stale = error.status === 409 || error.status === 422;
    const retry = el(
      "button",
      { type: "button", onclick: stale ? askAgain : () => store(answer) },
      stale ? "Ask again" : "Try again",
    );
    const back = el(
      "button",
      { type: "button", class: "plain", onclick: stored === null ? question : thanks },
      "Back",
    );
    const message =
      error.code === "network" ? "Check your connection and try again." : advice(error.code);
    show(
      retry,
      el(
        "div",
        { class: "trouble", role: "alert" },
        icon("alert"),
        el(
          "div",
          {},
          el("p", {}, el("strong", {}, "Your answer was not stored. "), sentence(error.message)),
          el("p", {}, message),
        ),
      ),
      el("div", { class: "actions" }, retry, back),
    );
  }

  question();
  return box;
}

/**
 * Creates a button for one class, with a bar of its probability.
 * @param {import("./calls.js").Ranked} ranked
 * @param {() => void} onclick
 */
function choice(ranked, onclick) {
  const bar = el("span", { class: "fill", "aria-hidden": "true" });
  bar.style.inlineSize = `${ranked.probability * 100}%`;
  return el(
    "button",
    { type: "button", class: "choice", onclick },
    bar,
    el("span", { class: "what" }, ranked.label),
    el("span", {}, percent(ranked.probability)),
  );
}
