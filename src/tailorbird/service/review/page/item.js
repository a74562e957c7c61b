/** Draws one item: a photo with a question, or several photos side by side. */

import { el } from "./dom.js";
import { answer, pressed, question, verdict } from "./question.js";
import { percent } from "./texts.js";
import { kindName, likely } from "./words.js";

/**
 * @typedef {import("./store.js").Photo} Photo
 * @typedef {import("./store.js").Item} Item
 * @typedef {{accept: () => void, keep: (photo: Photo) => void, exclude: (photo: Photo) => void,
 *   relabel: (photo: Photo, label: string) => void,
 *   choose: (photo: Photo) => void, only: () => void, keepAll: () => void, select: (index: number)
 *   => void, enlarge: (photo: Photo) => void}} Acts
 */

// pixels; few sizes, so that a photo is fetched in advance in the size that is shown
const SIDES = [512, 1024, 1600, 2048];

/** @param {number} width CSS pixels of the place it is shown in */
function side(width) {
  const wanted = width * Math.min(3, window.devicePixelRatio || 1);
  return SIDES.find((each) => each >= wanted * 0.9) ?? 2048;
}

/**
 * Returns the address of a photo in the size that an item shows.
 * @param {Photo} photo
 * @param {number} count of photos in the item
 */
export function address(photo, count) {
  const width = Math.min(window.innerWidth, 1344);
  return `${photo.source}&side=${side(count > 1 ? Math.min(width, 480) : Math.min(width, 900))}`;
}

/** @param {Photo} photo @param {number} count */
function picture(photo, count) {
  return el("img", {
    src: address(photo, count),
    alt: `Photo ${photo.name}`,
    decoding: "async",
    draggable: "false",
    loading: count > 12 ? "lazy" : "eager",
    onerror: (event) =>
      event.target.replaceWith(
        el(
          "span",
          { class: "gone" },
          `${photo.name} cannot be shown: it was removed or damaged since the scan.`,
        ),
      ),
  });
}

function chips(item, photo) {
  return el(
    "p",
    { class: "kicker" },
    ...item.kinds.map((kind) => el("span", { class: "chip" }, kindName(kind))),
    photo?.split && el("span", { class: "chip split" }, photo.split),
  );
}

/**
 * @param {Item} item
 * @param {Photo} photo
 * @param {string[]} quick the classes of the keys 1 to 9
 * @param {number} classes how many there are
 * @param {Acts} acts
 */
export function suspectView(item, photo, quick, classes, acts) {
  const others = quick
    .map((name, index) => ({ name, key: String(index + 1) }))
    .filter(({ name }) => name !== photo.label && name !== photo.suggested);
  const was = photo.decision;
  return el(
    "div",
    { class: "suspect" },
    el(
      "button",
      {
        type: "button",
        class: "stage",
        "aria-label": `Photo ${photo.name}. Show it as large as the window`,
        onclick: () => acts.enlarge(photo),
      },
      picture(photo, 1),
    ),
    el(
      "div",
      { class: "panel" },
      chips(item, photo),
      ...question(item, photo, acts),
      el("p", { class: "or" }, "Or it is"),
      el(
        "div",
        { class: "classes" },
        ...others.map(({ name, key }) =>
          answer(name, key, () => acts.relabel(photo, name), {
            "aria-pressed": pressed(was === "relabel" && photo.now === name),
          }),
        ),
        answer(
          classes > quick.length ? `Another of ${classes.toLocaleString("en")} classes` : "Search",
          "L",
          () => acts.choose(photo),
          { "aria-haspopup": "dialog" },
        ),
      ),
      el("p", { class: "file" }, photo.name),
    ),
  );
}

/** @param {Item} item @param {Photo[]} photos @param {number} selected @param {Acts} acts */
export function groupView(item, photos, selected, acts) {
  return el(
    "div",
    { class: "group", "data-photos": photos.length },
    el(
      "div",
      { class: "summary" },
      chips(item, null),
      el(
        "h2",
        { class: "question", tabindex: "-1" },
        item.message.charAt(0).toUpperCase() + item.message.slice(1),
      ),
      el("p", {}, item.reason),
    ),
    el(
      "div",
      { class: "actions" },
      item.proposal && answer(item.proposal, "Enter", acts.accept, { class: "primary" }),
      answer("Keep only the selected one", "O", acts.only),
      item.kinds[0] !== "near-duplicate" &&
        answer(photos.length === 2 ? "Keep both" : "Keep all", "A", acts.keepAll),
    ),
    el(
      "ul",
      { class: "photos" },
      ...photos.map((photo, index) => one(photo, index, index === selected, photos, acts)),
    ),
    photos.length > 9 &&
      el("p", { class: "quiet" }, "The keys 1 to 9 select the first nine; Tab reaches all."),
  );
}

function one(photo, index, isSelected, photos, acts) {
  const judged =
    photo.label_probability !== null && new Set(photos.map((each) => each.label)).size > 1;
  return el(
    "li",
    { class: "photo", "data-decision": photo.decision || null, "data-selected": isSelected },
    el(
      "button",
      {
        type: "button",
        class: "stage",
        "aria-pressed": pressed(isSelected),
        "aria-label": `Select photo ${index + 1}, ${photo.name}, labelled ${photo.now}`,
        onclick: () => acts.select(index),
        onfocus: () => acts.select(index),
        ondblclick: () => acts.enlarge(photo),
      },
      picture(photo, photos.length),
      el("span", { class: "number", "aria-hidden": "true" }, String(index + 1)),
    ),
    el(
      "div",
      { class: "about" },
      el("h3", {}, photo.now, photo.split && el("span", { class: "chip split" }, photo.split)),
      judged &&
        el(
          "p",
          { class: "rest" },
          `${photo.label}: ${likely(photo.label_probability)}, ${percent(photo.label_probability)}`,
        ),
      el("p", { class: "file" }, photo.name),
      verdict(photo),
      el(
        "div",
        { class: "actions" },
        el(
          "button",
          {
            type: "button",
            "aria-pressed": pressed(photo.decision === "keep"),
            onclick: () => acts.keep(photo),
          },
          "Keep",
        ),
        el(
          "button",
          {
            type: "button",
            "aria-pressed": pressed(photo.decision === "exclude"),
            onclick: () => acts.exclude(photo),
          },
          "Exclude",
        ),
        el(
          "button",
          {
            type: "button",
            "aria-pressed": pressed(photo.decision === "relabel"),
            "aria-haspopup": "dialog",
            onclick: () => acts.choose(photo),
          },
          "Relabel",
        ),
      ),
    ),
  );
}

const AHEAD = 8; // findings fetched in advance
const PHOTOS_AHEAD = 2; // findings whose photos are fetched in advance
const PHOTOS_EACH = 4; // photos fetched for each of these

/**
 * Fetches the next findings, and the photos of the first of them.
 * @param {import("./store.js").Store} store
 * @param {number[]} coming
 */
export function fetchAhead(store, coming) {
  coming.slice(0, AHEAD).forEach((index, step) => {
    store.item(index).then(
      (item) => {
        for (const photo of item.photos.slice(0, step < PHOTOS_AHEAD ? PHOTOS_EACH : 0))
          new Image().src = address(store.photos.get(photo), item.photos.length);
      },
      () => null,
    );
  });
}
