/** The labelling page: what is asked next, answered with a click or a key. */

import { announce } from "./announce.js";
import { editClass, KEYS } from "./class_dialog.js";
import { chooseClass, enlarge } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { help, listenToKeys } from "./keys.js";
import { notice } from "./local.js";
import { sentence } from "./messages.js";
import * as side from "./side.js";
import { Store } from "./store.js";
import {
  askView,
  count,
  fetchAhead,
  focusTile,
  idleView,
  sheetView,
  tileInRow,
  updateTile,
  words,
} from "./views.js";

const WAIT = 700; // milliseconds between two looks at a server that still reads photos
const LOOK = 2500; // milliseconds between two looks at its progress

const NARROW = window.matchMedia("(max-width: 52rem)"); // the classes are below the photos

const store = new Store(draw);
/** @type {import("./store.js").Screen | null} */
let screen = null;
/** The answers of the present screen. @type {{kind: string, label: string}[]} */
let said = [];
let at = 0; // the photo that is asked about, or selected in the sheet
let moving = false; // the next screen is on its way: keys answer nothing
let shownClasses = "";

function draw() {
  const { state } = store;
  if (!state) return;
  const classes = JSON.stringify(state.classes);
  if (classes !== shownClasses) side.drawClasses(state, { assign, edit });
  shownClasses = classes;
  side.drawStatus(state, store.busy > 0);
  side.drawOutlook(state);
  side.drawTraining(state, train);
  if (state.problem || state.reading.problem)
    notice(sentence(state.problem || state.reading.problem));
}

const current = () => screen?.photos[at];
const isOpen = () => Boolean(current()) && !moving;

// Screens

async function next() {
  moving = true;
  try {
    screen = await store.screen();
  } catch (error) {
    return trouble(error);
  } finally {
    moving = false;
  }
  at = 0;
  said = screen.photos.map((photo) => ({ kind: "label", label: photo.proposal }));
  drawScreen();
  if (screen.kind === "wait") setTimeout(next, WAIT);
  return undefined;
}

function drawScreen() {
  const place = byId("screen");
  if (screen.kind === "ask") {
    const photo = current();
    place.replaceChildren(
      askView(photo, {
        left: screen.photos.length - at - 1,
        blind: screen.blind,
        enlarge: () => enlarge(photo.source, photo.name),
      }),
    );
    fetchAhead(screen.photos.slice(at + 1, at + 3));
    announce(`What is this? Photo ${photo.name}`);
  } else if (screen.kind === "sheet") {
    place.replaceChildren(
      sheetView(screen.photos, said, {
        selected: at,
        only: store.only,
        confirm,
        select,
        choose: () => NARROW.matches && choose(),
        enlarge: (photo) => enlarge(photo.source, photo.name),
        stopOnly: () => showOnly(""),
      }),
    );
  } else {
    place.replaceChildren(idleView(screen.kind, store.state, store.only, () => showOnly("")));
  }
  if (screen.kind !== "ask") announce(place.querySelector("h2").textContent);
  const elsewhere = document.activeElement?.closest("input, dialog, #training, .tools");
  if (!elsewhere) place.querySelector("h2").focus({ preventScroll: true });
  if (screen.kind === "ask" && !store.classes.length) byId("new-class").focus();
}

function select(index) {
  const former = at;
  at = index;
  for (const each of [former, index]) redraw(each);
}

function redraw(index) {
  const tile = byId("screen").querySelector(`[data-index="${index}"]`);
  if (tile) updateTile(tile, screen.photos[index], said[index], index === at);
}

const move = (step) => screen?.kind === "sheet" && focusTile(at + step);
const moveRow = (step) => screen?.kind === "sheet" && focusTile(tileInRow(at, step));

const given = (photo, answer) => ({ photo: photo.photo, ...answer, seen: photo.seen });

/** @param {{kind: string, label: string}} answer about the photo that is asked or selected */
async function give(answer) {
  if (!isOpen()) return;
  if (screen.kind === "sheet") {
    said[at] = answer;
    redraw(at);
    focusTile(at);
    announce(words(answer));
    return;
  }
  const photo = current();
  moving = true;
  notice();
  try {
    await store.answer([given(photo, answer)]);
  } catch (error) {
    moving = false;
    trouble(error);
    return;
  }
  moving = false;
  at += 1;
  announce(words(answer));
  if (current()) drawScreen();
  else await next();
}

