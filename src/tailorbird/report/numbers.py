"""Convert a report's content to one plain dictionary: the JSON report, and input of page and card.

Scores are those of `train --json` and `evaluate --json`; the rest is counted from the same labels
and probabilities.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import SPLITS, Dataset, printable
from tailorbird.head import Fit, HeadSettings, SearchResult
from tailorbird.label_errors import Suspects
from tailorbird.metrics.calibration import confidence_bins
from tailorbird.metrics.distributions import wilson_interval
from tailorbird.metrics.scores import Answers, Scores
from tailorbird.model import ModelInfo
from tailorbird.report.content import Content
from tailorbird.report.tuning import tuning
from tailorbird.report.unfamiliar import unfamiliar

BINS: Final = 15
"""Bins of confidence, as in `metrics.calibration`."""

MISTAKES: Final = 12
"""Maximum number of mistakes shown with photo and heat map, the most confident first."""

HITS: Final = 8
"""Maximum number of correct answers shown so, the least confident first."""

SUSPECTS: Final = 36
"""Maximum number of photos shown whose label is probably wrong, the most suspect first."""

CURVE_POINTS: Final = 200
EXAMPLES: Final = 5
"""Maximum number of findings of one kind, and of photos left out for one reason, by name."""

CONFUSIONS: Final = 20
"""Maximum number of confused pairs of classes that are listed."""


def numbers(content: Content) -> dict[str, Any]:
    """Return everything a report shows, JSON-ready; unknown parts are None or empty.

    info is the file's metadata; scores are those of `evaluate --json`, with intervals.
    """
    answers, info = content.answers, content.info
    scores = {name: _scores(value) for name, value in content.scores.items()}
    main = content.scores.get(content.headline)
    return {
        "kind": content.kind,
        "model": content.model.name,
        "headline": content.headline,
        "info": _info(info),
        "scores": scores,
        "trained_on": content.trained_on,
        "data": _data(content.dataset) if content.dataset else None,
        "left_out": _left_out(content.left_out),
        "suspects": _suspects(content.suspects) if content.suspects else None,
        "search": _search(content.search) if content.search else None,
        "tuning": tuning(info),
        "threshold": content.threshold.as_dict() if content.threshold else None,
        "unfamiliar": unfamiliar(content),
        "calibration": calibration(answers) if answers else [],
        "coverage_curve": coverage_curve(answers) if answers else [],
        "confusions": [vars(pair) for pair in main.confused_pairs()[:CONFUSIONS]] if main else [],
        "confusions_by_class": _by_class(main) if main else [],
        "mistakes": _shown(answers, info, mistakes(answers)[:MISTAKES]) if answers else [],
        "hits": _shown(answers, info, least_sure_hits(answers)[:HITS]) if answers else [],
        "limits": limits(content, main),
        "advice": [step.as_dict() for step in content.advice],
    }


def _info(info: ModelInfo) -> dict[str, Any]:
    """Return the metadata without the long lists of photos."""
    stored, long = info.as_dict(), ("trained_on", "chosen_on")
    stored["data"] = {name: value for name, value in info.data.items() if name not in long}
    return stored


def _scores(scores: Scores) -> dict[str, Any]:
    """Return the scores of `evaluate --json` with 95% Wilson intervals of every share."""
    shares = {name: value for name, one, value in scores.measures() if one.form == "share"}
    intervals: dict[str, list[float] | None] = {
        name: list(wilson_interval(round(share * scores.n), scores.n))
        for name, share in shares.items()
    }
    intervals["sure_accuracy"] = None
    if scores.coverage is not None:
        sure = round(scores.coverage * scores.n)
        intervals["coverage"] = list(wilson_interval(sure, scores.n))
        if scores.sure_accuracy is not None and sure:
            hits = round(scores.sure_accuracy * sure)
            intervals["sure_accuracy"] = list(wilson_interval(hits, sure))
    return {
        **scores.as_dict(),
        "hits": round(scores.accuracy * scores.n),
        "intervals": {"accuracy": list(scores.interval), **intervals},
    }


def _data(dataset: Dataset) -> dict[str, Any]:
    splits = dataset.splits
    names = [name for name in SPLITS if name in splits]
    grouped: dict[str, list[Any]] = {}
    for finding in dataset.findings:
        grouped.setdefault(finding.kind, []).append(finding)
    return {
        "photos": len(dataset),
        "splits": {name: sum(splits[name].values()) for name in names},
        "classes": {
            label: {**{name: splits[name].get(label, 0) for name in names}, "all": count}
            for label, count in dataset.counts.items()
        },
        "findings": [
            {
                "kind": kind,
                "count": len(found),
                "examples": [finding.as_dict() for finding in found[:EXAMPLES]],
            }
            for kind, found in grouped.items()
        ],
    }


def _left_out(left_out: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the reasons, most frequent first, with a few of the photos."""
    reasons = Counter(reason for _, reason in left_out)
    paths: dict[str, list[str]] = {}
    for path, reason in left_out:
        paths.setdefault(reason, []).append(path)
    return [
        {"reason": reason, "count": count, "examples": paths[reason][:EXAMPLES]}
        for reason, count in reasons.most_common(20)
    ]


