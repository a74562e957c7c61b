/** Actions on the finding in view, by click or by key. */

import { announce } from "./announce.js";
import { byId } from "./dom.js";
import { chooseClass, enlarge } from "./dialogs.js";
import { notice } from "./local.js";
import { count, decisionWords } from "./words.js";

/**
 * @typedef {{store: import("./store.js").Store, current: import("./store.js").Item | null,
 *   selected: number, quick: string[],
 *   photos: () => import("./store.js").Photo[], isSuspect: () => boolean,
 *   isUnsure: () => boolean, select: (index: number)
 *   => void,
 *   decided: (item: import("./store.js").Item) => void}} View the state of the view; keys decide
 *   nothing while `current` is null
 * @param {View} view
 */
export function makeActs(view) {
  function decide(choices) {
    const item = view.current;
    if (!item || !choices.length) return;
    notice();
    view.store.decide(item.item, choices);
    announce(
      choices.length === 1
        ? decisionWords(view.store.photos.get(choices[0].photo))
        : `${count(choices.length, "photo")} decided`,
    );
    view.decided(item);
  }

  /**
   * Keeps some photos of the group and excludes the others. A kept photo that was relabelled stays
   * relabelled.
   * @param {Set<number>} kept
   */
  function keepOnly(kept) {
    decide(
      view.current.photos.flatMap((photo) => {
        if (!kept.has(photo)) return [{ photo, decision: "exclude" }];
        return view.store.photos.get(photo).decision === "relabel"
          ? []
          : [{ photo, decision: "keep" }];
      }),
    );
  }

  const acts = {
    accept() {
      if (!view.current) return;
      if (view.isUnsure()) acts.keep(view.photos()[0]);
      else if (view.isSuspect()) acts.relabel(view.photos()[0], view.photos()[0].suggested);
      else if (view.current.proposal) keepOnly(new Set(view.current.keep));
    },
    keep: (photo) => decide([{ photo: photo.photo, decision: "keep" }]),
    exclude: (photo) => decide([{ photo: photo.photo, decision: "exclude" }]),
    relabel: (photo, label) =>
      decide([
        label === photo.label
          ? { photo: photo.photo, decision: "keep" }
          : { photo: photo.photo, decision: "relabel", label },
      ]),
    choose: (photo) => chooseClass(view.store.classes, (label) => acts.relabel(photo, label)),
    only: () => keepOnly(new Set([view.current.photos[view.selected]])),
    keepAll: () => keepOnly(new Set(view.current.photos)),
    select: (index) => view.select(index),
    enlarge: (photo) => enlarge(photo.source, photo.name),
  };

  /** @type {Record<string, () => void>} */
  const COMMANDS = {
    k: () => acts.keep(view.photos()[view.selected]),
    x: () => acts.exclude(view.photos()[view.selected]),
    r: () =>
      view.isUnsure()
        ? acts.relabel(view.photos()[0], view.photos()[0].suggested)
        : acts.accept(),
    enter: () => acts.accept(),
    l: () => acts.choose(view.photos()[view.selected]),
    o: () => view.isSuspect() || acts.only(),
    a: () => view.isSuspect() || acts.keepAll(),
    f: () => acts.enlarge(view.photos()[view.selected]),
  };

  function digit(number) {
    if (view.isSuspect()) {
      if (number <= view.quick.length) acts.relabel(view.photos()[0], view.quick[number - 1]);
    } else byId("item").querySelectorAll(".photo .stage")[number - 1]?.focus();
  }

  return {
    acts,
    ofKey: (key) =>
      view.current && (COMMANDS[key] ?? (/^[1-9]$/.test(key) && (() => digit(Number(key))))),
  };
}
