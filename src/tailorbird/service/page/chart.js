/**
 * Draws answers by day as SVG bars at the available width, right answers below and wrong ones on
 * top, and lists the same numbers in a table.
 */

import { dated, number, percent, t } from "./texts.js";
import { el, svg } from "./dom.js";

const HEIGHT = 220; // pixels
const EDGE = { top: 12, right: 4, bottom: 30, left: 40 };
const NARROWEST = 12; // pixels a day
const DAY = 86_400_000; // milliseconds

/**
 * @param {import("./dashboard.js").DayCount[]} days
 * @param {"chart" | "uploads_chart"} [words] the group of texts that says what is counted
 * @returns {HTMLElement}
 */
export function chart(days, words = "chart") {
  const every = withGaps(days);
  const box = el("div", { class: "chart" });
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width || now < 80) return;
    width = now;
    box.replaceChildren(drawn(every, width, words));
  }).observe(box);
  return el(
    "div",
    {},
    el(
      "p",
      { class: "key" },
      el("span", { class: "swatch good" }),
      t(`${words}.right`),
      el("span", { class: "swatch wrong" }),
      t(`${words}.other`),
    ),
    box,
    table(days, words),
  );
}

/** Adds the days without answers, with zero counts. */
function withGaps(days) {
  const known = new Map(days.map((each) => [each.day, each]));
  const times = days.map(({ day }) => Date.parse(day)).filter(Number.isFinite);
  if (!times.length) return days;
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const all = [];
  for (let time = Math.max(first, last - 364 * DAY); time <= last; time += DAY) {
    const day = new Date(time).toISOString().slice(0, 10);
    all.push(known.get(day) ?? { day, total: 0, right: 0 });
  }
  return all;
}

/**
 * Returns three to five grid values with a step of 1, 2 or 5 times a power of ten.
 * @param {number} most
 */
export function ticks(most) {
  const rough = Math.max(1, most / 4);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, index) => index * step);
}

function drawn(every, width, words) {
  const room = width - EDGE.left - EDGE.right;
  const days = every.slice(-Math.max(1, Math.floor(room / NARROWEST)));
  const lines = ticks(Math.max(1, ...days.map(({ total }) => total)));
  const top = lines[lines.length - 1];
  const y = (n) => HEIGHT - EDGE.bottom - (n / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  const slot = room / days.length;
  const bar = Math.min(44, slot * 0.72);
  const label = t(`${words}.label`, { first: days[0].day, last: days[days.length - 1].day });
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    width,
    height: HEIGHT,
    role: "img",
    "aria-label": label,
  });
  for (const n of lines) {
    picture.append(
      svg("line", { class: "rule", x1: EDGE.left, x2: width - EDGE.right, y1: y(n), y2: y(n) }),
      svg("text", { x: EDGE.left - 8, y: y(n) + 4, "text-anchor": "end" }, number(n)),
    );
  }
  const named = Math.max(1, Math.ceil(64 / slot)); // days from one date label to the next
  days.forEach(({ day, total, right }, index) => {
    const x = EDGE.left + slot * (index + 0.5);
    const rect = (kind, from, to) =>
      svg("rect", {
        class: kind,
        x: x - bar / 2,
        width: bar,
        y: y(to),
        height: Math.max(0, y(from) - y(to)),
        rx: 2,
      });
    picture.append(
      svg(
        "g",
        {},
        svg("title", {}, t(`${words}.day_title`, { day, right, total })),
        rect("good", 0, right),
        rect("wrong", right, total),
      ),
    );
    if ((days.length - 1 - index) % named === 0) {
      const edge = x + 26 > width ? width - EDGE.right : x;
      picture.append(
        svg(
          "text",
          { x: edge, y: HEIGHT - 8, "text-anchor": edge === x ? "middle" : "end" },
          short(day),
        ),
      );
    }
  });
  return picture;
}

function short(day) {
  const options = { day: "numeric", month: "short", timeZone: "UTC" };
  return dated(new Date(`${day}T00:00:00Z`), options);
}

function table(days, words) {
  const row = ({ day, total, right }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, day),
      el("td", {}, String(right)),
      el("td", {}, String(total)),
      el("td", {}, percent(total ? right / total : 0)),
    );
  const heads = ["day", "right_head", "all", "share"].map((key) =>
    el("th", { scope: "col" }, t(`${words}.${key}`)),
  );
  return el(
    "details",
    {},
    el("summary", {}, t("chart.as_table")),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t(`${words}.by_day`) },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...heads)),
        el("tbody", {}, ...[...days].reverse().map(row)),
      ),
    ),
  );
}
