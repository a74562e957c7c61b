/** Draws a heat map over a photo, and the radio buttons that choose the class. */

import { el, freshId } from "./dom.js";
import { t } from "./texts.js";

/**
 * Matplotlib's "plasma" (CC0, Smith and van der Walt) at nine even steps: lightness rises evenly,
 * so that it is readable with any colour vision.
 */
const PLASMA = [
  [13, 8, 135],
  [76, 2, 161],
  [126, 3, 168],
  [170, 35, 149],
  [204, 71, 120],
  [230, 108, 92],
  [248, 149, 64],
  [253, 197, 39],
  [240, 249, 33],
];
const STRONGEST = 0.74; // opacity where the value is 1
const SIDE = 256; // canvas pixels per side; the browser scales it to the photo

/** @param {number} value 0 to 1 @returns {[number, number, number]} RGB 0 to 255 */
export function colour(value) {
  const place = Math.min(1, Math.max(0, value)) * (PLASMA.length - 1);
  const below = Math.min(PLASMA.length - 2, Math.floor(place));
  const share = place - below;
  return [0, 1, 2].map((k) => PLASMA[below][k] * (1 - share) + PLASMA[below + 1][k] * share);
}

/**
 * Returns the weights of the four cells around position `t` (0 to 1) between the second and the
 * third, for a smooth interpolation.
 * Cubic convolution with a = -1/2: Keys (1981), "Cubic convolution interpolation for digital image
 * processing".
 * @param {number} t
 */
function weights(t) {
  return [
    ((-0.5 * t + 1) * t - 0.5) * t,
    (1.5 * t - 2.5) * t * t + 1,
    ((-1.5 * t + 2) * t + 0.5) * t,
    (0.5 * t - 0.5) * t * t,
  ];
}

/**
 * Interpolates a row of values between the centres of its cells, repeating the values at the ends.
 * @param {number[]} row @param {number} length number of returned values
 */
export function stretched(row, length) {
  const last = row.length - 1;
  return Array.from({ length }, (_, index) => {
    const place = Math.min(last, Math.max(0, ((index + 0.5) / length) * row.length - 0.5));
    const cell = Math.floor(place);
    return weights(place - cell).reduce(
      (sum, weight, k) => sum + weight * row[Math.min(last, Math.max(0, cell + k - 1))],
      0,
    );
  });
}

/**
 * @typedef {{left: number, top: number, width: number, height: number}} Region of a photo, as
 *   shares of its sides
 */

/**
 * Returns the part of a photo that the model's resize rule keeps.
 * @param {import("./calls.js").ResizeRule} rule @param {number} width @param {number} height
 * @returns {Region}
 */
export function kept({ size, share = 1, keep_aspect: aspect = false }, width, height) {
  const part = size / Math.floor(size / share);
  const shorter = Math.min(width, height);
  const side = part * shorter;
  const [across, down] = aspect ? [side / width, side / height] : [part, part];
  return { left: (1 - across) / 2, top: (1 - down) / 2, width: across, height: down };
}

/**
 * Draws a map, or clears the canvas.
 * @param {HTMLCanvasElement} canvas covers the photo
 * @param {import("./calls.js").Heatmap | null} map
 * @param {Region} region what the map covers
 */
export function paint(canvas, map, region) {
  canvas.width = SIDE;
  canvas.height = SIDE; // setting the size clears it
  canvas.hidden = !map;
  const context = canvas.getContext("2d");
  if (!map || !context) return;
  const [left, top, right, bottom] = [
    region.left,
    region.top,
    region.left + region.width,
    region.top + region.height,
  ].map((share) => Math.round(share * SIDE));
  const across = Math.max(1, right - left);
  const rows = map.values.map((row) => stretched(row, across)); // along x, then along y
  const pixels = context.createImageData(across, Math.max(1, bottom - top));
  for (let x = 0; x < across; x += 1) {
    stretched(
      rows.map((row) => row[x]),
      pixels.height,
    ).forEach((reached, y) => {
      const value = Math.min(1, Math.max(0, reached)); // cubic interpolation may overshoot
      pixels.data.set([...colour(value), value * STRONGEST * 255], (y * across + x) * 4);
    });
  }
  context.putImageData(pixels, left, top);
}

/**
 * Creates radio buttons: "Off" and one for each map; arrow keys move between them.
 * @param {import("./calls.js").Heatmap[]} maps
 * @param {HTMLCanvasElement} canvas drawn on each change
 * @param {(label: string) => string} named
 * @param {Region} region what the maps cover
 */
export function heatmapSwitch(maps, canvas, named, region) {
  const group = freshId("heatmap");
  const choice = (text, map, checked) =>
    el(
      "label",
      { title: text },
      el("input", {
        type: "radio",
        name: group,
        checked,
        onchange: () => {
          paint(canvas, map, region);
          canvas.setAttribute(
            "aria-label",
            map ? t("heatmap.name", { label: text }) : "",
          );
        },
      }),
      el("span", {}, text),
    );
  return el(
    "fieldset",
    { class: "switch" },
    el("legend", {}, t("heatmap.show")),
    el(
      "div",
      { class: "segments" },
      choice(t("heatmap.off"), null, true),
      ...maps.map((map) => choice(named(map.label), map, false)),
    ),
  );
}
