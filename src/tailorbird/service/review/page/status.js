/**
 * The parts around a finding: filters, progress, saved decisions, errors.
 */

import { byId, el, icon, svg } from "./dom.js";
import { fact } from "./local.js";
import { count, KIND_ORDER, kindNames } from "./words.js";

/**
 * Shows the progress and the counts of saved decisions.
 * @param {import("./store.js").Store} store
 * @param {number[]} shown
 * @param {number} place in `shown`
 */
export function showStatus(store, shown, place) {
  const { progress } = store;
  const done = store.items.reduce((sum, _, index) => sum + Number(store.isDone(index)), 0);
  byId("far").replaceChildren(
    el("b", {}, `${done.toLocaleString("en")} of ${store.items.length.toLocaleString("en")}`),
    " reviewed",
  );
  Object.assign(byId("progress"), { max: Math.max(1, store.items.length), value: done });
  byId("position").textContent = shown.length
    ? place < shown.length
      ? `${place + 1} of ${shown.length}`
      : "End"
    : "";
  byId("previous").disabled = place === 0;
  byId("next").disabled = place >= shown.length;
  byId("undo").disabled = !progress.can_undo && store.saving === 0;
  const { keep, relabel, exclude, photos } = progress;
  const all = count(photos, "photo");
  const counts = `${keep} kept, ${relabel} relabelled, ${exclude} excluded of ${all}`;
  byId("facts").replaceChildren(
    fact(
      "Saved",
      el(
        "span",
        { class: "state", id: "saved" },
        store.saving ? "Saving" : icon("check"),
        store.saving ? "" : counts,
      ),
    ),
    fact("Manifest", el("code", {}, store.manifest)),
    fact("Photos", el("code", {}, store.source), ": never moved, changed or deleted"),
  );
}

/** @param {import("./store.js").Store} store */
export function fillFilters(store) {
  const number = (kind) => store.items.filter((item) => item.kinds.includes(kind)).length;
  byId("kind").replaceChildren(
    el("option", { value: "" }, `All findings (${store.items.length.toLocaleString("en")})`),
    ...KIND_ORDER.filter(number).map((kind) =>
      el("option", { value: kind }, `${kindNames(kind)} (${number(kind).toLocaleString("en")})`),
    ),
  );
  const involved = new Map();
  for (const item of store.items)
    for (const label of item.labels) involved.set(label, (involved.get(label) ?? 0) + 1);
  byId("class").replaceChildren(
    el("option", { value: "" }, "All classes"),
    ...[...involved]
      .sort(([a], [b]) => a - b)
      .map(([label, n]) =>
        el("option", { value: label }, `${store.classes[label]} (${n.toLocaleString("en")})`),
      ),
  );
}

/** Draws the arrows of the previous and next buttons. */
export function drawArrows() {
  for (const [id, path] of [
    ["previous", "M15 5l-7 7l7 7"],
    ["next", "M9 5l7 7l-7 7"],
  ]) {
    byId(id).append(
      svg(
        "svg",
        { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
        svg("path", { d: path }),
      ),
    );
  }
}

/**
 * Returns the findings that pass the filters.
 * @param {import("./store.js").Store} store
 * @returns {number[]}
 */
export function underFilters(store) {
  const kind = byId("kind").value;
  const label = byId("class").value;
  return store.items.flatMap((item, index) =>
    (!kind || item.kinds.includes(kind)) && (!label || item.labels.includes(Number(label)))
      ? [index]
      : [],
  );
}
