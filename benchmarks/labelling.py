"""How many labels and decisions `tailorbird label` needs, against photos in random order.

python benchmarks/labelling.py PHOTOS [--seeds 3] [--most 600] [--backbone lite]

The true labels of a dataset answer as a person would: one decision for each photo that is asked
about singly; one to confirm a sheet, and one for each photo of it whose proposal is wrong. The same
head is trained on the labels so far and on as many photos in random order, one decision each; both
are scored on the dataset's test photos, which are never shown. Blind answers, which become
validation and test, do not train; they are counted apart, because random order needs such photos as
well.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import open_backbone
from tailorbird.dataset import Sample, split
from tailorbird.features import Embedder
from tailorbird.labelling import Answer, Given, LabelSettings, open_labelling
from tailorbird.labelling.learning import train_head
from tailorbird.labelling.screens import Labels
from tailorbird.preparation import PreparedData, prepare_data

TARGETS = (0.80, 0.85, 0.88)
SIZES = (
    20,
    30,
    45,
    60,
    90,
    120,
    160,
    200,
    260,
    320,
    400,
    500,
    640,
    800,
    1000,
    1280,
    1600,
    2000,
    2600,
)
SMOOTHED = 5
"""Points of a curve that are averaged: a single score of some hundred photos jumps."""

Curve = list[tuple[int, int, int, float]]
"""(labels, decisions, blind answers, test accuracy) after each screen."""


def main() -> None:
    """Replay, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=600, help="labels at which a replay ends")
    parser.add_argument("--backbone", default="lite")
    options = parser.parse_args()
    embedder = Embedder(open_backbone(options.backbone))
    data = prepare_data(options.photos, embedder)
    if not data.dataset.of("test"):
        data = prepare_data(split(data.dataset), embedder)
    everything = data.dataset.samples
    test = [sample for sample in everything if sample.split == "test"]
    pool = [sample for sample in everything if sample.split != "test"]
    print(f"{len(pool):,} photos to label, {len(test):,} test photos, {len(data.classes)} classes")
    random = random_order(data, pool, test, options.seeds)
    curves = [replay(data, pool, test, seed, options) for seed in range(options.seeds)]
    print(f"\n{'test accuracy':>14} {'random order':>13} {'labels':>8} {'ratio':>6}"
          f" {'decisions':>10} {'ratio':>6} {'blind':>6}")  # fmt: skip
    for target in TARGETS:
        needed = crossing([(n, n, 0, a) for n, a in random], target, smoothed=1)
        found = [crossing(curve, target) for curve in curves]
        if needed is None or any(one is None for one in found):
            missed = sum(one is None for one in found)
            order = "not reached" if needed is None else f"{needed[0]:.0f}"
            print(f"{target:>14.0%} {order:>13} not reached by {missed} of {len(curves)} replays"
                  f" with {options.most:,} labels")  # fmt: skip
            continue
        labels, decisions, blind = np.mean([one for one in found if one is not None], axis=0)
        print(f"{target:>14.0%} {needed[0]:>13.0f} {labels:>8.0f} {labels / needed[0]:>6.2f}"
              f" {decisions:>10.0f} {decisions / needed[0]:>6.2f} {blind:>6.0f}")  # fmt: skip


def scored(data: PreparedData, known: list[Sample], test: list[Sample]) -> float:
    """Return the test accuracy of a head trained on these photos."""
    numbers = data.numbers(known)
    head = train_head(features_of(data, known), numbers, len(data.classes))
    answers = head.logits(features_of(data, test)).argmax(axis=1)
    return float(np.mean(answers == data.numbers(test)))


_ROWS: dict[str, npt.NDArray[np.float32]] = {}


def features_of(data: PreparedData, samples: list[Sample]) -> npt.NDArray[np.float32]:
    """Return features, (N, K); they are read from the cache once."""
    if not _ROWS:
        every = data.dataset.samples
        _ROWS.update(zip((s.name for s in every), data.features(every)[0], strict=True))
    return np.stack([_ROWS[sample.name] for sample in samples])


def random_order(
    data: PreparedData, pool: list[Sample], test: list[Sample], seeds: int
) -> list[tuple[int, float]]:
    """Return (labels, mean test accuracy) for photos in random order, over twice the seeds."""
    orders = [np.random.default_rng(seed).permutation(len(pool)) for seed in range(2 * seeds)]
    sizes = [size for size in SIZES if size <= len(pool)]
    return [
        (size, float(np.mean([scored(data, [pool[i] for i in o[:size]], test) for o in orders])))
        for size in sizes
    ]


def replay(
    data: PreparedData,
    pool: list[Sample],
    test: list[Sample],
    seed: int,
    options: argparse.Namespace,
) -> Curve:
    """Label the pool as a person who knows every label would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        order = np.random.default_rng(seed).permutation(
            len(pool)
        )  # the names draw the blind sample
        by_name = {}
        for number, i in enumerate(order):
            link = folder / f"{seed}-{number:05}{pool[i].path.suffix}"
            link.symlink_to(pool[i].path.resolve())
            by_name[link.name] = pool[i]
        settings = LabelSettings(
            classes=data.classes, backbone=options.backbone, follow_links=True, seed=seed
        )
        with open_labelling(folder, settings=settings) as labelling:
            labelling.start()
            labelling.gallery.wait()
            curve: Curve = []
            decisions = blind = 0
            while True:
                labels = Labels.of(labelling.history.answers, labelling.gallery)
                photos, _ = labels.part(blind=False)
                if len(set(labels.labels.tolist())) > 1:
                    known = [by_name[labelling.gallery.names[i]] for i in photos]
                    curve.append((len(photos), decisions, blind, scored(data, known, test)))
                if len(photos) >= options.most:
                    break
                screen = labelling.next_screen("replay")
                if screen.kind == "done":
                    break
                if screen.kind == "wait":
                    continue
                true = [
                    by_name[labelling.gallery.names[asked.photo]].label for asked in screen.photos
                ]
                wrong = sum(
                    a.proposal != label for a, label in zip(screen.photos, true, strict=True)
                )
                if screen.blind:
                    blind += wrong
                else:
                    decisions += wrong + (screen.kind == "sheet")
                labelling.answer(
                    [
                        Given(asked.photo, Answer("label", label), asked.now)
                        for asked, label in zip(screen.photos, true, strict=True)
                    ]
                )
    print(f"seed {seed}: {curve[-1][0]} labels, {curve[-1][1]} decisions, {curve[-1][2]} blind "
          f"answers: {curve[-1][3]:.1%}", flush=True)  # fmt: skip
    return curve


def crossing(
    curve: Curve, target: float, *, smoothed: int = SMOOTHED
) -> tuple[float, float, float] | None:
    """Return labels, decisions and blind answers where the smoothed accuracy reaches a target."""
    values = np.array([row[3] for row in curve])
    padded = np.pad(values, smoothed // 2, mode="edge")
    smooth = np.maximum.accumulate(np.convolve(padded, np.ones(smoothed) / smoothed, "valid"))
    if smooth[-1] < target:
        return None
    columns = np.array([row[:3] for row in curve], np.float64).T
    labels, decisions, blind = (float(np.interp(target, smooth, column)) for column in columns)
    return labels, decisions, blind


if __name__ == "__main__":
    main()
