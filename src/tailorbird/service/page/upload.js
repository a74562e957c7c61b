/** The upload page: accepts photos, sends them two at a time, shows each answer on a card. */

import { ApiError } from "./api.js";
import { getModel } from "./calls.js";
import { Card } from "./card.js";
import { Queue } from "./queue.js";
import { advice, explained, sentence } from "./messages.js";
import { announce } from "./announce.js";
import { byId, count, el, icon, percent } from "./dom.js";
import { listen } from "./intake.js";
import { prepare } from "./shrink.js";
import { send } from "./sending.js";
import { showFacts } from "./facts.js";

const AT_ONCE = 2; // uploads side by side
const MOST = 200; // photos added at once, so that the tab does not run out of memory

const CLASSES_NAMED = 12; // in the introduction

const queue = new Queue(AT_ONCE);
/** @type {Set<Upload>} newest last */
const uploads = new Set();
/** @type {Promise<import("./calls.js").Model> | null} */
let model = null;

/**
 * Returns the model's description, fetched once; fetched again after a failure.
 * @returns {Promise<import("./calls.js").Model>}
 */
function modelInfo() {
  model ??= getModel().then(
    (info) => {
      showFacts(info);
      introduce(info);
      return info;
    },
    (error) => {
      model = null;
      throw error;
    },
  );
  return model;
}

/** @param {import("./calls.js").Model} info */
function introduce({ name, classes, keep_photos: keeps, corrections }) {
  byId("lead").replaceChildren(
    "Add photos of one thing each. ",
    el("b", {}, name),
    ` suggests which of its ${count(classes.length, "class", "classes")} it is.`,
  );
  const few = classes.slice(0, CLASSES_NAMED).join(", ");
  const others = classes.length - CLASSES_NAMED;
  byId("classes-known").textContent =
    `Its classes are ${few}${others > 0 ? ` and ${count(others, "more", "more")}` : ""}.`;
  byId("privacy").textContent =
    keeps && corrections
      ? "Photos are shrunk on this device before they are sent, and stored only if you answer."
      : "Photos are shrunk on this device before they are sent, and are not stored.";
}

/** The upload of one photo. */
class Upload {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.name = file.name || "Pasted photo";
    /** @type {import("./shrink.js").Prepared | null} */
    this.prepared = null;
    this.offline = false;
    this.controller = new AbortController();
    this.card = new Card(this.name, { onRemove: () => remove(this), onRetry: () => this.start() });
  }

  start() {
    this.offline = false;
    this.card.waiting();
    tally();
    queue.add(() => this.run(), this.controller.signal);
  }

  async run() {
    const { signal } = this.controller;
    const { card } = this;
    try {
      card.preparing();
      const info = await modelInfo();
      if (!this.prepared) {
        this.prepared = await prepare(this.file, info.accepts);
        if (signal.aborted) return;
        card.preview(this.prepared);
      }
      const photo = this.prepared.blob;
      card.uploading(0);
      const answer = await send(photo, info.heatmaps, signal, {
        onProgress: (share) => card.uploading(share),
        onWait: (...waiting) => card.countdown(...waiting),
      });
      const current = answer.model.sha256 === info.sha256 ? info : await refreshedModel();
      this.show(answer.results[0], photo, current);
    } catch (error) {
      if (signal.aborted) return;
      const shown =
        error instanceof ApiError
          ? error
          : new ApiError(0, "unexpected", `This page failed: ${error}`);
      this.offline = shown.code === "network";
      card.failed(shown);
      settle(card.element);
      const { what, todo } = explained(shown);
      announce(`${this.name}: ${what} ${todo}`);
      if (!(error instanceof ApiError)) console.error(error);
    } finally {
      tally();
    }
  }

  show(result, photo, info) {
    this.card.answered(result, photo, info);
    const share = percent(result.probability).replace("%", " percent");
    announce(
      result.unsure
        ? `${this.name}: not sure, perhaps ${result.label}, ${share}`
        : `${this.name}: ${result.label}, ${share}`,
    );
  }
}

/** Called when an answer shows that the server has loaded another model. */
function refreshedModel() {
  model = null;
  return modelInfo();
}

/** @param {File[]} files */
function add(files) {
  const taken = files.slice(0, MOST);
  notice(
    files.length > MOST
      ? `Only the first ${MOST} of ${count(files.length, "photo")} were added. Add the others ` +
          "afterwards; for thousands, use the command line: tailorbird predict."
      : "",
  );
  const list = byId("cards");
  for (const file of taken) {
    const upload = new Upload(file);
    uploads.add(upload);
    list.prepend(upload.card.element);
    upload.start();
  }
  tally();
  if (taken.length && window.matchMedia("(max-width: 40rem)").matches)
    byId("results").scrollIntoView({ block: "start" });
}

/** @param {Upload} upload */
function remove(upload) {
  const element = upload.card.element;
  const next = /** @type {HTMLElement | null} */ (
    element.nextElementSibling ?? element.previousElementSibling
  );
  const hadFocus = element.contains(document.activeElement);
  drop(upload);
  tally();
  if (hadFocus) (next?.querySelector("article") ?? byId("choose")).focus();
}

function drop(upload) {
  upload.controller.abort(new DOMException("removed", "AbortError"));
  upload.card.release();
  upload.card.element.remove();
  uploads.delete(upload);
}

/** Moves a failed card below the others, so that it does not push answered photos away. */
function settle(element) {
  if (!element.contains(document.activeElement)) byId("cards").append(element);
}

/** Counts the cards by state. */
function tally() {
  document.body.classList.toggle("has-photos", uploads.size > 0);
  byId("results").hidden = uploads.size === 0;
  byId("tally").hidden = byId("clear").hidden = uploads.size < 2;
  const states = [...uploads].map((upload) => upload.card.element.dataset.state);
  const number = (...wanted) => states.filter((state) => wanted.includes(state ?? "")).length;
  const parts = [
    [number("sure"), "answered"],
    [number("unsure"), "not sure"],
    [number("failed"), "failed"],
    [number("waiting", "preparing", "uploading", "looking", "busy"), "on the way"],
  ];
  byId("tally").textContent = `${count(uploads.size, "photo")}: ${parts
    .filter(([n]) => n)
    .map(([n, what]) => `${n} ${what}`)
    .join(", ")}`;
}

/** Shows a message about the whole page; "" removes it. @param {string} message */
function notice(message) {
  byId("notice").replaceChildren(
    ...(message ? [el("div", { class: "trouble" }, icon("alert"), el("p", {}, message))] : []),
  );
}

byId("clear").addEventListener("click", () => {
  for (const upload of uploads) drop(upload);
  tally();
  byId("choose").focus();
});
window.addEventListener("online", () => {
  for (const upload of uploads) if (upload.offline) upload.start();
});
listen(add, notice);
modelInfo().catch((error) =>
  notice(
    sentence(error.message) +
      ` ${error.code === "network" ? "Check your connection." : advice(error.code)}`,
  ),
);
