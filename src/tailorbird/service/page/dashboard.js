/**
 * The dashboard: how often the model was right, according to people's answers. Fetched every 30
 * seconds while the page is visible.
 */

import { ApiError } from "./api.js";
import { getModel, getStats, naming } from "./calls.js";
import { advice, said } from "./messages.js";
import { byId, el, icon } from "./dom.js";
import { counted, dated, number, parts, percent, t, tooFew } from "./texts.js";
import { candidatePanel } from "./candidate.js";
import { chart } from "./chart.js";
import { showFacts } from "./facts.js";
import { uploadsPanel } from "./uploads.js";

/**
 * @typedef {{label: string, total: number, right: number}} ClassCount by the answer, the
 *   correct class of the photos
 * @typedef {{day: string, total: number, right: number}} DayCount
 * @typedef {{predicted: string, answer: string, count: number}} Mistake
 * @typedef {{total: number, right: number, accuracy: number | null, interval: [number, number] |
 *   null, none_of_these?: number, none_refused?: number, per_class: ClassCount[],
 *   by_day: DayCount[], mistaken: Mistake[],
 *   uploads?: import("./uploads.js").Uploads,
 *   candidate: import("./candidate.js").Trial | null}} Stats
 */

const EVERY = 30_000; // milliseconds between two fetches
const MISTAKES_SHOWN = 6;
const CLASSES_SHOWN = 20; // the others are in a closed <details>

let shown = "";
let busy = false;
/** @type {(label: string) => string} */
let named = naming(null);

async function refresh() {
  if (busy) return;
  busy = true;
  try {
    const stats = await getStats();
    const text = JSON.stringify(stats);
    if (text !== shown) draw(stats); // unchanged figures keep focus and open <details>
    shown = text;
    byId("notice").replaceChildren();
    const time = dated(new Date(), { timeStyle: "medium" });
    byId("updated").textContent = t("dashboard.as_of", { time });
  } catch (error) {
    trouble(error);
  } finally {
    busy = false;
  }
}

function trouble(error) {
  if (!(error instanceof ApiError)) console.error(error);
  const known =
    error instanceof ApiError
      ? error
      : new ApiError(0, "unexpected", t("error.unexpected.what", { error }));
  const off = known.status === 404;
  const network = known.code === "network";
  const todo = off
    ? t("dashboard.off")
    : network
      ? t("dashboard.keeps_trying")
      : advice(known.code);
  byId("notice").replaceChildren(
    el(
      "div",
      { class: "trouble" },
      icon("alert"),
      el("div", {}, el("p", {}, el("strong", {}, said(known))), el("p", {}, todo)),
    ),
  );
  byId("updated").textContent = t(shown ? "dashboard.older" : "dashboard.no_figures");
}

/** @param {Stats} stats */
function draw(stats) {
  byId("figures").replaceChildren(
    ...(stats.uploads?.changed ? sent(stats) : []),
    ...(stats.total ? figures(stats) : [empty()]),
    ...(stats.uploads?.changed ? [] : sent(stats)),
    ...(stats.candidate ? [candidatePanel(stats.candidate)] : []),
  );
}

/** @param {Stats} stats */
const sent = ({ uploads }) => (uploads?.photos ? [uploadsPanel(uploads, named)] : []);

function empty() {
  return el(
    "section",
    { class: "panel empty" },
    el("h2", {}, t("dashboard.empty")),
    el("p", {}, t("dashboard.empty_how")),
    el("p", {}, el("a", { href: "./" }, t("dashboard.add"))),
  );
}

/** @param {Stats} stats */
function figures(stats) {
  return [
    el(
      "div",
      { class: "pair" },
      accuracyPanel(stats),
      mistakesPanel(stats),
    ),
    ...(stats.by_day.length
      ? [panel(t("dashboard.over_time"), t("chart.by_day"), chart(stats.by_day))]
      : []),
    ...(stats.per_class.length ? [classesPanel(stats.per_class)] : []),
  ];
}

function panel(title, note, ...children) {
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, title),
    el("p", { class: "quiet" }, note),
    ...children,
  );
}

