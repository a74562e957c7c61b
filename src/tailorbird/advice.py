"""What to do next, from what was measured: at most two steps, each with its command.

Steps are ordered by the points of accuracy they should bring. The shares of mistakes that a step
takes away come from the benchmarks; they are what it brought on data like this, not a promise.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailorbird.dataset import Dataset
from tailorbird.dataset.checks import SMALL
from tailorbird.metrics.scores import Scores, of_100
from tailorbird.metrics.thresholds import Threshold

MOST: Final = 2

LITE_REMOVES: Final = 0.48
"""Share of the mistakes of `pocket` that `lite` does not make: clothing, trashnet and sign-digits,
three seeds each (benchmarks/accuracy.py)."""

FINETUNING_REMOVES: Final = 0.4
"""Share of the mistakes of a frozen `lite` that a fine-tuned one does not make, on the data set
where it is smallest: clothing, trashnet and sign-digits, three seeds each
(benchmarks/finetune_accuracy.py)."""

FINETUNING: Final = "--finetune --ema 0.95 --views 8 --mirror"
"""The options with which that was measured."""

DOUBLING_REMOVES: Final = 0.3
"""Share of the mistakes on photos of a weak class that twice its training photos take away: skirts
and shirts in docs/experiments.md."""

WRONG_SUSPECTS: Final = 0.5
"""Share of suspect labels that were wrong or could be either, checked by eye (benchmarks)."""

LEAST_POINTS: Final = 0.3
"""A step that should bring less, in points of accuracy, is not advised."""

FEWEST: Final = 3
"""Fewer mistakes than these are not a pattern."""

WEAK: Final = 0.1
"""A class is weak if its recall is so much below the accuracy."""

BOTH_WAYS: Final = 0.05
"""Two classes are confused both ways if so large a share of each is predicted as the other."""


@dataclass(frozen=True)
class Advice:
    """One step: what and why, the command to type, and the points of accuracy it should bring.

    points: None where the step does not change the accuracy, but what can be said about it.
    """

    text: str
    command: str
    points: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        return vars(self).copy()


@dataclass(frozen=True)
class Trained:
    """What `train` measured.

    Attributes:
        photos: the folder or CSV.
        backbone: as given to `train`. frozen: whether it was not trained.
        judged: scores on photos that the heads had not seen, but not those of test: what to do next
            is not chosen on the test set.
        test: the test scores, of which only the number of photos is used.
        threshold: what can be promised.
        counts: training photos by class.
        suspects: number of labels that are probably wrong; None: they were not judged.
    """

    photos: str
    backbone: str
    frozen: bool
    judged: Scores
    test: Scores
    threshold: Threshold
    counts: dict[str, int]
    suspects: int | None = None


def after_training(found: Trained) -> tuple[Advice, ...]:
    """Return at most two steps after a training, the most useful first."""
    photos = shlex.quote(found.photos)
    steps = [
        *_suspects(found, photos),
        *_confused(found.judged, photos),
        *_weak_class(found.judged, found.counts, photos),
        *_backbone(found, photos),
    ]
    useful = [step for step in steps if (step.points or 0) >= LEAST_POINTS]
    return (*_too_few(found, photos), *_ranked(useful))[:MOST]


def after_scan(
    dataset: Dataset,
    photos: str | Path,
    *,
    to_review: int,
    judged: int = 0,
    suspects: int = 0,
    confused: Iterable[tuple[str, str]] = (),
) -> tuple[Advice, ...]:
    """Return at most two steps after a scan, the most useful first.

    Args:
        dataset: the photos.
        photos: the folder or CSV.
        to_review: number of findings that a person can decide in a review.
        judged: number of photos whose label was judged, 0 if none were.
        suspects: number of labels that are probably wrong.
        confused: (label, most probable class) of the judged photos where these differ.
    """
    quoted = shlex.quote(str(photos))
    steps = []
    if to_review:
        what = f"look at {to_review:,} finding{'s' * (to_review > 1)}"
        if suspects:
            what += f", {suspects:,} of them labels that are probably wrong"
        share = suspects / judged if judged else 0.0
        points = 100 * WRONG_SUSPECTS * share
        steps.append(Advice(what, f"tailorbird review {quoted}", points))
    if judged:
        steps += _pairs(list(confused), dataset.counts, judged, quoted)
    steps = _ranked(steps)
    small = {label: count for label, count in dataset.counts.items() if count < SMALL}
    if small:
        label, count = min(small.items(), key=lambda item: item[1])
        more = f" (and {len(small) - 1} more classes)" if len(small) > 1 else ""
        text = (
            f"add photos of {label}{more}: it has {count}, and at least {SMALL} are needed to "
            "learn and test a class"
        )
        steps.append(Advice(text, f"tailorbird scan {quoted}"))
    if len(steps) < MOST and len(dataset.classes) > 1:
        steps.append(Advice("train", f"tailorbird train {quoted} -o model.onnx"))
    return tuple(steps[:MOST])


def _ranked(steps: Sequence[Advice]) -> list[Advice]:
    return sorted(steps, key=lambda step: -(step.points or 0))


def _too_few(found: Trained, photos: str) -> list[Advice]:
    """Advise more photos where too few are there to test or to promise anything."""
    again = f"tailorbird train {photos} -o model.onnx"
    if found.threshold.needed is not None:
        target = f"{100 * found.threshold.wanted:.6g} of 100"
        where = "" if found.threshold.crossfitted else " for validation"
        return [
            Advice(
                f"add about {found.threshold.needed:,} photos{where}, so that {target} right "
                "answers can be promised, then train again",
                again,
            )
        ]
    if found.test.too_few:
        text = (
            f"add photos: {found.test.n:,} test photos are too few to say how good the model is; "
            "then train again"
        )
        return [Advice(text, again)]
    return []


def _suspects(found: Trained, photos: str) -> list[Advice]:
    if not found.suspects or found.suspects < FEWEST:
        return []
    share = found.suspects / (sum(found.counts.values()) or 1)
    points = 100 * WRONG_SUSPECTS * min(1.0, share)
    text = f"look at {found.suspects:,} photos whose label is probably wrong"
    return [Advice(text, f"tailorbird review {photos}", points)]


def _confused(scores: Scores, photos: str) -> list[Advice]:
    mistakes = [
        (pair.label, pair.predicted) for pair in scores.confused_pairs() for _ in range(pair.count)
    ]
    counts = {row.label: row.support for row in scores.per_class}
    return _pairs(mistakes, counts, scores.n, photos)


def _pairs(
    mistakes: Sequence[tuple[str, str]], counts: dict[str, int], photos: int, quoted: str
) -> list[Advice]:
    """Advise on the pair of classes that are most often mistaken for each other, both ways."""
    table: dict[tuple[str, str], int] = {}
    for pair in mistakes:
        table[pair] = table.get(pair, 0) + 1
    steps = []
    for (a, b), there in table.items():
        back = table.get((b, a), 0)
        enough = min(there, back) >= FEWEST and all(
            count >= BOTH_WAYS * counts.get(label, 0) for label, count in ((a, there), (b, back))
        )
        if a < b and enough:
            points = 100 * (there + back) / photos
            text = (
                f"{a} and {b} are taken for each other ({there:,} and {back:,} of {photos:,} "
                f"photos): merged into one class, that is {points:.1f} points; or say in what they "
                "differ and relabel"
            )
            steps.append(Advice(text, f"tailorbird review {quoted}", points))
    return _ranked(steps)[:1]


def _weak_class(scores: Scores, counts: dict[str, int], photos: str) -> list[Advice]:
    """Advise more photos of the class below average, with few photos, that costs most."""
    typical = sorted(counts.values())[len(counts) // 2] if counts else 0
    steps = []
    for row in scores.per_class:
        wrong = round((1 - row.recall) * row.support)
        weak = row.support and row.recall < scores.accuracy - WEAK and wrong >= FEWEST
        if weak and counts.get(row.label, 0) <= typical:
            points = 100 * DOUBLING_REMOVES * wrong / scores.n
            text = (
                f"add photos of {row.label}: {of_100(row.recall)} are recognised, and it has only "
                f"{counts.get(row.label, 0):,}; twice as many may bring {points:.1f} points"
            )
            steps.append(Advice(text, f"tailorbird learning-curve {photos}", points))
    return _ranked(steps)[:1]


def _backbone(found: Trained, photos: str) -> list[Advice]:
    """Advise a stronger backbone, or fine-tuning, where its effect was measured."""
    wrong = 100 * (1 - found.judged.accuracy)
    if not found.frozen:
        return []
    if found.backbone == "pocket":
        points = LITE_REMOVES * wrong
        text = (
            f"use the stronger backbone lite: it made half the mistakes of pocket on three data "
            f"sets; here that is {points:.1f} points"
        )
        return [Advice(text, f"tailorbird train {photos} --backbone lite -o model.onnx", points)]
    if found.backbone == "lite":
        points = FINETUNING_REMOVES * wrong
        text = (
            "fine-tune the backbone with PyTorch: on three data sets that took away two fifths of "
            "the mistakes or more, in minutes rather than seconds, and a prediction took up to "
            f"four times as long; here that is {points:.1f} points"
        )
        return [Advice(text, f"tailorbird train {photos} {FINETUNING} -o model.onnx", points)]
    return []
