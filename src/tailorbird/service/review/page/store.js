/**
 * The page's copy of the review, and the queue that sends decisions to the server in their order.
 */

import { ApiError, json } from "./api.js";

/**
 * @typedef {"" | "keep" | "relabel" | "exclude"} Decision
 * @typedef {{photo: number, name: string, source: string, label: string, now: string, decision:
 *   Decision, split: string | null,
 *   suggested: string | null, label_probability: number | null, suggested_probability: number |
 *   null}} Photo label: before the review; now: as it stands
 * @typedef {{kinds: string[], photos: number[], labels: number[]}} Entry one item in the list
 * @typedef {{item: number, kinds: string[], photos: number[], message: string, keep: number[],
 *   proposal: string, reason: string}} Item
 * @typedef {{keep: number, relabel: number, exclude: number, items: number, done: number, photos:
 *   number, can_undo: boolean}} Progress
 * @typedef {{photo: number, decision: Decision, label?: string}} Choice
 */

const post = (path, body) =>
  json(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

export class Store {
  /**
   * @param {{onChange: () => void, onTrouble: (error: ApiError, item: number | null) => void}}
   *   listener
   */
  constructor(listener) {
    this.listener = listener;
    /** @type {Entry[]} */
    this.items = [];
    /** @type {string[]} */
    this.classes = [];
    /** @type {number[]} photos of each class */
    this.counts = [];
    this.name = this.source = this.manifest = this.command = "";
    /** @type {Progress} */
    this.progress = {
      keep: 0,
      relabel: 0,
      exclude: 0,
      items: 0,
      done: 0,
      photos: 0,
      can_undo: false,
    };
    /** Photos that are decided about. @type {Map<number, Decision>} */
    this.decisions = new Map();
    /** @type {Map<number, Promise<Item>>} */
    this.fetched = new Map();
    /** @type {Map<number, Photo>} */
    this.photos = new Map();
    this.saving = 0;
    this.tail = Promise.resolve();
  }

  async open() {
    const review = await json("api/review");
    const { items, classes, counts, name, source, manifest, command, progress, decisions } = review;
    Object.assign(this, { items, classes, counts, name, source, manifest, command, progress });
    this.decisions = new Map(
      Object.entries(decisions).map(([photo, decision]) => [Number(photo), decision]),
    );
  }

  /**
   * Returns an item, with its photos in `this.photos`; fetched once.
   * @param {number} index
   * @returns {Promise<Item>}
   */
  item(index) {
    const known = this.fetched.get(index);
    if (known) return known;
    const pending = json(`api/items/${index}`).then(
      (answer) => {
        for (const photo of answer.photos)
          if (!this.photos.has(photo.photo)) this.photos.set(photo.photo, photo);
        return { ...answer, photos: this.items[index].photos };
      },
      (error) => {
        this.fetched.delete(index);
        throw error;
      },
    );
    this.fetched.set(index, pending);
    return pending;
  }

  /** Whether each photo of an item is decided about. @param {number} index */
  isDone(index) {
    return this.items[index].photos.every((photo) => this.decisions.has(photo));
  }

  /**
   * Shows a decision at once, and saves it after the earlier ones.
   * @param {number} item
   * @param {Choice[]} choices
   */
  decide(item, choices) {
    for (const { photo, decision, label } of choices) {
      const known = this.photos.get(photo);
      if (!known) continue;
      known.decision = decision;
      known.now = decision === "relabel" && label ? label : known.label;
      this.note(photo, decision);
    }
    return this.queue(item, () => post("api/decisions", { item, decisions: choices }));
  }

  /**
   * Undoes the last step.
   * @returns {Promise<number | null>} its item; null if it could not be undone
   */
  undo() {
    return this.queue(null, () => post("api/undo", {}));
  }

  note(photo, decision) {
    if (decision) this.decisions.set(photo, decision);
    else this.decisions.delete(photo);
  }

  /**
   * @param {number | null} item
   * @param {() => Promise<any>} call
   * @returns {Promise<number | null>}
   */
  queue(item, call) {
    this.saving += 1;
    this.listener.onChange();
    const result = this.tail.then(async () => {
      try {
        const answer = await call();
        // Keep what is shown while a later decision about the same photo is being sent.
        if (this.saving === 1 || item === null) this.take(answer.photos);
        this.progress = answer.progress;
        return answer.item;
      } catch (error) {
        if (item !== null) await this.again(item).catch(() => null);
        this.listener.onTrouble(
          error instanceof ApiError
            ? error
            : new ApiError(0, "unexpected", `This page failed: ${error}`),
          item,
        );
        return null;
      } finally {
        this.saving -= 1;
        this.listener.onChange();
      }
    });
    this.tail = result.then(() => undefined);
    return result;
  }

  /** @param {Photo[]} photos as the server has them */
  take(photos) {
    for (const photo of photos) {
      const known = this.photos.get(photo.photo);
      this.photos.set(photo.photo, known ? Object.assign(known, photo) : photo);
      this.note(photo.photo, photo.decision);
    }
  }

  /**
   * Shows photos again whose decision could not be saved: as on the server, or as undecided if the
   * server does not answer.
   */
  async again(item) {
    for (const photo of this.items[item].photos) this.decisions.delete(photo);
    this.take((await json(`api/items/${item}`)).photos);
  }
}
