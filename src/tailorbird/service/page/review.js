/** The review page: one finding at a time, answered with a click or a key. */

import { announce } from "./announce.js";
import { byId, count, el, icon, svg } from "./dom.js";
import { sentence } from "./messages.js";
import { chooseClass, enlarge, showKeys } from "./review-dialogs.js";
import { address, groupView, suspectView } from "./review-item.js";
import { Store } from "./review-store.js";
import { KIND_ORDER, decisionWords, kindName, kindNames } from "./review-words.js";

const AHEAD = 8; // findings asked for in advance
const PHOTOS_AHEAD = 2; // findings whose photos are
const PHOTOS_EACH = 4; // of a finding
const KEYS_OFF = "tailorbird-review-keys-off";

const store = new Store({ onChange: tell, onTrouble: trouble });
/** Indices of the findings under the filters. @type {number[]} */
let shown = [];
let place = 0; // in `shown`; its length is the end
/** @type {import("./review-store.js").Item | null} the one on view */
let current = null;
let selected = 0; // photo of a group
/** @type {string[]} the classes of the keys 1 to 9: the largest, by name */
let quick = [];

/** @typedef {import("./review-store.js").Photo} Photo */

/** @returns {Photo[]} */
const photosOf = (item) => item.photos.map((photo) => store.photos.get(photo));
const isSuspect = (item) => item.kinds[0] === "suspect-label";

// Where we are

function filter() {
  const kind = byId("kind").value;
  const label = byId("class").value;
  shown = store.items.flatMap((item, index) =>
    (!kind || item.kinds.includes(kind)) && (!label || item.labels.includes(Number(label))) ? [index] : [],
  );
}

/** The next finding that is not done, from `start` on and round again; the end where all are. @param {number} start */
function nextOpen(start) {
  for (let step = 0; step < shown.length; step += 1) {
    const at = (start + step) % shown.length;
    if (!store.isDone(shown[at])) return at;
  }
  return shown.length;
}

/** @param {number} to place in `shown` @param {{focus?: boolean}} [how] */
async function go(to, { focus = true } = {}) {
  place = Math.max(0, Math.min(shown.length, to));
  current = null; // until the next one is on view no key decides about anything
  tell();
  if (place === shown.length) {
    byId("item").replaceChildren(end());
    settle(focus);
    return;
  }
  const index = shown[place];
  let item;
  try {
    item = await store.item(index);
  } catch (error) {
    if (shown[place] === index) trouble(error, null);
    return;
  }
  if (shown[place] !== index) return; // leafed on meanwhile
  current = item;
  selected = Math.max(0, photosOf(item).findIndex((photo) => !photo.decision));
  draw();
  settle(focus);
  lookAhead();
}

function settle(focus) {
  if (!focus) return;
  byId("item").querySelector("h2")?.focus({ preventScroll: true });
  window.scrollTo({ top: 0 });
}

function lookAhead() {
  for (let step = 1; step <= AHEAD; step += 1) {
    const index = shown[place + step];
    if (index === undefined) continue;
    store.item(index).then((item) => {
      for (const photo of photosOf(item).slice(0, step > PHOTOS_AHEAD ? 0 : PHOTOS_EACH)) new Image().src = address(photo, item.photos.length);
    }, () => null);
  }
}

function draw() {
  if (!current) return;
  const photos = photosOf(current);
  byId("item").replaceChildren(
    isSuspect(current) ? suspectView(current, photos[0], quick, store.classes.length, acts) : groupView(current, photos, selected, acts),
  );
}

/** Marks the selected photo without drawing the photos anew. @param {number} index */
function select(index) {
  selected = index;
  byId("item").querySelectorAll(".photo").forEach((card, each) => {
    card.toggleAttribute("data-selected", each === index);
    card.querySelector(".stage")?.setAttribute("aria-pressed", String(each === index));
  });
}

// Decisions

/** @param {import("./review-store.js").Choice[]} choices */
function decide(choices) {
  if (!current || !choices.length) return;
  const item = current;
  notice();
  store.decide(item.item, choices);
  const photos = photosOf(item);
  announce(choices.length === 1 ? decisionWords(store.photos.get(choices[0].photo)) : `${count(choices.length, "photo")} decided`);
  if (store.isDone(item.item)) {
    go(nextOpen(place + 1)).then(introduce);
    return;
  }
  const next = photos.findIndex((photo) => !photo.decision);
  selected = next;
  draw();
  byId("item").querySelectorAll(".photo .stage")[next]?.focus({ preventScroll: true });
}

function introduce() {
  if (!current) return announce("All done");
  announce(isSuspect(current) ? `Next: ${byId("item").querySelector("h2")?.textContent}` : `Next: ${kindName(current.kinds[0])}. ${current.message}`);
}

