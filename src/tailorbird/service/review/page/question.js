/** The question about one photo, and the elements of every answer. */

import { el, icon } from "./dom.js";
import { percent } from "./texts.js";
import { decisionWords, likely } from "./words.js";

/** @typedef {import("./store.js").Photo} Photo */

/**
 * @param {string} text
 * @param {string} key
 * @param {() => void} act
 * @param {Record<string, unknown>} [attributes]
 */
export function answer(text, key, act, attributes = {}) {
  const shortcut = { Enter: "⏎" }[key] ?? key;
  return el(
    "button",
    { type: "button", "aria-keyshortcuts": key, onclick: act, ...attributes },
    el("span", {}, text),
    el("kbd", { "aria-hidden": "true" }, shortcut),
  );
}

export function verdict(photo) {
  const mark =
    photo.decision &&
    icon(
      photo.decision === "exclude" ? "cross" : photo.decision === "relabel" ? "pencil" : "check",
    );
  return el("p", { class: `verdict ${photo.decision}` }, mark, decisionWords(photo));
}

function bar(role, label, probability) {
  const fill = el("span", { class: "fill" });
  fill.style.inlineSize = `${100 * probability}%`;
  return el(
    "li",
    {},
    el("span", { class: "what" }, el("span", {}, role), " ", label),
    el("span", { class: "words" }, `${likely(probability)}, ${percent(probability)}`),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
  );
}

export const pressed = (yes) => (yes ? "true" : "false");

/** Returns the question about a photo and its answers. @param {Photo} photo */
export const question = (item, photo, acts) =>
  item.kinds[0] === "unsure" ? guessed(photo, acts) : labelled(photo, acts);

/** The question about a label that is probably wrong. */
function labelled(photo, acts) {
  const was = photo.decision;
  return [
    el(
      "h2",
      { class: "question", tabindex: "-1" },
      "Labelled ",
      photo.label,
      ". Is it ",
      el("em", {}, photo.suggested ?? ""),
      "?",
    ),
    el(
      "ul",
      { class: "odds" },
      bar("looks like", photo.suggested, photo.suggested_probability ?? 0),
      bar("labelled", photo.label, photo.label_probability ?? 0),
    ),
    verdict(photo),
    el(
      "div",
      { class: "answers" },
      answer(`Relabel as ${photo.suggested}`, "Enter", acts.accept, {
        class: "primary wide",
        "aria-pressed": pressed(was === "relabel" && photo.now === photo.suggested),
      }),
      answer(`Keep ${photo.label}`, "K", () => acts.keep(photo), {
        "aria-pressed": pressed(was === "keep"),
      }),
      exclusion(photo, acts),
    ),
  ];
}

/** The question about a guess of which the model was not sure. */
function guessed(photo, acts) {
  const was = photo.decision;
  return [
    el(
      "h2",
      { class: "question", tabindex: "-1" },
      "Is it ",
      el("em", {}, photo.label),
      " or ",
      photo.suggested ?? "",
      "?",
    ),
    el(
      "ul",
      { class: "odds" },
      bar("looks like", photo.label, photo.label_probability ?? 0),
      bar("or", photo.suggested, photo.suggested_probability ?? 0),
    ),
    verdict(photo),
    el(
      "div",
      { class: "answers" },
      answer(`It is ${photo.label}`, "Enter", acts.accept, {
        class: "primary wide",
        "aria-pressed": pressed(was === "keep"),
      }),
      answer(`It is ${photo.suggested}`, "R", () => acts.relabel(photo, photo.suggested), {
        "aria-pressed": pressed(was === "relabel" && photo.now === photo.suggested),
      }),
      exclusion(photo, acts),
    ),
  ];
}

const exclusion = (photo, acts) =>
  answer("Exclude", "X", () => acts.exclude(photo), {
    "aria-pressed": pressed(photo.decision === "exclude"),
  });
