/** The classes, the counter of accuracy, training, and the footer. */

import { byId, el, icon, svg } from "./dom.js";
import { commandLine, fact } from "./local.js";
import { count } from "./views.js";

/** @param {HTMLElement} box @param {import("./dom.js").Child[]} children */
const fill = (box, ...children) => box.replaceChildren(...children.filter(Boolean));

const percent = (p) => `${Math.round(100 * p)}%`;

/**
 * @param {any} state
 * @param {{assign: (label: string) => void, edit: (label: string) => void}} acts
 */
export function drawClasses(state, acts) {
  const list = byId("classes");
  const focused = document.activeElement?.closest?.("#classes [data-key]")?.dataset.key;
  list.replaceChildren(
    ...state.classes.map(({ name, photos }, index) =>
      el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            class: "assign",
            "data-key": `assign ${name}`,
            "aria-label": `${name}, ${count(photos, "label")}`,
            "aria-keyshortcuts": index < 9 ? String(index + 1) : null,
            onclick: () => acts.assign(name),
          },
          index < 9 && el("kbd", { "aria-hidden": "true" }, String(index + 1)),
          el("span", { class: "name" }, name),
          el("span", { class: "n" }, photos.toLocaleString("en")),
        ),
        el(
          "button",
          {
            type: "button",
            class: "bare",
            "data-key": `edit ${name}`,
            "aria-label": `Change the class ${name}`,
            "aria-haspopup": "dialog",
            onclick: () => acts.edit(name),
          },
          icon("pencil"),
        ),
      ),
    ),
  );
  if (focused)
    for (const button of list.querySelectorAll("[data-key]"))
      if (button.dataset.key === focused) button.focus({ preventScroll: true });
}

/** Calls `add` with each class that is typed. @param {(text: string) => void} add */
export function listenToNewClasses(add) {
  byId("add").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = byId("new-class");
    const text = input.value.trim();
    input.value = "";
    input.blur();
    if (text) add(text);
  });
}

/** The answers that are no class. @param {(kind: string) => void} give */
export function drawSpecials(give) {
  byId("specials").replaceChildren(
    ...[
      ["none", "None of these", "N"],
      ["unusable", "Unusable", "U"],
      ["skip", "Later", "S"],
    ].map(([kind, text, key]) =>
      el(
        "button",
        { type: "button", "aria-keyshortcuts": key, onclick: () => give(kind) },
        el("span", {}, text),
        el("kbd", { "aria-hidden": "true" }, key),
      ),
    ),
  );
}

/**
 * The progress of reading and the numbers of answers.
 * @param {any} state @param {boolean} saving
 */
export function drawStatus(state, saving) {
  const { reading, answers, undo } = state;
  const labels = answers.label;
  byId("far").replaceChildren(
    el("b", {}, count(labels, "label")),
    reading.finished
      ? ` of ${count(reading.usable, "photo")}`
      : ` · reading ${reading.done.toLocaleString("en")} of ${count(reading.total, "photo")}`,
  );
  Object.assign(
    byId("progress"),
    reading.finished
      ? { max: Math.max(1, reading.usable), value: labels }
      : { max: Math.max(1, reading.total), value: reading.done },
  );
  byId("undo").disabled = !undo;
  byId("undo").title = undo ? `Undo: ${undo.about}` : "";
  const unread = reading.done - reading.usable;
  byId("facts").replaceChildren(
    fact(
      "Saved",
      el(
        "span",
        { class: "state", id: "saved" },
        saving ? "Saving" : icon("check"),
        saving
          ? ""
          : `${count(labels, "label")}, ${count(answers.steps, "step")}` +
              (unread > 0 ? `; ${count(unread, "file")} cannot be read` : ""),
      ),
    ),
    fact("Manifest", el("code", {}, state.manifest)),
    fact("Photos", el("code", {}, state.source), ": never moved, changed or deleted"),
  );
}

/** The accuracy on blind photos and what more labels would bring. @param {any} state */
export function drawOutlook({ outlook }) {
  const box = byId("outlook");
  const [low, high] = outlook.interval;
  const known = outlook.accuracy !== null && outlook.blind > 0;
  fill(
    box,
    el("h2", {}, "How good is it already?"),
    known
      ? el(
          "p",
          {},
          el("span", { class: "figure" }, percent(outlook.accuracy)),
          ` right of ${count(outlook.blind, "blind photo")}`,
        )
      : el("p", { class: "quiet" }, "Known once some photos were asked about blindly."),
    known &&
      el(
        "p",
        { class: "quiet" },
        `Of new photos, between ${percent(low)} and ${percent(high)} (95% interval)`,
      ),
    outlook.curve.length > 1 && chart(outlook.curve),
    known && el("p", { class: outlook.stop ? "stop" : "quiet" }, sentence(outlook.advice)),
  );
}

const sentence = (text) => text && `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

/** The learning curve. @param {[number, number][]} curve */
function chart(curve) {
  const [first, last] = [curve[0], curve.at(-1)];
  const values = curve.map(([, accuracy]) => accuracy);
  const floor = Math.max(0, Math.min(...values) - 0.05);
  const x = (n) => (100 * (n - first[0])) / Math.max(1, last[0] - first[0]);
  const y = (accuracy) => 40 - (40 * (accuracy - floor)) / Math.max(0.01, 1 - floor);
  const text = curve.map(([n, accuracy]) => `${percent(accuracy)} with ${n} labels`).join(", ");
  return el(
    "div",
    {},
    svg(
      "svg",
      {
        class: "curve",
        viewBox: "0 0 100 40",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Learning curve: ${text}`,
      },
      svg("line", { x1: 0, x2: 100, y1: 40, y2: 40 }),
      svg("polyline", { points: curve.map(([n, a]) => `${x(n)},${y(a)}`).join(" ") }),
    ),
    el(
      "p",
      { class: "ends", "aria-hidden": "true" },
      el("span", {}, `${first[0]} labels: ${percent(first[1])}`),
      el("span", {}, `${last[0]}: ${percent(last[1])}`),
    ),
  );
}

/** @param {any} state @param {() => void} train */
export function drawTraining(state, train) {
  const { training } = state;
  const running = training.state === "running";
  const progress = training.total ? ` ${percent(training.done / training.total)}` : "";
  const key = JSON.stringify([training, state.can_train, state.command]);
  const box = byId("training");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  fill(
    box,
    el("h2", {}, "Train"),
    el(
      "button",
      {
        type: "button",
        id: "train",
        class: "primary",
        disabled: running || !state.can_train,
        onclick: train,
      },
      running ? `Training: ${training.stage}${progress}` : "Train and open the report",
    ),
    training.message && el("p", { role: "status" }, sentence(training.message)),
    training.report &&
      el("p", {}, el("a", { href: "report", target: "_blank" }, "Open the report")),
    state.can_train
      ? el("p", { class: "quiet" }, "Or in the terminal:")
      : el("p", { class: "quiet" }, "From three labels of each of two classes on."),
    state.can_train && commandLine(state.command),
  );
}

/**
 * Starts a training; its report opens in a tab of its own when it is ready.
 * @param {import("./store.js").Store} store
 */
export async function startTraining(store) {
  // Opened by the click itself: browsers block windows that are opened later.
  const tab = window.open("about:blank", "tailorbird-report");
  try {
    await store.train();
  } catch (error) {
    tab?.close();
    throw error;
  }
  if (tab) tab.location.href = new URL("report", location.href).href;
}
