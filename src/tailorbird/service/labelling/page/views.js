/** Draws what is asked: one photo, or a sheet of photos with proposals. */

import { el, icon } from "./dom.js";
import { percent } from "./texts.js";

/** @param {number} n @param {string} one */
export const count = (n, one) => `${n.toLocaleString("en")} ${n === 1 ? one : `${one}s`}`;

const WORDS = { none: "none of these", unusable: "unusable", skip: "later" };

/** An answer in words. @param {{kind: string, label: string}} said */
export const words = (said) => (said.kind === "label" ? said.label : WORDS[said.kind]);

function picture(photo, side, alt) {
  return el("img", {
    src: `${photo.source}&side=${side}`,
    alt,
    decoding: "async",
    draggable: "false",
    onerror: (event) =>
      event.target.replaceWith(
        el("span", { class: "gone" }, `${photo.name} cannot be shown: it was removed or changed.`),
      ),
  });
}

/** Fetches the large pictures of photos in advance. @param {import("./store.js").Photo[]} photos */
export function fetchAhead(photos) {
  for (const photo of photos) new Image().src = `${photo.source}&side=1024`;
}

/**
 * One photo without a proposal.
 * @param {import("./store.js").Photo} photo
 * @param {{left: number, blind: boolean, enlarge: () => void}} options
 */
export function askView(photo, { left, blind, enlarge }) {
  return el(
    "div",
    { class: "one" },
    el("h2", { class: "question", tabindex: "-1" }, "What is this?"),
    el(
      "p",
      { class: "hint" },
      blind
        ? "Asked blindly: drawn at random, for validation and test. "
        : "Choose a class, or type a new one. ",
      left > 0 && `${count(left, "more photo")} like this.`,
    ),
    el(
      "button",
      {
        type: "button",
        class: "stage",
        "aria-label": `Photo ${photo.name}. Show it as large as the window`,
        onclick: enlarge,
      },
      picture(photo, 1024, `Photo ${photo.name}`),
    ),
    el("p", { class: "file" }, photo.name),
  );
}

/**
 * A sheet: groups of photos, each with the class that is proposed for it.
 * @param {import("./store.js").Photo[]} photos
 * @param {{kind: string, label: string}[]} said the answers as they stand
 * @param {{selected: number, only: string, confirm: () => void, select: (index: number) => void,
 *   choose: () => void, enlarge: (photo: any) => void, stopOnly: () => void}} acts
 */
export function sheetView(photos, said, acts) {
  const groups = [...new Set(photos.map((photo) => photo.proposal))];
  const title =
    groups.length === 1
      ? `${photos.length === 1 ? "Is this" : `Are these ${photos.length}`} ${groups[0]}?`
      : `Is this right for these ${photos.length}?`;
  return el(
    "div",
    { class: "sheet" },
    el(
      "div",
      { class: "sheet-head" },
      el("h2", { class: "question", tabindex: "-1" }, title),
      el(
        "button",
        {
          type: "button",
          class: "primary",
          id: "confirm",
          "aria-keyshortcuts": "Enter",
          onclick: acts.confirm,
        },
        icon("check"),
        el("span", {}, "Confirm all"),
        el("kbd", { "aria-hidden": "true" }, "⏎"),
      ),
    ),
    el(
      "p",
      { class: "hint" },
      "Select each photo that is something else and choose its class, then confirm all.",
    ),
    acts.only &&
      el(
        "button",
        { type: "button", onclick: acts.stopOnly },
        `Show other classes than ${acts.only} too`,
      ),
    el("div", { class: "groups" }, ...groups.map((name) => groupView(name, photos, said, acts))),
  );
}

function groupView(name, photos, said, acts) {
  const members = photos.flatMap((photo, index) => (photo.proposal === name ? [index] : []));
  return el(
    "section",
    { class: "group", "aria-label": `Proposed: ${name}` },
    el("h3", {}, `${name} `, el("span", { class: "quiet" }, count(members.length, "photo"))),
    el(
      "ul",
      { class: "tiles" },
      ...members.map((index) => el("li", {}, tile(photos[index], index, said[index], acts))),
    ),
  );
}

function tile(photo, index, said, acts) {
  const label = el("span", { class: "label" });
  const button = el(
    "button",
    {
      type: "button",
      class: "tile",
      "data-index": index,
      onclick: () => {
        acts.select(index);
        acts.choose();
      },
      onfocus: () => acts.select(index),
      ondblclick: () => acts.enlarge(photo),
    },
    picture(photo, 320, ""),
    label,
  );
  updateTile(button, photo, said, index === acts.selected);
  return button;
}

/** Shows a tile's answer and whether it is selected, without drawing its photo again. */
export function updateTile(button, photo, said, isSelected) {
  const changed = said.kind !== "label" || said.label !== photo.proposal;
  button.toggleAttribute("data-changed", changed);
  button.dataset.kind = said.kind;
  button.setAttribute("aria-pressed", String(isSelected));
  button.setAttribute(
    "aria-label",
    `Photo ${photo.name}: ${words(said)}${changed ? ", corrected" : ""}`,
  );
  button.title = `${photo.name}: proposed ${photo.proposal}, ${percent(photo.probability)}`;
  button.querySelector(".label").textContent = words(said);
}

/** @returns {HTMLElement[]} */
const tiles = () => [...document.querySelectorAll("#screen .tile")];

/** Focuses a tile, which selects it; beyond the ends the first or last one. */
export function focusTile(index) {
  const all = tiles();
  all[Math.max(0, Math.min(all.length - 1, index))]?.focus();
}

/**
 * Returns the tile in the nearest row above or below, the one that is closest across.
 * @param {number} index @param {1 | -1} direction 1 is down
 */
export function tileInRow(index, direction) {
  const places = tiles().map((tile) => tile.getBoundingClientRect());
  const { left, top, height } = places[index];
  const far = (place) => direction * (place.top - top);
  const beyond = places.filter((place) => far(place) > height / 2);
  if (!beyond.length) return index;
  const row = Math.min(...beyond.map(far));
  const inRow = beyond.filter((place) => far(place) < row + height / 2);
  const across = (place) => Math.abs(place.left - left);
  return places.indexOf(inRow.reduce((best, one) => (across(one) < across(best) ? one : best)));
}

/** Nothing to ask about. @param {"wait" | "done"} kind @param {any} state */
export function idleView(kind, state, only, stopOnly) {
  if (kind === "wait")
    return el(
      "div",
      { class: "done" },
      el("h2", { tabindex: "-1" }, "Reading the photos"),
      el("p", {}, "The first ones appear here in a moment."),
    );
  return el(
    "div",
    { class: "done" },
    el("span", { class: "mark" }, icon("check")),
    el("h2", { tabindex: "-1" }, only ? `No more photos look like ${only}` : "All done"),
    only
      ? el("button", { type: "button", class: "primary", onclick: stopOnly }, "Show all classes")
      : el("p", {}, `Every photo has an answer: ${count(state.answers.label, "label")}.`),
  );
}
