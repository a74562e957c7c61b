/** Shows the served model in the footer, on pages that name it. */

import { counted, dated, forSellers, percent, t, tooFew } from "./texts.js";
import { byId, el } from "./dom.js";

/** @param {import("./calls.js").Model} model */
export function showFacts(model) {
  if (forSellers) return;
  const test = model.scores?.test ?? model.scores?.validation;
  const kind = model.scores?.test ? "test" : "validation";
  const facts = [
    [t("facts.model"), model.name],
    [t("facts.classes"), counted("class", model.classes.length)],
    test
      ? [t(`facts.${kind}`), accuracy(test)]
      : [t("facts.accuracy"), t("facts.unscored")],
    [t("facts.created"), day(model.created)],
  ];
  byId("facts").replaceChildren(
    ...facts.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
  );
}

function accuracy({ accuracy: share, interval, n }) {
  const [low, high] = Array.isArray(interval) ? interval.map(percent) : [];
  if (low && tooFew(interval))
    return t("facts.too_few", { photos: counted("photo", n), low, high });
  const text = low ? t("facts.interval", { share: percent(share), low, high }) : percent(share);
  return Number.isFinite(n)
    ? t("facts.on", { accuracy: text, photos: counted("photo", n) })
    : text;
}

/** @param {string} iso */
function day(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime())
    ? iso
    : dated(date, { day: "numeric", month: "long", year: "numeric" });
}
