/** Asks whether a prediction is right, or which class is, and stores the answer. */

import { announce } from "./announce.js";
import { ApiError } from "./api.js";
import { correct, naming } from "./calls.js";
import { chooser } from "./chooser.js";
import { el, icon } from "./dom.js";
import { advice, said } from "./messages.js";
import { parts, percent, t } from "./texts.js";

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
    "aria-label": t("answer.group", { name }),
  });
  const named = naming(model);
  const shownName = (answer) => (answer === null ? t("answer.none_of_these") : named(answer));
  /** @type {{answer: string | null, new_class: boolean} | null} what is stored */
  let stored = null;

  const isClass = (answer) => model.display.some(({ label }) => label === answer);

  const show = (focus, ...children) => {
    const held = box.contains(document.activeElement);
    box.replaceChildren(...children);
    if (held && focus) focus.focus({ preventScroll: true });
  };
  const other = () => el("button", { type: "button", onclick: pick }, t("answer.other"));
  const none = () =>
    el(
      "button",
      { type: "button", class: "right", onclick: () => store(null) },
      icon("check"),
      t("answer.none_of_these"),
    );
  const promise = () =>
    el("p", { class: "quiet" }, t(model.keep_photos ? "answer.kept" : "answer.not_kept"));

  function question() {
    const choices = result.unsure
      ? [
          ...(result.unfamiliar ? [none()] : []),
          ...result.top.map((each) => choice(each, named(each.label), () => store(each.label))),
        ]
      : [
          el(
            "button",
            { type: "button", class: "right", onclick: () => store(result.label) },
            icon("check"),
            t("answer.right"),
          ),
        ];
    const asked = el("p", { class: "ask" }, t(result.unsure ? "answer.which" : "answer.is_right"));
    show(
      choices[0],
      asked,
      el("div", { class: result.unsure ? "choices" : "actions" }, ...choices, other()),
      promise(),
    );
  }

  function pick() {
    const classes = model.display.map(({ label }) => label);
    const list = chooser(classes, store, stored === null ? question : thanks, named, {
      onNone: () => store(null),
      onNew: model.new_classes ? store : undefined,
    });
    show(list, list);
    list.focusInside();
  }

  async function store(answer) {
    const storing = t("answer.storing", { label: shownName(answer) });
    const busy = el("p", { class: "ask", tabindex: "-1" }, storing);
    show(busy, busy);
    try {
      const said = await correct(
        /** @type {string} */ (result.receipt),
        answer,
        model.keep_photos ? photo : null,
      );
      const kept = said.answer === undefined ? answer : said.answer;
      stored = { answer: kept, new_class: said.new_class };
      thanks();
      announce(t("answer.spoken", { name, label: shownName(stored.answer) }));
    } catch (error) {
      failed(answer, error);
    }
  }

  function thanks() {
    const { answer = null, new_class = false } = stored ?? {};
    const label = el("strong", {}, shownName(answer));
    const again = el(
      "button",
      { type: "button", class: "plain", onclick: pick },
      t("answer.change"),
    );
    show(
      again,
      el(
        "p",
        { class: "thanks" },
        icon("check"),
        el(
          "span",
          {},
          ...parts(new_class ? "answer.thanks_new" : "answer.thanks", { label }),
        ),
      ),
      again,
    );
  }

  function failed(answer, error) {
    if (!(error instanceof ApiError)) throw error;
    // The server no longer accepts the receipt (or the model changed): only a new prediction can
    // be corrected.
    const typed = error.code === "invalid" && answer !== null && !isClass(answer);
    const stale = !typed && (error.status === 409 || error.status === 422);
    const retry = el(
      "button",
      { type: "button", onclick: typed ? pick : stale ? askAgain : () => store(answer) },
      t(typed ? "answer.choose" : stale ? "answer.again" : "card.retry"),
    );
    const back = el(
      "button",
      { type: "button", class: "plain", onclick: stored === null ? question : thanks },
      t("answer.back"),
    );
    const message =
      error.code === "network"
        ? t("answer.offline")
        : typed
          ? t("answer.unusable")
          : advice(error.code);
    show(
      retry,
      el(
        "div",
        { class: "trouble", role: "alert" },
        icon("alert"),
        el(
          "div",
          {},
          el("p", {}, el("strong", {}, `${t("answer.failed")} `), said(error)),
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
 * @param {string} name the class's name for people
 * @param {() => void} onclick
 */
function choice(ranked, name, onclick) {
  const bar = el("span", { class: "fill", "aria-hidden": "true" });
  bar.style.inlineSize = `${ranked.probability * 100}%`;
  return el(
    "button",
    { type: "button", class: "choice", onclick },
    bar,
    el("span", { class: "what" }, name),
    el("span", {}, percent(ranked.probability)),
  );
}