def _suspects(found: Suspects) -> dict[str, Any]:
    """Return how many labels look wrong, and the most suspect as in `scan --suspects --json`."""
    return {
        "judged": len(found.ranked),
        "reported": len(found.reported),
        "shown": [suspect.as_dict() for suspect in found.reported[:SUSPECTS]],
        "unfamiliar": [photo.as_dict() for photo in found.unlike[:SUSPECTS]],
    }


def _settings(settings: HeadSettings) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(settings).items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _search(search: SearchResult) -> dict[str, Any]:
    """Return every configuration, the best first, and the training of the chosen ones."""
    chosen = [_settings(member.settings) for member in search.members]
    trials: list[dict[str, Any]] = [
        {
            "settings": _settings(trial.settings),
            "validation_loss": _finite(trial.validation_loss),
            "validation_accuracy": _finite(trial.validation_accuracy),
            "best_epoch": trial.best_epoch,
            "seconds": trial.seconds,
            "failure": trial.failure,
            "chosen": _alike(_settings(trial.settings), chosen),
        }
        for trial in search.trials
    ]
    trials.sort(
        key=lambda trial: math.inf if trial["validation_loss"] is None else trial["validation_loss"]
    )
    return {
        "trials": trials,
        "validation_loss": search.best.validation_loss,
        "validation_accuracy": search.best.validation_accuracy,
        "members": [_member(member) for member in search.members],
    }


def _alike(settings: dict[str, Any], chosen: Sequence[dict[str, Any]]) -> bool:
    """Whether a trial has the settings of a chosen head, apart from the number of epochs."""
    timing = ("epochs", "patience")
    return any(
        all(settings[name] == other[name] for name in settings if name not in timing)
        for other in chosen
    )


def _member(fit: Fit) -> dict[str, Any]:
    return {
        "settings": _settings(fit.settings),
        "best_epoch": fit.best_epoch,
        "validation_loss": fit.validation_loss,
        "validation_accuracy": fit.validation_accuracy,
        "history": [vars(epoch).copy() for epoch in fit.history],
    }


def _certainty(answers: Answers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return each photo's highest probability, and whether that answer is correct."""
    confidence = answers.probabilities.max(axis=1).astype(np.float64)
    return confidence, answers.probabilities.argmax(axis=1) == answers.labels


def calibration(answers: Answers, bins: int = BINS) -> list[dict[str, Any]]:
    """Return low, high, n, mean confidence, accuracy and interval of each bin of confidence.

    Bins have equal width; empty ones have None. Intervals are 95%.
    """
    confidence, hit = _certainty(answers)
    which = confidence_bins(confidence, bins)
    result: list[dict[str, Any]] = []
    for number in range(bins):
        here = which == number
        n, hits = int(here.sum()), int(hit[here].sum())
        known = {
            "confidence": float(confidence[here].mean()),
            "accuracy": hits / n,
            "interval": list(wilson_interval(hits, n)),
        } if n else {"confidence": None, "accuracy": None, "interval": None}  # fmt: skip
        result.append({"low": number / bins, "high": (number + 1) / bins, "n": n, **known})
    return result


def coverage_curve(answers: Answers, points: int = CURVE_POINTS) -> list[dict[str, float]]:
    """Return threshold, coverage and accuracy at up to `points` thresholds, evenly spread.

    Photos of equal confidence are on the same side of every threshold.
    """
    confidence, hit = _certainty(answers)
    order = np.argsort(-confidence, kind="stable")
    confidence, right = confidence[order], np.cumsum(hit[order])
    cuts = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))
    if len(cuts) > points:
        cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, points).round().astype(int))]
    n = len(confidence)
    return [
        {
            "threshold": float(confidence[i]),
            "coverage": float((i + 1) / n),
            "accuracy": float(right[i] / (i + 1)),
        }
        for i in cuts
    ]


