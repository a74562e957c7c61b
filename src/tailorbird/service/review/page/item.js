/** Draws one item: a photo with a question, or several photos side by side. */

import { el, icon } from "./dom.js";
import { percent } from "./texts.js";
import { decisionWords, kindName, likely } from "./words.js";

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

/**
 * @param {string} text
 * @param {string} key
 * @param {() => void} act
 * @param {Record<string, unknown>} [attributes]
 */
function answer(text, key, act, attributes = {}) {
  const shortcut = { Enter: "⏎" }[key] ?? key;
  return el(
    "button",
    { type: "button", "aria-keyshortcuts": key, onclick: act, ...attributes },
    el("span", {}, text),
    el("kbd", { "aria-hidden": "true" }, shortcut),
  );
}

function chips(item, photo) {
  return el(
    "p",
    { class: "kicker" },
    ...item.kinds.map((kind) => el("span", { class: "chip" }, kindName(kind))),
    photo?.split && el("span", { class: "chip split" }, photo.split),
  );
}

function verdict(photo) {
  const mark =
    photo.decision &&
    icon(
      photo.decision === "exclude" ? "cross" : photo.decision === "relabel" ? "pencil" : "check",
    );
  return el("p", { class: `verdict ${photo.decision}` }, mark, decisionWords(photo));
}

function bar(role, label, probability) {
  const fill = el("span", { class: "fill" });
  fill.style.inlineSize = `${100 * probability}%`;
  return el(
    "li",
    {},
    el("span", { class: "what" }, el("span", {}, role), " ", label),
    el("span", { class: "words" }, `${likely(probability)}, ${percent(probability)}`),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
  );
}

const pressed = (yes) => (yes ? "true" : "false");

/** The question about a label that is probably wrong. */
function labelled(photo, acts) {
  const was = photo.decision;
  return [
    el(
      "h2",
      { class: "question", tabindex: "-1" },
      "Labelled ",
      photo.label,
      ". Is it ",
      el("em", {}, photo.suggested ?? ""),
      "?",
    ),
    el(
      "ul",
      { class: "odds" },
      bar("looks like", photo.suggested, photo.suggested_probability ?? 0),
      bar("labelled", photo.label, photo.label_probability ?? 0),
    ),
    verdict(photo),
    el(
      "div",
      { class: "answers" },
      answer(`Relabel as ${photo.suggested}`, "Enter", acts.accept, {
        class: "primary wide",
        "aria-pressed": pressed(was === "relabel" && photo.now === photo.suggested),
      }),
      answer(`Keep ${photo.label}`, "K", () => acts.keep(photo), {
        "aria-pressed": pressed(was === "keep"),
      }),
      exclusion(photo, acts),
    ),
  ];
}

/** The question about a guess of which the model was not sure. */
function guessed(photo, acts) {
  const was = photo.decision;
  return [
    el(
      "h2",
      { class: "question", tabindex: "-1" },
      "Is it ",
      el("em", {}, photo.label),
      " or ",
      photo.suggested ?? "",
      "?",
    ),
    el(
      "ul",
      { class: "odds" },
      bar("looks like", photo.label, photo.label_probability ?? 0),
      bar("or", photo.suggested, photo.suggested_probability ?? 0),
    ),
    verdict(photo),
    el(
      "div",
      { class: "answers" },
      answer(`It is ${photo.label}`, "Enter", acts.accept, {
        class: "primary wide",
        "aria-pressed": pressed(was === "keep"),
      }),
      answer(`It is ${photo.suggested}`, "R", () => acts.relabel(photo, photo.suggested), {
        "aria-pressed": pressed(was === "relabel" && photo.now === photo.suggested),
      }),
      exclusion(photo, acts),
    ),
  ];
}

const exclusion = (photo, acts) =>
  answer("Exclude", "X", () => acts.exclude(photo), {
    "aria-pressed": pressed(photo.decision === "exclude"),
  });

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
      ...(item.kinds[0] === "unsure" ? guessed(photo, acts) : labelled(photo, acts)),
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
