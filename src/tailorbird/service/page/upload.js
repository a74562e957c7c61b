/** The upload page: accepts photos, sends them two at a time, shows each answer on a card. */

import { ApiError } from "./api.js";
import { getModel, naming } from "./calls.js";
import { Card } from "./card.js";
import { Queue } from "./queue.js";
import { advice, explained, said } from "./messages.js";
import { announce } from "./announce.js";
import { byId, el, icon } from "./dom.js";
import { counted, number, spoken, t } from "./texts.js";
import { listen } from "./intake.js";
import { prepare } from "./shrink.js";
import { send } from "./sending.js";
import { showFacts } from "./facts.js";

const AT_ONCE = 2; // uploads side by side
const MOST = 200; // photos added at once, so that the tab does not run out of memory

const CLASSES_NAMED = 12; // in the introduction

const SPOKEN = {
  sure: "card.spoken",
  unsure: "card.spoken_unsure",
  unfamiliar: "card.spoken_unfamiliar",
};

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
function introduce({ display, keep_photos: keeps, corrections }) {
  const names = display.map(({ name }) => name);
  const classes = names.slice(0, CLASSES_NAMED).join(", ");
  const others = names.length - CLASSES_NAMED;
  byId("classes-known").textContent =
    others > 0
      ? t("upload.classes_more", { classes, others: counted("more", others) })
      : t("upload.classes", { classes });
  byId("privacy").textContent = t(
    keeps && corrections ? "upload.privacy_kept" : "upload.privacy_not_kept",
  );
}

/** The upload of one photo. */
class Upload {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.name = file.name || t("card.pasted");
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
          : new ApiError(0, "unexpected", t("error.unexpected.what", { error }));
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
    announce(
      t(SPOKEN[result.unfamiliar ? "unfamiliar" : result.unsure ? "unsure" : "sure"], {
        name: this.name,
        label: naming(info)(result.label),
        share: spoken(result.probability),
      }),
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
      ? t("upload.too_many", { most: number(MOST), photos: counted("photo", files.length) })
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
  const many = (...wanted) => states.filter((state) => wanted.includes(state ?? "")).length;
  const parts = [
    [many("sure"), "answered"],
    [many("unsure"), "unsure"],
    [many("unfamiliar"), "unfamiliar"],
    [many("failed"), "failed"],
    [many("waiting", "preparing", "uploading", "looking", "busy"), "waiting"],
  ];
  byId("tally").textContent = t("tally.all", {
    photos: counted("photo", uploads.size),
    parts: parts
      .filter(([n]) => n)
      .map(([n, what]) => t(`tally.${what}`, { n }))
      .join(", "),
  });
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
  notice(`${said(error)} ${error.code === "network" ? t("answer.offline") : advice(error.code)}`),
);