/** Keeps some photos of the group, excludes the others. A kept photo that was relabelled stays so. @param {Set<number>} kept */
function keepOnly(kept) {
  decide(
    current.photos.flatMap((photo) => {
      if (!kept.has(photo)) return [{ photo, decision: "exclude" }];
      return store.photos.get(photo).decision === "relabel" ? [] : [{ photo, decision: "keep" }];
    }),
  );
}

const acts = {
  accept() {
    if (!current) return;
    if (isSuspect(current)) acts.relabel(photosOf(current)[0], photosOf(current)[0].suggested);
    else if (current.proposal) keepOnly(new Set(current.keep));
  },
  keep: (photo) => decide([{ photo: photo.photo, decision: "keep" }]),
  exclude: (photo) => decide([{ photo: photo.photo, decision: "exclude" }]),
  relabel: (photo, label) => decide([label === photo.label ? { photo: photo.photo, decision: "keep" } : { photo: photo.photo, decision: "relabel", label }]),
  choose: (photo) => chooseClass(store.classes, (label) => acts.relabel(photo, label)),
  only: () => keepOnly(new Set([current.photos[selected]])),
  keepAll: () => keepOnly(new Set(current.photos)),
  select,
  enlarge: (photo) => enlarge(photo.source, photo.name),
};

async function undo() {
  const item = await store.undo();
  if (item === null) return;
  announce("Taken back");
  if (!shown.includes(item)) {
    byId("kind").value = byId("class").value = "";
    filter();
  }
  await go(shown.indexOf(item));
}

// What is said

function tell() {
  const { progress } = store;
  const done = store.items.reduce((sum, _, index) => sum + Number(store.isDone(index)), 0);
  byId("far").replaceChildren(el("b", {}, `${done.toLocaleString("en")} of ${store.items.length.toLocaleString("en")}`), " looked at");
  Object.assign(byId("progress"), { max: Math.max(1, store.items.length), value: done });
  byId("position").textContent = shown.length ? (place < shown.length ? `${place + 1} of ${shown.length}` : "End") : "";
  byId("previous").disabled = place === 0;
  byId("next").disabled = place >= shown.length;
  byId("undo").disabled = !progress.can_undo && store.saving === 0;
  const counts = `${progress.keep} kept, ${progress.relabel} relabelled, ${progress.exclude} excluded of ${count(progress.photos, "photo")}`;
  byId("facts").replaceChildren(
    fact("Saved", el("span", { class: "state", id: "saved" }, store.saving ? "Saving" : icon("check"), store.saving ? "" : counts)),
    fact("Manifest", el("code", {}, store.manifest)),
    fact("Photos", el("code", {}, store.source), ": never moved, changed or deleted"),
  );
}

const fact = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value));

function end() {
  const { progress } = store;
  const left = store.items.reduce((sum, _, index) => sum + Number(!store.isDone(index)), 0);
  const leftHere = shown.filter((index) => !store.isDone(index)).length;
  const filtered = shown.length < store.items.length;
  const title = !store.items.length ? "Nothing to look at" : leftHere ? `${count(leftHere, "finding")} left` : left ? "Nothing left here" : "All done";
  const copied = el("span", { role: "status" });
  return el(
    "div", { class: "done" },
    !leftHere && el("span", { class: "mark" }, icon("check")),
    el("h2", { tabindex: "-1" }, title),
    !store.items.length && el("p", {}, "No label is suspect, no photo is there twice."),
    el("dl", { class: "counts" }, ...[["kept", progress.keep], ["relabelled", progress.relabel], ["excluded", progress.exclude]].map(([name, n]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, n.toLocaleString("en"))))),
    el(
      "div", { class: "actions" },
      leftHere > 0 && el("button", { type: "button", class: "primary", onclick: () => go(nextOpen(0)) }, "Go on"),
      left > leftHere && el("button", { type: "button", class: leftHere ? "" : "primary", onclick: showAll }, `Show all ${count(left, "finding")} left`),
      store.items.length > 0 && el("button", { type: "button", onclick: () => go(0) }, "Look through them again"),
    ),
    el("p", {}, "The manifest is ready. Train on it:"),
    el("div", { class: "command" }, el("code", {}, store.command), el("button", { type: "button", onclick: () => copy(copied) }, "Copy"), copied),
    el("p", { class: "quiet" }, "Close this page and press Ctrl-C in the terminal when you are through. A review can be gone on with at any time."),
  );
}

async function copy(copied) {
  try {
    await navigator.clipboard.writeText(store.command);
    copied.textContent = "Copied";
  } catch {
    copied.textContent = "This browser does not let pages copy; select the line instead";
  }
}

function showAll() {
  byId("kind").value = byId("class").value = "";
  filter();
  go(nextOpen(0));
}

