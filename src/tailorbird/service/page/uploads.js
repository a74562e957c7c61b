/** The dashboard: how the photos sent were answered, and whether they have changed. */

import { chart } from "./chart.js";
import { el, icon } from "./dom.js";
import { counted, dated, number, percent, t } from "./texts.js";

/**
 * @typedef {{measure: "confidence" | "unfamiliarity" | "predicted", changed: boolean,
 *   since: string, photos: number, distance: number, shift: number, calm_days: number,
 *   enough: number | null, validation_photos: number,
 *   bins: {label?: string, validation: number, seen: number}[]}} Change
 * @typedef {{photos: number, unsure: number, unfamiliar: number | null, by_day: {day: string,
 *   photos: number, unsure: number, unfamiliar: number | null}[], changed: boolean,
 *   drift: Change[]}} Uploads
 */

const CLASSES_NAMED = 4; // whose share changed most
const CLEAR = 0.05; // a shift of values below this has no direction
const MOST_DAYS = 1_000_000;

/** @param {Uploads} uploads @param {(label: string) => string} named */
export function uploadsPanel(uploads, named) {
  const { photos, unsure, unfamiliar, drift } = uploads;
  const values = {
    photos: counted("photo", photos),
    unsure: percent(unsure / photos),
    unfamiliar: percent((unfamiliar ?? 0) / photos),
  };
  return el(
    "section",
    { class: "panel uploads" },
    el("h2", {}, t("uploads.title")),
    el("p", { class: "quiet" }, t("uploads.how")),
    el("p", {}, t(unfamiliar === null ? "uploads.outcomes_unsure" : "uploads.outcomes", values)),
    ...(uploads.changed ? [changes(drift, named)] : drift.length ? [same(drift[0])] : []),
    chart(
      uploads.by_day.map((each) => ({
        day: each.day,
        total: each.photos,
        right: each.photos - each.unsure - (each.unfamiliar ?? 0),
      })),
      "uploads_chart",
    ),
    drift.length ? figures(drift) : null,
  );
}

/** @param {Change} change */
const same = ({ validation_photos: photos }) =>
  el("p", {}, el("strong", {}, t("uploads.same", { photos: counted("photo", photos) })));

/** @param {Change[]} drift @param {(label: string) => string} named */
function changes(drift, named) {
  const changed = drift.filter((change) => change.changed);
  const first = changed.map(({ since }) => since).sort()[0];
  const calm = Math.min(MOST_DAYS, Math.max(...changed.map((change) => change.calm_days)));
  return el(
    "div",
    { class: "trouble" },
    icon("alert"),
    el(
      "div",
      {},
      el("p", {}, el("strong", {}, t("uploads.changed", { day: day(first) }))),
      el("ul", {}, ...changed.map((change) => el("li", {}, described(change, named)))),
      el("p", {}, t("uploads.chance", { days: number(Math.round(calm)) })),
      el("p", {}, t("uploads.todo")),
    ),
  );
}

/** @param {Change} change @param {(label: string) => string} named */
function described(change, named) {
  const { measure, shift, bins } = change;
  const direction = Math.abs(shift) < CLEAR ? "other" : shift > 0 ? "up" : "down";
  const classes = bins
    .slice(0, CLASSES_NAMED)
    .filter(({ validation, seen }) => validation !== seen)
    .map(({ label = "", validation, seen }) =>
      t("uploads.from_to", {
        label: named(label),
        before: percent(validation),
        after: percent(seen),
      }),
    )
    .join(", ");
  const what =
    measure === "predicted" ? t("uploads.classes", { classes }) : t(WORDS[measure][direction]);
  return `${what} ${t("uploads.concerns", {
    day: day(change.since),
    share: percent(change.distance),
    photos: counted("photo", change.photos),
  })}`;
}

/** @param {Change[]} drift */
function figures(drift) {
  const row = ({ measure, changed, since, photos, distance, enough }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, t(MEASURES[measure])),
      el("td", {}, changed ? day(since) : "–"),
      el("td", {}, number(photos)),
      el("td", {}, percent(distance)),
      el("td", {}, enough === null ? "–" : number(enough)),
    );
  const heads = ["compared", "since", "photos", "differ", "enough"];
  return el(
    "details",
    {},
    el("summary", {}, t("uploads.figures")),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t("uploads.figures") },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el("tr", {}, ...heads.map((key) => el("th", { scope: "col" }, t(`uploads.${key}`)))),
        ),
        el("tbody", {}, ...drift.map(row)),
      ),
    ),
    el("p", { class: "quiet" }, t("uploads.figures_how")),
  );
}

/** @param {string} iso */
const day = (iso) =>
  dated(new Date(`${iso}T00:00:00Z`), { day: "numeric", month: "long", timeZone: "UTC" });

const MEASURES = {
  confidence: "uploads.confidence",
  unfamiliarity: "uploads.unfamiliarity",
  predicted: "uploads.predicted",
};
const WORDS = {
  confidence: {
    down: "uploads.confidence_down",
    up: "uploads.confidence_up",
    other: "uploads.confidence_other",
  },
  unfamiliarity: {
    down: "uploads.unfamiliarity_down",
    up: "uploads.unfamiliarity_up",
    other: "uploads.unfamiliarity_other",
  },
};
