/**
 * The end of a review, or of the filtered findings: counts of decisions, findings left, the command
 * to train with.
 */

import { el, icon } from "./dom.js";
import { commandLine } from "./local.js";
import { count } from "./words.js";

/**
 * @param {import("./store.js").Store} store @param {number[]} shown the findings under the filters
 * @param {{onContinue: () => void, onShowAll: () => void, onAgain: () => void}} acts
 */
export function endView(store, shown, { onContinue, onShowAll, onAgain }) {
  const { progress } = store;
  const left = store.items.reduce((sum, _, index) => sum + Number(!store.isDone(index)), 0);
  const leftHere = shown.filter((index) => !store.isDone(index)).length;
  const filtered = shown.length < store.items.length;
  const title = !store.items.length
    ? "No findings"
    : leftHere
      ? `${count(leftHere, "finding")} left`
      : left
        ? "No findings left here"
        : "All done";
  return el(
    "div",
    { class: "done" },
    !leftHere && el("span", { class: "mark" }, icon("check")),
    el("h2", { tabindex: "-1" }, title),
    !store.items.length && el("p", {}, "There is no suspect label and no duplicate."),
    el(
      "dl",
      { class: "counts" },
      ...[
        ["kept", progress.keep],
        ["relabelled", progress.relabel],
        ["excluded", progress.exclude],
      ].map(([name, n]) => el("div", {}, el("dt", {}, name), el("dd", {}, n.toLocaleString("en")))),
    ),
    el(
      "div",
      { class: "actions" },
      leftHere > 0 &&
        el("button", { type: "button", class: "primary", onclick: onContinue }, "Continue"),
      left > leftHere &&
        el(
          "button",
          { type: "button", class: leftHere ? "" : "primary", onclick: onShowAll },
          `Show all ${count(left, "finding")} left`,
        ),
      store.items.length > 0 &&
        el("button", { type: "button", onclick: onAgain }, "Review them again"),
    ),
    el("p", {}, "The manifest is ready. Train on it:"),
    commandLine(store.command),
    el(
      "p",
      { class: "quiet" },
      "When you are done, close this page and press Ctrl-C in the terminal; you can resume later.",
    ),
  );
}