/** @param {string} [message] none takes it away @param {Node[]} more */
function notice(message, ...more) {
  byId("notice").replaceChildren(...(message ? [el("div", { class: "trouble" }, icon("alert"), el("p", {}, message), ...more)] : []));
}

/** @param {import("./api.js").ApiError} error @param {number | null} item that could not be saved */
function trouble(error, item) {
  if (error.code === "nothing-to-undo") return announce("There is nothing to undo");
  const advice = error.code === "network" ? "Does tailorbird review still run in its terminal? What was saved is in the manifest." : "";
  notice(`${item === null ? "" : "This decision was not saved. "}${sentence(error.message)} ${advice}`);
  if (item === null) return;
  if (!shown.includes(item)) showAll();
  go(shown.indexOf(item));
}

// Keys

const keysOff = () => localStorage.getItem(KEYS_OFF) === "1";

function help() {
  showKeys(!keysOff(), (enabled) => localStorage.setItem(KEYS_OFF, enabled ? "0" : "1"));
}

/** @type {Record<string, () => void>} */
const COMMANDS = {
  k: () => acts.keep(photosOf(current)[selected]),
  x: () => acts.exclude(photosOf(current)[selected]),
  r: () => acts.accept(),
  enter: () => acts.accept(),
  l: () => acts.choose(photosOf(current)[selected]),
  o: () => isSuspect(current) || acts.only(),
  a: () => isSuspect(current) || acts.keepAll(),
  f: () => acts.enlarge(photosOf(current)[selected]),
};
/** Those that work at the end too. @type {Record<string, () => void>} */
const ALWAYS = { z: () => store.progress.can_undo || store.saving ? undo() : announce("There is nothing to undo"), arrowleft: () => go(place - 1), arrowright: () => go(place + 1), "?": help };

function digit(number) {
  if (isSuspect(current)) {
    if (number <= quick.length) acts.relabel(photosOf(current)[0], quick[number - 1]);
  } else byId("item").querySelectorAll(".photo .stage")[number - 1]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.closest("input, select, textarea")) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && target.closest("button, a")) return;
  if (keysOff() && !["enter", "arrowleft", "arrowright"].includes(key)) return;
  const act = ALWAYS[key] ?? (current && (COMMANDS[key] ?? (/^[1-9]$/.test(key) && (() => digit(Number(key))))));
  if (!act) return;
  event.preventDefault();
  if (event.repeat && !key.startsWith("arrow")) return; // a key that is held down decides once
  act();
});

// The start

function arrow(path) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path }));
}

function fillFilters() {
  const number = (kind) => store.items.filter((item) => item.kinds.includes(kind)).length;
  byId("kind").replaceChildren(
    el("option", { value: "" }, `All findings (${store.items.length.toLocaleString("en")})`),
    ...KIND_ORDER.filter(number).map((kind) => el("option", { value: kind }, `${kindNames(kind)} (${number(kind).toLocaleString("en")})`)),
  );
  const involved = new Map();
  for (const item of store.items) for (const label of item.labels) involved.set(label, (involved.get(label) ?? 0) + 1);
  byId("class").replaceChildren(
    el("option", { value: "" }, "All classes"),
    ...[...involved].sort(([a], [b]) => a - b).map(([label, n]) => el("option", { value: label }, `${store.classes[label]} (${n.toLocaleString("en")})`)),
  );
}

async function start() {
  // The key has done its work; it need not stay in the address bar.
  if (location.search) history.replaceState(null, "", "/");
  byId("previous").append(arrow("M15 5l-7 7l7 7"));
  byId("next").append(arrow("M9 5l7 7l-7 7"));
  try {
    await store.open();
  } catch (error) {
    byId("item").replaceChildren();
    notice(sentence(error.message), el("button", { type: "button", onclick: () => location.reload() }, "Try again"));
    return;
  }
  byId("heading").textContent = `Review of ${store.name}`;
  document.title = `Review of ${store.name} · tailorbird`;
  const largest = store.classes.map((name, index) => ({ name, n: store.counts[index] })).sort((a, b) => b.n - a.n).slice(0, 9);
  quick = store.classes.filter((name) => largest.some((each) => each.name === name));
  fillFilters();
  filter();
  await go(nextOpen(0));
  for (const id of ["kind", "class"]) {
    byId(id).addEventListener("change", () => {
      filter();
      go(nextOpen(0), { focus: false });
      announce(`${count(shown.length, "finding")} shown`);
    });
  }
  byId("previous").addEventListener("click", () => go(place - 1));
  byId("next").addEventListener("click", () => go(place + 1));
  byId("undo").addEventListener("click", undo);
  byId("help").addEventListener("click", help);
  window.addEventListener("beforeunload", (event) => {
    if (store.saving) event.preventDefault();
  });
}

start();
