"""How often the promise of the confidence threshold holds, and how many photos it answers.

    python benchmarks/promises.py [--seeds 12] [--precision 0.95] [--keep results.json]

Real photos of three data sets are divided anew for each seed: 15% validation, 30% test (twice the
usual, so that the test tells more), the rest train. Each time the head is searched as in `train`,
and a threshold is chosen by every method:

    measured     the lowest at which precision and mean probability on validation reach the target,
                 as tailorbird did before
    validation   `choose_threshold` on validation, at a confidence of 95, 90 and 80%
    crossfitted  the same on train and validation, each photo judged by a head trained without it

`missed` is the share of trainings whose precision on the test photos is below the target. That
counts chance in the test as well: of 500 answers of a model that is exactly at the target, half the
tests fall below. `broken` is the share whose true precision is below it, estimated from the spread
of the measured ones less that of their binomial noise, as if it were normal; the promise allows
1 - confidence. `contradicted` counts tests that refute the promise (exact binomial test, 5%).

The ratio is `broken` over the share allowed, over all data sets, as `train` chooses the threshold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import MOBILENET, SHARED, folder, report

from tailorbird.backbone import open_backbone
from tailorbird.dataset import scan, split
from tailorbird.features import Embedder
from tailorbird.head import search
from tailorbird.metrics.calibration import softmax, temperature
from tailorbird.metrics.distributions import binomial_tail
from tailorbird.metrics.scores import score
from tailorbird.metrics.thresholds import choose_threshold
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.training.calibration import Judged, crossfit, fold_photos

DATA = ("clothing-dataset-small", "trashnet", "sign-digits")
FRACTIONS = (0.15, 0.30)
CONFIDENCES = (0.95, 0.9, 0.8)
DEFAULT = "crossfitted 90%"
ALLOWED = 0.1


def measured(judged: Judged, wanted: float) -> float:
    """Return the threshold by the former rule; at least ten answers above it."""
    confidence = judged.probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    hits = (judged.probabilities.argmax(axis=1) == judged.labels)[order]
    good = np.cumsum(hits) / counts >= wanted
    good &= (np.cumsum(confidence[order]) / counts >= wanted) & (counts >= 10)
    return float(confidence[order][np.flatnonzero(good)[-1]]) if good.any() else 1.0


def resplit(data: PreparedData, seed: int) -> PreparedData:
    """Divide the photos anew; each group stays on one side."""
    dataset = split(data.dataset, fractions=FRACTIONS, seed=seed)
    return PreparedData(dataset, dataset, data.classes, (), data.embedder)


def one_training(data: PreparedData, wanted: float, seed: int) -> dict[str, dict[str, float]]:
    """Search a head, choose a threshold by every method, and test it."""
    features = {name: data.features(samples) for name, samples in data.parts.items()}
    labels, held = data.labels, features["validation"][0]
    found = search(
        features["train"], labels["train"], held, labels["validation"],
        classes=len(data.classes), seed=seed,
    )  # fmt: skip
    logits = found.best.head.logits(held)
    scale = temperature(logits, labels["validation"])
    validation = Judged(labels["validation"], softmax(logits / scale))
    folds = fold_photos(data, seed=seed)
    everything = crossfit(data, found, features["train"], held, folds, seed=seed)
    assert everything is not None, "validation is small"
    chosen: dict[str, float | None] = {"measured": measured(validation, wanted)}
    for name, judged in (("validation", validation), ("crossfitted", everything)):
        for confidence in CONFIDENCES:
            threshold = choose_threshold(
                judged.labels, judged.probabilities, wanted, confidence=confidence
            )
            chosen[f"{name} {confidence:.0%}"] = threshold.value if threshold.reached else None
    tested = softmax(found.best.head.logits(features["test"][0]) / scale)
    return {
        name: {} if value is None else _outcome(labels["test"], tested, data.classes, value, wanted)
        for name, value in chosen.items()
    }


def _outcome(
    labels: Any, probabilities: Any, classes: tuple[str, ...], threshold: float, wanted: float
) -> dict[str, float]:
    scores = score(labels, probabilities, classes, threshold)
    answers = round((scores.coverage or 0) * scores.n)
    hits = round((scores.sure_accuracy or 0) * answers)
    misses_by_chance = 1 - binomial_tail(hits + 1, answers, wanted) if hits < answers else 1.0
    return {
        "answers": answers,
        "coverage": answers / scores.n,
        "precision": hits / max(1, answers),
        "contradicted": float(misses_by_chance < 0.05),
    }


def summary(outcomes: list[dict[str, float]], wanted: float) -> dict[str, float]:
    """Return the shares promised, missed, broken and contradicted, precision and coverage."""
    made = [one for one in outcomes if one and one["answers"]]
    if len(made) < 2:
        return {"promised": len(made) / len(outcomes)}
    precision = [one["precision"] for one in made]
    mean = statistics.mean(precision)
    noise = statistics.mean(
        p * (1 - p) / one["answers"] for p, one in zip(precision, made, strict=True)
    )
    spread = max(1e-8, statistics.variance(precision) - noise) ** 0.5
    return {
        "promised": len(made) / len(outcomes),
        "missed": statistics.mean(p < wanted for p in precision),
        "broken": statistics.NormalDist(mean, spread).cdf(wanted),
        "contradicted": statistics.mean(one["contradicted"] for one in made),
        "precision": mean,
        "coverage": sum(one["coverage"] for one in made) / len(outcomes),
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seeds", type=int, default=12)
    options.add_argument("--precision", type=float, default=0.95)
    options.add_argument("--backbones", default=f"pocket,{MOBILENET},lite")
    options.add_argument("--data", default=",".join(DATA))
    options.add_argument("--keep", type=Path, help="write every outcome to this JSON file")
    given = options.parse_args()
    outcomes: dict[str, dict[str, list[dict[str, float]]]] = {}
    with folder() as place:
        os.environ.setdefault("TAILORBIRD_CACHE", str(place))
        for name in given.data.split(","):
            for backbone in given.backbones.split(","):
                key = f"{name}, {Path(backbone).name.split('.')[0]}"
                photos = scan(SHARED / "data" / name)
                photos = replace(
                    photos, samples=tuple(replace(one, split=None) for one in photos.samples)
                )
                data = prepare_data(photos, Embedder(open_backbone(backbone)), Steps())
                found = defaultdict(list)
                for seed in range(given.seeds):
                    training = one_training(resplit(data, seed), given.precision, seed)
                    for method, outcome in training.items():
                        found[method].append(outcome)
                outcomes[key] = dict(found)
                show(key, found, given.precision)
                if given.keep:
                    given.keep.write_text(json.dumps(outcomes))
    every = {
        method: [one for found in outcomes.values() for one in found[method]] for method in found
    }
    each = {m: [summary(found[m], given.precision) for found in outcomes.values()] for m in every}
    show("all", every, given.precision)
    broken = {
        m: statistics.mean(one["broken"] for one in rows if "broken" in one)
        for m, rows in each.items()
    }
    for method, share in broken.items():
        print(f"{method:16} broken, mean over data sets and backbones: {share:.3f}")
    report("promises", broken[DEFAULT] / ALLOWED, "<= 1", **broken)


def show(key: str, found: dict[str, list[dict[str, float]]], wanted: float) -> None:
    print(key, flush=True)
    for method, outcomes in found.items():
        figures = summary(outcomes, wanted)
        line = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"  {method:16} {line}", flush=True)


if __name__ == "__main__":
    main()