const assign = (label) => give({ kind: "label", label });

async function confirm() {
  if (!isOpen() || screen.kind !== "sheet") return;
  moving = true;
  notice();
  const changed = said.filter((each, i) => each.label !== screen.photos[i].proposal).length;
  try {
    await store.answer(screen.photos.map((photo, index) => given(photo, said[index])));
  } catch (error) {
    moving = false;
    trouble(error);
    return;
  }
  announce(`${count(screen.photos.length, "photo")} labelled, ${changed} corrected`);
  await next();
}

async function undo() {
  notice();
  try {
    const undone = await store.undo();
    if (!undone) return announce("There is nothing to undo");
    const { about, photos } = undone;
    announce(`Undone: ${about}`);
    if (photos.length === 1) {
      // Asked again at once, then the rest of the screen.
      const rest = screen.kind === "ask" ? screen.photos.slice(at) : [];
      screen = {
        kind: "ask",
        blind: screen.blind && screen.kind === "ask",
        photos: [...photos, ...rest],
      };
      at = 0;
      said = screen.photos.map(() => ({ kind: "label", label: "" }));
      drawScreen();
    } else await next();
  } catch (error) {
    trouble(error);
  }
  return undefined;
}

/** @param {import("./api.js").ApiError} error */
async function trouble(error) {
  if (error.code === "conflict") {
    announce("Another window was quicker");
    await store.refresh().catch(() => null);
    await next();
  }
  const advice =
    error.code === "network"
      ? " Does tailorbird label still run in its terminal? What was saved is on the disk."
      : "";
  notice(sentence(error.message) + advice);
}

// Classes

/** Adds a class and gives it to the photo that is asked about. @param {string} text */
async function addClass(text) {
  notice();
  try {
    const label = await store.addClass(text);
    if (screen?.kind === "ask" && isOpen()) await assign(label);
    else announce(`Class ${label} added`);
  } catch (error) {
    trouble(error);
  }
}

const edit = (name) =>
  editClass(name, {
    rename: (text) => store.rename(name, text).then(() => next(), trouble),
    showOnly: () => showOnly(name),
  });

/** @param {string} name a class of which alone photos are proposed; empty for all */
function showOnly(name) {
  store.only = name;
  next();
}

/** Lets a class be chosen by name for the photo that is asked about or selected. */
function choose() {
  chooseClass(store.classes, assign, {
    onNew: async (text) => {
      const label = await store.addClass(text).catch(trouble);
      if (label) assign(label);
    },
  });
}

// Training

const train = () => side.startTraining(store).then(look, trouble);

let looking = 0;
/** Looks at the server's progress while photos are read or a model is trained. */
function look() {
  clearTimeout(looking);
  looking = setTimeout(async () => {
    await store.refresh().catch(() => null);
    look();
  }, LOOK);
}

// Keys and the start

/** @type {Record<string, () => void>} */
const ALWAYS = {
  z: undo,
  "?": () => help(KEYS),
  c: () => byId("new-class").focus(),
};

/** @type {Record<string, () => void>} */
const COMMANDS = {
  enter: confirm,
  n: () => give({ kind: "none", label: "" }),
  u: () => give({ kind: "unusable", label: "" }),
  s: () => give({ kind: "skip", label: "" }),
  f: () => enlarge(current().source, current().name),
  l: choose,
  arrowleft: () => move(-1),
  arrowright: () => move(1),
  arrowup: () => moveRow(-1),
  arrowdown: () => moveRow(1),
};

listenToKeys((key) => {
  if (ALWAYS[key]) return ALWAYS[key];
  if (!isOpen()) return null;
  const label = /^[1-9]$/.test(key) && store.classes[Number(key) - 1];
  return label ? () => assign(label) : COMMANDS[key];
});

async function start() {
  // Remove the used key from the address bar.
  if (location.search) history.replaceState(null, "", location.pathname);
  try {
    await store.refresh();
  } catch (error) {
    notice(
      sentence(error.message),
      el("button", { type: "button", onclick: () => location.reload() }, "Try again"),
    );
    return;
  }
  byId("heading").textContent = `Label ${store.state.name}`;
  document.title = `Label ${store.state.name} · tailorbird`;
  side.drawSpecials((kind) => give({ kind, label: "" }));
  byId("undo").addEventListener("click", undo);
  byId("help").addEventListener("click", () => help(KEYS));
  side.listenToNewClasses(addClass);
  await next();
  look();
}

start();