/** @param {Stats} stats */
function accuracyPanel({ total, right, accuracy, interval }) {
  const share = accuracy ?? right / total;
  const few = interval && tooFew(interval);
  const [low, high] = few ? interval.map(percent) : [];
  return el(
    "section",
    { class: "panel accuracy" },
    el("h2", {}, t("dashboard.in_use")),
    few
      ? el("p", { class: "big few" }, t("dashboard.between", { low, high }))
      : el("p", { class: "big" }, percent(share)),
    few ? el("p", {}, t("dashboard.too_few")) : null,
    el(
      "p",
      {},
      t("dashboard.right_in", { right: number(right), answers: counted("answer", total) }),
    ),
    interval ? range(share, interval) : null,
    el("p", { class: "quiet" }, t("dashboard.only_answered")),
  );
}

/** Draws the interval on a line from 0 to 100%. */
function range(share, [low, high]) {
  const span = el("span", { class: "span" });
  span.style.insetInlineStart = `${low * 100}%`;
  span.style.inlineSize = `${(high - low) * 100}%`;
  const point = el("span", { class: "point" });
  point.style.insetInlineStart = `${share * 100}%`;
  return el(
    "div",
    { class: "range" },
    el("p", {}, t("dashboard.interval", { low: percent(low), high: percent(high) })),
    el("div", { class: "line", "aria-hidden": "true" }, span, point),
    el(
      "div",
      { class: "ends quiet", "aria-hidden": "true" },
      el("span", {}, percent(0)),
      el("span", {}, percent(1)),
    ),
  );
}

/** @param {Stats} stats */
function mistakesPanel(stats) {
  const { total, right, mistaken: mistakes, none_of_these: all = 0 } = stats;
  const none = all - (stats.none_refused ?? 0);
  const wrong = total - right - none;
  const unlisted = none
    ? t("dashboard.none_of_these", { answers: counted("answer", none) })
    : "";
  if (!mistakes.length)
    return panel(t("dashboard.mistaken"), unlisted || t("dashboard.none_mistaken"));
  const most = mistakes[0].count;
  return panel(
    t("dashboard.mistaken"),
    t("dashboard.named_another", { answers: counted("answer", wrong) }),
    el(
      "ol",
      { class: "mistakes" },
      ...mistakes
        .slice(0, MISTAKES_SHOWN)
        .map(({ predicted, answer, count: n }) =>
          el(
            "li",
            {},
            el(
              "span",
              { class: "what" },
              ...parts("dashboard.was", {
                predicted: el("b", {}, named(predicted)),
                answer: el("b", {}, named(answer)),
              }),
            ),
            el("span", { class: "share" }, t("dashboard.times", { n: number(n) })),
            track(n / most, "wrong"),
          ),
        ),
    ),
    unlisted ? el("p", { class: "quiet" }, unlisted) : null,
  );
}

/** @param {ClassCount[]} classes */
function classesPanel(classes) {
  const ordered = [...classes].sort((a, b) => b.total - a.total);
  const rows = ordered.map(({ label, total, right }) =>
    el(
      "li",
      {},
      el("span", { class: "what" }, named(label)),
      el(
        "span",
        { class: "share" },
        t("dashboard.share_of", {
          share: percent(total ? right / total : 0),
          right: number(right),
          total: number(total),
        }),
      ),
      track(total ? right / total : 0, "good"),
    ),
  );
  const rest = rows.slice(CLASSES_SHOWN);
  return panel(
    t("dashboard.by_class"),
    t("dashboard.by_class_how"),
    el("ol", { class: "classes" }, ...rows.slice(0, CLASSES_SHOWN)),
    rest.length
      ? el(
          "details",
          {},
          el("summary", {}, counted("more_class", rest.length)),
          el("ol", { class: "classes" }, ...rest),
        )
      : null,
  );
}

function track(share, kind) {
  const fill = el("span", { class: `fill ${kind}` });
  fill.style.inlineSize = `${share * 100}%`;
  return el("span", { class: "track", "aria-hidden": "true" }, fill);
}

byId("refresh").addEventListener("click", refresh);
setInterval(() => document.hidden || document.querySelector("dialog[open]") || refresh(), EVERY);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
const model = getModel().then(
  (info) => {
    named = naming(info);
    showFacts(info);
  },
  () => {}, // `refresh` reports the error
);
model.then(refresh);
