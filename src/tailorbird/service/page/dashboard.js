/**
 * The dashboard: how often the model was right, according to people's answers. Fetched every 30
 * seconds while the page is visible.
 */

import { ApiError } from "./api.js";
import { getModel, getStats } from "./calls.js";
import { advice, sentence } from "./messages.js";
import { byId, count, el, icon, percent } from "./dom.js";
import { chart } from "./chart.js";
import { showFacts } from "./facts.js";

/**
 * @typedef {{label: string, total: number, right: number}} ClassCount by the answer, the
 *   correct class of the photos
 * @typedef {{day: string, total: number, right: number}} DayCount
 * @typedef {{predicted: string, answer: string, count: number}} Mistake
 * @typedef {{total: number, right: number, accuracy: number | null, interval: [number, number] |
 *   null, per_class: ClassCount[], by_day: DayCount[], mistaken: Mistake[]}} Stats
 */

const EVERY = 30_000; // milliseconds between two fetches
const MISTAKES_SHOWN = 6;
const CLASSES_SHOWN = 20; // the others are in a closed <details>

let shown = "";
let busy = false;

async function refresh() {
  if (busy) return;
  busy = true;
  try {
    const stats = await getStats();
    const text = JSON.stringify(stats);
    if (text !== shown) draw(stats); // unchanged figures keep focus and open <details>
    shown = text;
    byId("notice").replaceChildren();
    byId("updated").textContent =
      `As of ${new Date().toLocaleTimeString("en-GB")}, fetched again every 30 seconds`;
  } catch (error) {
    trouble(error);
  } finally {
    busy = false;
  }
}

function trouble(error) {
  if (!(error instanceof ApiError)) console.error(error);
  const known =
    error instanceof ApiError ? error : new ApiError(0, "unexpected", `This page failed: ${error}`);
  const off = known.status === 404;
  const network = known.code === "network";
  const todo = off
    ? "Once whoever runs this server turns corrections on, answers are counted here."
    : network
      ? "Check your connection; the page keeps trying."
      : advice(known.code);
  byId("notice").replaceChildren(
    el(
      "div",
      { class: "trouble" },
      icon("alert"),
      el("div", {}, el("p", {}, el("strong", {}, sentence(known.message))), el("p", {}, todo)),
    ),
  );
  byId("updated").textContent = shown ? "These figures are older" : "No figures yet";
}

/** @param {Stats} stats */
function draw(stats) {
  byId("figures").replaceChildren(...(stats.total ? figures(stats) : [empty()]));
}

function empty() {
  return el(
    "section",
    { class: "panel empty" },
    el("h2", {}, "No answers yet"),
    el(
      "p",
      {},
      "When someone marks a suggestion on the photo page as right or wrong, it is counted here.",
    ),
    el("p", {}, el("a", { href: "./" }, "Add a photo")),
  );
}

/** @param {Stats} stats */
function figures(stats) {
  return [
    el(
      "div",
      { class: "pair" },
      accuracyPanel(stats),
      mistakesPanel(stats.mistaken, stats.total - stats.right),
    ),
    ...(stats.by_day.length ? [panel("Over time", "Answers by day", chart(stats.by_day))] : []),
    classesPanel(stats.per_class),
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
  return el(
    "section",
    { class: "panel accuracy" },
    el("h2", {}, "Accuracy in use"),
    el("p", { class: "big" }, percent(share)),
    el("p", {}, `right in ${right.toLocaleString("en")} of ${count(total, "answer")}`),
    interval ? range(share, interval) : null,
    el(
      "p",
      { class: "quiet" },
      "Only photos that someone answered about are counted; they may differ from the others.",
    ),
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
    el("p", {}, `95% interval: ${percent(low)} to ${percent(high)}`),
    el("div", { class: "line", "aria-hidden": "true" }, span, point),
    el(
      "div",
      { class: "ends quiet", "aria-hidden": "true" },
      el("span", {}, "0%"),
      el("span", {}, "100%"),
    ),
  );
}

/** @param {Mistake[]} mistakes @param {number} wrong */
function mistakesPanel(mistakes, wrong) {
  if (!mistakes.length)
    return panel("Most often mistaken", "Nothing yet: every answer was “right”.");
  const most = mistakes[0].count;
  return panel(
    "Most often mistaken",
    `${count(wrong, "answer")} named another class`,
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
              "predicted ",
              el("b", {}, predicted),
              ", was ",
              el("b", {}, answer),
            ),
            el("span", { class: "share" }, `${n.toLocaleString("en")}×`),
            track(n / most, "wrong"),
          ),
        ),
    ),
  );
}

/** @param {ClassCount[]} classes */
function classesPanel(classes) {
  const ordered = [...classes].sort((a, b) => b.total - a.total);
  const rows = ordered.map(({ label, total, right }) =>
    el(
      "li",
      {},
      el("span", { class: "what" }, label),
      el(
        "span",
        { class: "share" },
        `${percent(total ? right / total : 0)} · ` +
            `${right.toLocaleString("en")} of ${total.toLocaleString("en")}`,
      ),
      track(total ? right / total : 0, "good"),
    ),
  );
  const rest = rows.slice(CLASSES_SHOWN);
  return panel(
    "By class",
    "Share of right predictions by correct class; classes with most answers first",
    el("ol", { class: "classes" }, ...rows.slice(0, CLASSES_SHOWN)),
    rest.length
      ? el(
          "details",
          {},
          el("summary", {}, `${count(rest.length, "more class", "more classes")}`),
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
refresh();
getModel().then(showFacts, () => {}); // `refresh` reports the error
