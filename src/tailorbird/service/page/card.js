/** One photo's card: preview, progress, answer, heat map, correction. */

import { explained, worthRetrying } from "./messages.js";
import { count, el, freshId, icon, percent } from "./dom.js";
import { corrections } from "./corrections.js";
import { heatmapSwitch } from "./heatmap.js";

const STAGE = 4 / 3; // width to height of the preview, as in upload.css

/** The card's element, with a method for each state of the upload, in their order. */
export class Card {
  /**
   * @param {string} name the file's name
   * @param {{onRemove: () => void, onRetry: () => void}} actions
   */
  constructor(name, { onRemove, onRetry }) {
    this.name = name;
    this.onRetry = onRetry;
    this.url = "";
    const heading = freshId("photo");
    this.canvas = el("canvas", { role: "img", "aria-label": "", hidden: true });
    this.frame = el("div", { class: "frame" }, this.canvas);
    this.stage = el("div", { class: "stage" }, this.frame);
    this.body = el("div", { class: "answer" });
    this.removeButton = el(
      "button",
      { type: "button", class: "bare", onclick: onRemove },
      icon("cross"),
    );
    this.article = el(
      "article",
      { "aria-labelledby": heading, tabindex: "-1" },
      this.stage,
      el(
        "div",
        { class: "text" },
        el(
          "div",
          { class: "title" },
          el("h3", { id: heading, title: name }, name),
          this.removeButton,
        ),
        this.body,
      ),
    );
    this.element = el("li", { class: "card" }, this.article);
    this.waiting();
  }

  /**
   * @param {string} state value of data-state, for CSS and tests
   * @param {string} remove the remove button's name
   */
  become(state, remove) {
    const hadFocus = this.body.contains(document.activeElement);
    this.element.dataset.state = state;
    this.removeButton.setAttribute("aria-label", `${remove} ${this.name}`);
    this.removeButton.title = remove;
    this.canvas.hidden = true; // the heat map of an earlier answer
    if (hadFocus) this.article.focus({ preventScroll: true });
  }

  waiting() {
    this.progress("waiting", "Waiting to be sent", null);
  }

  preparing() {
    this.progress("preparing", "Preparing the photo", null);
  }

  /** @param {number} share 0 to 1 of the bytes sent */
  uploading(share) {
    if (share < 1) this.progress("uploading", `Sending, ${Math.floor(share * 100)}%`, share);
    else this.progress("looking", "Classifying the photo", null);
  }

  /** @param {number} seconds @param {number} tryNumber @param {number} tries */
  countdown(seconds, tryNumber, tries) {
    this.progress(
      "busy",
      `The server is busy. Trying again in ${count(seconds, "second")} (${tryNumber} of ${tries})`,
      null,
    );
  }

  progress(state, text, share) {
    if (this.element.dataset.state !== state || !this.bar) {
      this.become(state, "Cancel");
      this.status = el("p", { class: "quiet" });
      this.bar = el("progress", { max: "1", "aria-label": `Progress of ${this.name}` });
      this.body.replaceChildren(this.status, this.bar);
    }
    this.status.textContent = text;
    if (share === null) this.bar.removeAttribute("value");
    else this.bar.setAttribute("value", String(share));
  }

  /** @param {import("./shrink.js").Prepared} prepared */
  preview({ blob, width, height }) {
    this.release();
    if (!width) return;
    this.url = URL.createObjectURL(blob);
    const picture = (attributes) =>
      el("img", { src: this.url, width, height, decoding: "async", ...attributes });
    this.frame.replaceChildren(picture({ alt: `Preview of ${this.name}` }), this.canvas);
    const wide = width / height / STAGE;
    this.frame.style.inlineSize = `${Math.min(1, wide) * 100}%`;
    this.frame.style.blockSize = `${Math.min(1, 1 / wide) * 100}%`;
    this.stage.replaceChildren(picture({ alt: "", class: "backdrop" }), this.frame);
  }

  /** Frees the preview's memory. */
  release() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
  }

  /**
   * @param {import("./calls.js").Result} result
   * @param {Blob} photo
   * @param {import("./calls.js").Model} model
   */
  answered(result, photo, model) {
    this.become(result.unsure ? "unsure" : "sure", "Remove");
    this.bar = null;
    const asks = model.corrections && result.receipt !== null;
    const maps = result.heatmaps ?? [];
    const subject = { name: this.name, result, photo, model, askAgain: this.onRetry };
    const blank =
      maps.length && maps.every((map) => map.values.flat().every((value) => value === 0));
    this.body.replaceChildren(
      ...(result.unsure
        ? [
            el("p", { class: "verdict" }, icon("question"), "Not sure"),
            el(
              "p",
              { class: "sureness" },
              "Perhaps ",
              el("strong", {}, result.label),
              ` (${percent(result.probability)})`,
            ),
          ]
        : [
            el("p", { class: "verdict" }, result.label),
            el("p", { class: "sureness" }, `${percent(result.probability)} sure`),
          ]),
      ...(maps.length && !blank && this.url ? [heatmapSwitch(maps, this.canvas)] : []),
      ...(result.unsure && asks ? [] : [bars(result.top)]),
      ...(asks ? [corrections(subject)] : []),
    );
  }

  /** @param {import("./api.js").ApiError} error */
  failed(error) {
    this.become("failed", "Remove");
    this.bar = null;
    if (!this.url)
      this.stage.replaceChildren(el("div", { class: "blank" }, icon("alert"), "No preview"));
    const { what, todo } = explained(error);
    this.body.replaceChildren(
      el(
        "div",
        { class: "trouble" },
        icon("alert"),
        el("div", {}, el("p", {}, el("strong", {}, what)), el("p", {}, todo)),
      ),
      ...(worthRetrying(error.code)
        ? [
            el(
              "div",
              { class: "actions" },
              el("button", { type: "button", onclick: this.onRetry }, "Try again"),
            ),
          ]
        : []),
    );
  }
}

/** The most probable classes as bars. @param {import("./calls.js").Ranked[]} top */
function bars(top) {
  return el(
    "ol",
    { class: "bars", "aria-label": "Most probable classes" },
    ...top.map(({ label, probability }) => {
      const fill = el("span", { class: "fill" });
      fill.style.inlineSize = `${probability * 100}%`;
      return el(
        "li",
        {},
        el("span", { class: "what" }, label),
        el("span", { class: "share" }, percent(probability)),
        el("span", { class: "track", "aria-hidden": "true" }, fill),
      );
    }),
  );
}
