/** The dashboard's panel of the candidate: another model that sees the same photos. */

import { el } from "./dom.js";
import { counted, number, percent, showsMessages, t } from "./texts.js";

/**
 * @typedef {{name: string, state: "starting" | "running" | "failed" | "same", message: string |
 *   null, photos: number, agree: number, answered: number, both: number, only_served: number,
 *   only_candidate: number, neither: number, p_value: number,
 *   better: "served" | "candidate" | null}} Trial
 */

/** @param {Trial} trial */
export function candidatePanel(trial) {
  return el(
    "section",
    { class: "panel candidate" },
    el("h2", {}, t("candidate.title", { name: trial.name })),
    el("p", { class: "quiet" }, t("candidate.how")),
    trial.state === "running" ? null : el("p", {}, el("strong", {}, t(`candidate.${trial.state}`))),
    trial.message && showsMessages ? el("p", { class: "what" }, trial.message) : null,
    trial.photos
      ? el("p", {}, t("candidate.agrees", agreement(trial)))
      : el("p", {}, t("candidate.none")),
    ...(trial.answered ? test(trial) : []),
    trial.photos && !trial.answered ? el("p", {}, t("candidate.unanswered")) : null,
  );
}

/** @param {Trial} trial */
const agreement = ({ agree, photos }) => ({
  share: percent(agree / photos),
  photos: counted("photo", photos),
});

/** The paired test, as `tailorbird compare` prints it. @param {Trial} trial */
function test(trial) {
  const p = trial.p_value.toLocaleString(document.documentElement.lang, {
    maximumSignificantDigits: 2,
  });
  return [
    el("p", {}, t("candidate.table", { answers: counted("answer", trial.answered) })),
    el(
      "table",
      {},
      el(
        "tbody",
        {},
        ...Object.entries(KINDS).map(([kind, text]) =>
          el("tr", {}, el("th", { scope: "row" }, t(text)), el("td", {}, number(trial[kind]))),
        ),
      ),
    ),
    el("p", {}, el("strong", {}, t(BETTER[trial.better ?? "none"], { p }))),
    el("p", { class: "quiet" }, t("candidate.bias")),
  ];
}

const KINDS = {
  both: "candidate.both",
  only_candidate: "candidate.only_candidate",
  only_served: "candidate.only_served",
  neither: "candidate.neither",
};
const BETTER = {
  candidate: "candidate.better_candidate",
  served: "candidate.better_served",
  none: "candidate.better_none",
};
