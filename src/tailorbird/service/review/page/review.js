/** The review page: one finding at a time, answered with a click or a key. */

import { announce } from "./announce.js";
import { byId, el } from "./dom.js";
import { sentence } from "./messages.js";
import { makeActs } from "./acts.js";
import { endView } from "./end.js";
import { fetchAhead, groupView, suspectView } from "./item.js";
import { help, listenToKeys } from "./keys.js";
import { notice } from "./local.js";
import { drawArrows, fillFilters, showStatus, underFilters } from "./status.js";
import { Store } from "./store.js";
import { count, KEYS, kindName } from "./words.js";

const store = new Store({ onChange: () => updateStatus(), onTrouble: trouble });
/** Indices of the findings under the filters. @type {number[]} */
let shown = [];
let place = 0; // in `shown`; its length is the end
/** @type {import("./store.js").Item | null} the item in view */
let current = null;
let selected = 0; // photo of a group
/** @type {string[]} the classes of the keys 1 to 9: the largest, by name */
let quick = [];

/** @typedef {import("./store.js").Photo} Photo */

/** @returns {Photo[]} */
const photosOf = (item) => item.photos.map((photo) => store.photos.get(photo));
const isUnsure = (item) => item.kinds[0] === "unsure";
const isSuspect = (item) => isUnsure(item) || item.kinds[0] === "suspect-label";

// Navigation

/**
 * Returns the next finding that is not done, from `start` on and then from the first; the end if
 * all are done.
 * @param {number} start
 */
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
  current = null; // until the next one is in view, keys decide nothing
  updateStatus();
  if (place === shown.length) {
    byId("item").replaceChildren(
      endView(store, shown, {
        onContinue: () => go(nextOpen(0)),
        onShowAll: showAll,
        onAgain: () => go(0),
      }),
    );
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
  if (shown[place] !== index) return; // another finding was chosen meanwhile
  current = item;
  selected = Math.max(
    0,
    photosOf(item).findIndex((photo) => !photo.decision),
  );
  draw();
  settle(focus);
  fetchAhead(store, shown.slice(place + 1));
}

function settle(focus) {
  if (!focus) return;
  byId("item").querySelector("h2")?.focus({ preventScroll: true });
  window.scrollTo({ top: 0 });
}

function draw() {
  if (!current) return;
  const photos = photosOf(current);
  byId("item").replaceChildren(
    isSuspect(current)
      ? suspectView(current, photos[0], quick, store.classes.length, acts)
      : groupView(current, photos, selected, acts),
  );
}

/** Marks the selected photo without drawing the photos again. @param {number} index */
function select(index) {
  selected = index;
  byId("item")
    .querySelectorAll(".photo")
    .forEach((card, each) => {
      card.toggleAttribute("data-selected", each === index);
      card.querySelector(".stage")?.setAttribute("aria-pressed", String(each === index));
    });
}

// Decisions

/** After a decision: the next finding, or the next photo of this one. */
function decided(item) {
  if (store.isDone(item.item)) {
    go(nextOpen(place + 1)).then(introduce);
    return;
  }
  selected = photosOf(item).findIndex((photo) => !photo.decision);
  draw();
  byId("item").querySelectorAll(".photo .stage")[selected]?.focus({ preventScroll: true });
}

const { acts, ofKey } = makeActs({
  store,
  get current() {
    return current;
  },
  get selected() {
    return selected;
  },
  get quick() {
    return quick;
  },
  photos: () => photosOf(current),
  isSuspect: () => isSuspect(current),
  isUnsure: () => isUnsure(current),
  select,
  decided,
});

function introduce() {
  if (!current) return announce("All done");
  announce(
    isSuspect(current)
      ? `Next: ${byId("item").querySelector("h2")?.textContent}`
      : `Next: ${kindName(current.kinds[0])}. ${current.message}`,
  );
}

async function undo() {
  const item = await store.undo();
  if (item === null) return;
  announce("Undone");
  if (!shown.includes(item)) {
    byId("kind").value = byId("class").value = "";
    shown = underFilters(store);
  }
  await go(shown.indexOf(item));
}

// Messages

const updateStatus = () => showStatus(store, shown, place);

function showAll() {
  byId("kind").value = byId("class").value = "";
  shown = underFilters(store);
  go(nextOpen(0));
}

/**
 * @param {import("./api.js").ApiError} error
 * @param {number | null} item that could not be saved
 */
function trouble(error, item) {
  if (error.code === "nothing-to-undo") return announce("There is nothing to undo");
  const advice =
    error.code === "network"
      ? "Does tailorbird review still run in its terminal? What was saved is in the manifest."
      : "";
  notice(
    `${item === null ? "" : "This decision was not saved. "}${sentence(error.message)} ${advice}`,
  );
  if (item === null) return;
  if (!shown.includes(item)) showAll();
  go(shown.indexOf(item));
}

// Keys

/** Keys that also work at the end. @type {Record<string, () => void>} */
const ALWAYS = {
  z: () =>
    store.progress.can_undo || store.saving ? undo() : announce("There is nothing to undo"),
  arrowleft: () => go(place - 1),
  arrowright: () => go(place + 1),
  "?": () => help(KEYS),
};

listenToKeys((key) => ALWAYS[key] ?? ofKey(key));

// The start

async function start() {
  // Remove the used key from the address bar.
  if (location.search) history.replaceState(null, "", location.pathname);
  drawArrows();
  try {
    await store.open();
  } catch (error) {
    byId("item").replaceChildren();
    notice(
      sentence(error.message),
      el("button", { type: "button", onclick: () => location.reload() }, "Try again"),
    );
    return;
  }
  byId("heading").textContent = `Review of ${store.name}`;
  document.title = `Review of ${store.name} · tailorbird`;
  const largest = store.classes
    .map((name, index) => ({ name, n: store.counts[index] }))
    .sort((a, b) => b.n - a.n)
    .slice(0, 9);
  quick = store.classes.filter((name) => largest.some((each) => each.name === name));
  fillFilters(store);
  shown = underFilters(store);
  await go(nextOpen(0));
  for (const id of ["kind", "class"]) {
    byId(id).addEventListener("change", () => {
      shown = underFilters(store);
      go(nextOpen(0), { focus: false });
      announce(`${count(shown.length, "finding")} shown`);
    });
  }
  byId("previous").addEventListener("click", () => go(place - 1));
  byId("next").addEventListener("click", () => go(place + 1));
  byId("undo").addEventListener("click", undo);
  byId("help").addEventListener("click", () => help(KEYS));
  window.addEventListener("beforeunload", (event) => {
    if (store.saving) event.preventDefault();
  });
}

start();
