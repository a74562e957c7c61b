/** Shows the served model in the footer. */

import { byId, count, el, percent } from "./dom.js";

/** @param {import("./calls.js").Model} model */
export function showFacts(model) {
  const test = model.scores?.test ?? model.scores?.validation;
  const kind = model.scores?.test ? "test" : "validation";
  const facts = [
    ["Model", model.name],
    ["Classes", count(model.classes.length, "class", "classes")],
    test ? [`Accuracy in its ${kind}`, accuracy(test)] : ["Accuracy", "not scored"],
    ["Created", day(model.created)],
  ];
  byId("facts").replaceChildren(
    ...facts.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
  );
}

function accuracy({ accuracy: share, interval, n }) {
  const range = Array.isArray(interval)
    ? ` (95% interval ${percent(interval[0])} to ${percent(interval[1])})`
    : "";
  return `${percent(share)}${range}${Number.isFinite(n) ? ` on ${count(n, "photo")}` : ""}`;
}

/** @param {string} iso */
function day(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime())
    ? iso
    : date.toLocaleDateString("en", { day: "numeric", month: "long", year: "numeric" });
}