def mistakes(answers: Answers) -> list[int]:
    """Return the photos with a wrong answer, the most confident first."""
    confidence, hit = _certainty(answers)
    wrong = np.flatnonzero(~hit)
    return [int(i) for i in wrong[np.argsort(-confidence[wrong], kind="stable")]]


def least_sure_hits(answers: Answers) -> list[int]:
    """Return the photos with a correct answer, the least confident first."""
    confidence, hit = _certainty(answers)
    right = np.flatnonzero(hit)
    return [int(i) for i in right[np.argsort(confidence[right], kind="stable")]]


def _shown(answers: Answers, info: ModelInfo, chosen: Sequence[int]) -> list[dict[str, Any]]:
    rows, limit = answers.probabilities, info.unfamiliar_above
    strange = np.zeros(len(answers), bool)
    if answers.unfamiliarity is not None and limit is not None:
        strange = answers.unfamiliarity > limit
    result = []
    for i in chosen:
        best, label = int(rows[i].argmax()), int(answers.labels[i])
        result.append(
            {
                "photo": i,
                "path": answers.names[i],
                "label": info.classes[label],
                "predicted": info.classes[best],
                "probability": float(rows[i, best]),
                "label_probability": float(rows[i, label]),
                "unsure": bool(strange[i]) or float(rows[i, best]) < info.threshold,
                "unfamiliar": bool(strange[i]),
            }
        )
    return result


def _by_class(scores: Scores) -> list[list[dict[str, Any]]]:
    """Return for each class the two it is most often mistaken for: label and count."""
    result = []
    for number, row in enumerate(scores.confusion):
        others = sorted(
            (i for i, count in enumerate(row) if count and i != number), key=lambda i: -row[i]
        )
        result.append([{"label": scores.classes[i], "count": row[i]} for i in others[:2]])
    return result


def _short(label: str) -> str:
    """Return a class's name, shortened for a sentence."""
    label = printable(label)
    return label if len(label) <= 40 else f"{label[:39]}…"


def limits(content: Content, main: Scores | None) -> list[str]:
    """Return sentences about the model's limits, derived from its figures."""
    info = content.info
    sentences = [
        f"It knows its {len(info.classes)} classes alone. It notices photos unlike all it was "
        "trained on, but other things that look like photos of its classes get one of them, "
        "perhaps with a high probability."
        if info.unfamiliar_above is not None
        else f"It answers with one of its {len(info.classes)} classes for every photo: a photo of "
        "anything else also gets one of them, perhaps with a high probability.",
        "The scores hold for photos like those it was tested on. Other cameras, backgrounds, "
        "seasons or customers can be harder; score it on your own photos (tailorbird evaluate).",
    ]
    if main is not None:
        sentences += _score_limits(main)
    if content.trained_on:
        sentences.append(
            f"The model was trained on {content.trained_on:,} of the scored photos: "
            "their scores do not hold for new photos."
        )
    if info.data.get("threshold_reached") is False:
        wanted = info.settings.get("precision")
        share = f"{wanted:.0%} of " if isinstance(wanted, float) else ""
        sentences.append(
            f"It cannot promise that {share}its answers are right: the photos that calibrated it "
            "were too few or its answers not good enough."
        )
    if main is None:
        sentences.append(
            "Its file holds no readable scores."
            if info.scores
            else "It was not scored: no labelled photos were given when it was made; "
            "score it on your own photos (tailorbird evaluate)."
        )
    return sentences


def _score_limits(main: Scores) -> list[str]:
    """Return the limits that follow from the scores: few photos, weak classes, tiny classes."""
    sentences = []
    low, high = main.interval
    if main.too_few or high - low > 0.05:
        few = "too few to say" if main.too_few else "few"
        sentences.append(
            f"{main.n:,} photos are {few}: the true accuracy may lie between {low:.1%} and "
            f"{high:.1%} (95% interval)."
        )
    mean = main.macro.get("f1", 0.0)
    weak = [row for row in main.per_class if row.support and row.f1 < mean - 0.1]
    if weak:
        worst = sorted(weak, key=lambda row: row.f1)[:3]
        named = ", ".join(f"{_short(row.label)} (F1 {row.f1:.2f})" for row in worst)
        sentences.append(f"Clearly weaker than the others: {named}.")
    small = [row.label for row in main.per_class if row.support < 10]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        names = ", ".join(map(_short, small[:5])) + more
        sentences.append(
            f"Fewer than 10 photos were available to score {names}: their figures are unreliable."
        )
    return sentences
