/** One photo's card: preview, progress, answer, heat map, correction. */

import { explained, worthRetrying } from "./messages.js";
import { corrections } from "./corrections.js";
import { counted, parts, percent, t } from "./texts.js";
import { el, freshId, icon } from "./dom.js";
import { heatmapSwitch, kept } from "./heatmap.js";
import { naming } from "./calls.js";

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
    this.sides = [1, 1]; // width and height of the preview
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
   * @param {"cancel" | "remove"} remove what the remove button does
   */
  become(state, remove) {
    const hadFocus = this.body.contains(document.activeElement);
    this.element.dataset.state = state;
    this.removeButton.setAttribute("aria-label", t(`card.${remove}_name`, { name: this.name }));
    this.removeButton.title = t(`card.${remove}`);
    this.canvas.hidden = true; // the heat map of an earlier answer
    if (hadFocus) this.article.focus({ preventScroll: true });
  }

  waiting() {
    this.progress("waiting", t("card.waiting"), null);
  }

  preparing() {
    this.progress("preparing", t("card.preparing"), null);
  }

  /** @param {number} share 0 to 1 of the bytes sent */
  uploading(share) {
    if (share < 1) {
      const sent = percent(Math.floor(share * 100) / 100);
      this.progress("uploading", t("card.sending", { share: sent }), share);
    } else this.progress("looking", t("card.looking"), null);
  }

  /** @param {number} seconds @param {number} tryNumber @param {number} tries */
  countdown(seconds, tryNumber, tries) {
    this.progress(
      "busy",
      t("card.busy", { seconds: counted("second", seconds), number: tryNumber, tries }),
      null,
    );
  }

  progress(state, text, share) {
    if (this.element.dataset.state !== state || !this.bar) {
      this.become(state, "cancel");
      this.status = el("p", { class: "quiet" });
      const label = t("card.progress", { name: this.name });
      this.bar = el("progress", { max: "1", "aria-label": label });
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
    this.sides = [width, height];
    const picture = (attributes) =>
      el("img", { src: this.url, width, height, decoding: "async", ...attributes });
    const alt = t("card.preview", { name: this.name });
    this.frame.replaceChildren(picture({ alt }), this.canvas);
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
    this.become(result.unfamiliar ? "unfamiliar" : result.unsure ? "unsure" : "sure", "remove");
    this.bar = null;
    const asks = model.corrections && result.receipt !== null;
    const maps = result.heatmaps ?? [];
    const subject = { name: this.name, result, photo, model, askAgain: this.onRetry };
    const named = naming(model);
    const share = percent(result.probability);
    const words = result.unfamiliar
      ? ["card.unfamiliar", "card.closest"]
      : ["card.unsure", "card.perhaps"];
    const blank =
      maps.length && maps.every((map) => map.values.flat().every((value) => value === 0));
    this.body.replaceChildren(
      ...(result.unsure
        ? [
            el("p", { class: "verdict" }, icon("question"), t(words[0])),
            el(
              "p",
              { class: "sureness" },
              ...parts(words[1], { label: el("strong", {}, named(result.label)), share }),
            ),
          ]
        : [
            el("p", { class: "verdict" }, named(result.label)),
            el("p", { class: "sureness" }, t("card.sure", { share })),
          ]),
      ...(maps.length && !blank && this.url
        ? [heatmapSwitch(maps, this.canvas, named, kept(model.resize, ...this.sides))]
        : []),
      ...(result.unsure && asks ? [] : [bars(result.top, named)]),
      ...(asks ? [corrections(subject)] : []),
    );
  }

  /** @param {import("./api.js").ApiError} error */
  failed(error) {
    this.become("failed", "remove");
    this.bar = null;
    if (!this.url)
      this.stage.replaceChildren(
        el("div", { class: "blank" }, icon("alert"), t("card.no_preview")),
      );
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
              el("button", { type: "button", onclick: this.onRetry }, t("card.retry")),
            ),
          ]
        : []),
    );
  }
}

/**
 * The most probable classes as bars.
 * @param {import("./calls.js").Ranked[]} top @param {(label: string) => string} named
 */
function bars(top, named) {
  return el(
    "ol",
    { class: "bars", "aria-label": t("card.top") },
    ...top.map(({ label, probability }) => {
      const fill = el("span", { class: "fill" });
      fill.style.inlineSize = `${probability * 100}%`;
      return el(
        "li",
        {},
        el("span", { class: "what" }, named(label)),
        el("span", { class: "share" }, percent(probability)),
        el("span", { class: "track", "aria-hidden": "true" }, fill),
      );
    }),
  );
}
