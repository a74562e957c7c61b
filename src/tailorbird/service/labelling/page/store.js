/** The page's copy of the labelling, and its calls to the server, one after the other. */

import { json } from "./api.js";

/**
 * @typedef {{kind: string, label: string}} Said
 * @typedef {{photo: number, name: string, source: string, proposal: string, probability: number,
 *   seen: Said | null}} Photo
 * @typedef {{kind: "ask" | "sheet" | "wait" | "done", blind: boolean, photos: Photo[]}} Screen
 * @typedef {{photo: number, kind: string, label: string, seen: Said | null}} Given
 */

const post = (path, body) =>
  json(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

export class Store {
  /** @param {() => void} onChange called after each new state */
  constructor(onChange) {
    this.onChange = onChange;
    this.window = crypto.randomUUID?.() ?? String(Math.random());
    /** @type {any} as in the server's api/state */
    this.state = null;
    this.busy = 0;
    this.only = "";
    this.tail = Promise.resolve();
  }

  /** The labels of all classes. @returns {string[]} */
  get classes() {
    return this.state ? this.state.classes.map((each) => each.name) : [];
  }

  async refresh() {
    this.take(await json("api/state"));
  }

  /** @returns {Promise<Screen>} */
  async screen() {
    return this.call("api/screen", { window: this.window, only: this.only });
  }

  /** Saves answers; resolves once they are on the server's disk. @param {Given[]} answers */
  answer(answers) {
    return this.call("api/answers", { answers });
  }

  /** Takes back the last step: of this window, the one that is being saved at present. */
  async undo() {
    await this.tail;
    if (!this.state.undo) return null;
    return this.call("api/undo", { step: this.state.undo.step });
  }

  /** @param {string} name @returns {Promise<string>} the label that the server made of it */
  async addClass(name) {
    return (await this.call("api/classes", { name })).label;
  }

  /** Renames a class; into the name of another it is merged. */
  rename(old, name) {
    return this.call("api/classes", { name, rename: old });
  }

  train() {
    return this.call("api/train", {});
  }

  /** Calls in their order: an answer is saved before the next screen is asked for. */
  call(path, body) {
    this.busy += 1;
    const result = this.tail
      .then(() => post(path, body))
      .then(
        (content) => {
          this.busy -= 1;
          this.take(content.state);
          return content;
        },
        (error) => {
          this.busy -= 1;
          this.onChange();
          throw error;
        },
      );
    this.tail = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  take(state) {
    this.state = state;
    this.onChange();
  }
}
