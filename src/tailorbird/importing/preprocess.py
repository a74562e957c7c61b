"""Determine how pixels were prepared in training: as given, as found in the model, or by trial.

Logits are float (N, C), labels int64 (N,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.engines.preprocessing import ALIASES, PREPROCESS
from tailorbird.engines.protocol import ClassifierReader, SourceClassifier
from tailorbird.errors import SettingsError
from tailorbird.head.network import log_loss
from tailorbird.importing.photos import ImportedNetwork
from tailorbird.metrics.paired import mcnemar
from tailorbird.progress import Progress

SAMPLED: Final = 200
"""Maximum number of photos on which preprocessings are tried."""

CLEARLY: Final = 0.01
"""P-value below which another preprocessing is significantly better; five are compared."""


@dataclass(frozen=True)
class Alternative:
    """Another preprocessing: its accuracy, and McNemar's p-value against the one in use."""

    preprocess: str
    accuracy: float
    p_value: float


@dataclass(frozen=True)
class PreprocessComparison:
    """The preprocessing in use, its accuracy on `n` photos, and the others, best first."""

    used: str
    n: int
    accuracy: float
    others: tuple[Alternative, ...]

    @property
    def better(self) -> Alternative | None:
        """Return the best other preprocessing if it is significantly better, else None."""
        return next(
            (one for one in self.others if one.accuracy > self.accuracy and one.p_value < CLEARLY),
            None,
        )

    @property
    def warning(self) -> str | None:
        """Return a warning if another preprocessing is better, else None."""
        other = self.better
        if other is None:
            return None
        return (
            f"preprocess {other.preprocess} gets {other.accuracy:.1%} of {self.n} photos right, "
            f"{self.used} only {self.accuracy:.1%} (McNemar p = {other.p_value:.1g}): {self.used} "
            f"is probably wrong; import again with --preprocess {other.preprocess}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `import --json`."""
        return {
            "used": self.used,
            "n": self.n,
            "accuracy": self.accuracy,
            "others": [vars(one).copy() for one in self.others],
        }


def mode_of(preprocess: str | None, reader: ClassifierReader) -> str | None:
    """Return the key of PREPROCESS that a name of the reader's users stands for.

    Raises SettingsError for an unknown name.
    """
    if preprocess is None or preprocess in PREPROCESS:
        return preprocess
    known = ALIASES | dict(reader.preprocess_names)
    if preprocess not in known:
        own = ", ".join(reader.preprocess_names)
        raise SettingsError(
            f"preprocess is {preprocess!r}; it must be one of {', '.join([*PREPROCESS, *ALIASES])}"
            + (
                f", or the {reader.name} module whose preprocess_input was used: {own}"
                if own
                else ""
            )
        )
    return known[preprocess]


def known_preprocessing(classifier: SourceClassifier, given: str | None) -> tuple[str, str] | None:
    """Return (preprocess, reason): as given, else as found in the model; None if unknown."""
    if given is not None:
        return given, "as given"
    layer = classifier.own_preprocessing()
    if layer is not None:
        return "none", f"the model prepares its pixels itself, in {layer}"
    known = classifier.known_network()
    if known is not None:
        reason = f"{known.does}; recognised by {known.evidence}"
        return known.preprocess, reason
    return None


def doubts(classifier: SourceClassifier, given: str | None, mode: str) -> list[str]:
    """Return what in the model contradicts the preprocessing that was given."""
    if given is None:
        return []
    layer = classifier.own_preprocessing()
    if layer is not None:
        if mode == "none":
            return []
        return [
            f"the model prepares its pixels itself, in {layer}, after preprocess {mode}; use none "
            "to leave it to the model"
        ]
    known = classifier.known_network()
    if known is not None and known.preprocess != mode:
        return [
            f"{known.name}, recognised by {known.evidence}, goes with {known.preprocess}, not "
            f"{mode}"
        ]
    return []


def try_all(
    classifier: SourceClassifier,
    images: npt.NDArray[np.uint8],
    progress: Progress,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the logits of photos, uint8 (N, S, S, 3), by preprocessing."""
    answers = {}
    total = len(PREPROCESS) * len(images)
    progress.stage("preprocess", total)
    for number, mode in enumerate(PREPROCESS):
        network = ImportedNetwork(
            *classifier.backbone_graph(mode), f"the model with preprocess {mode}"
        )
        answers[mode] = network.logits(images)
        progress.advance((number + 1) * len(images), total)
    return answers


def best(
    answers: Mapping[str, npt.NDArray[np.floating[Any]]], labels: npt.NDArray[np.int64]
) -> tuple[str, str]:
    """Return the preprocessing with the best scores on labelled photos, and the reason.

    Of those with the highest accuracy, or one not significantly lower, it is the one with the
    lowest log-loss: two preprocessings, above all tf and torch, may have the same accuracy, but the
    network is more confident with the one it was trained with.
    """
    right = {mode: float((rows.argmax(axis=1) == labels).mean()) for mode, rows in answers.items()}
    first = max(right, key=lambda mode: right[mode])
    candidates = [
        first,
        *(
            one.preprocess
            for one in compare(answers, labels, first).others
            if one.p_value >= CLEARLY
        ),
    ]
    chosen = min(candidates, key=lambda mode: log_loss(answers[mode], labels))
    accuracies = ", ".join(
        f"{mode} {right[mode]:.1%}" for mode in sorted(right, key=lambda mode: -right[mode])
    )
    reason = f"it suits {len(labels)} photos best: {accuracies} right"
    others = [mode for mode in candidates if mode != chosen]
    if others:
        reason += (
            f"; {' and '.join(others)} not significantly worse, {chosen} has the lowest log-loss"
        )
    return chosen, reason


def compare(
    answers: Mapping[str, npt.NDArray[np.floating[Any]]], labels: npt.NDArray[np.int64], used: str
) -> PreprocessComparison:
    """Compare the preprocessing in use with the others; answers: logits of the same photos."""
    right = {mode: rows.argmax(axis=1) == labels for mode, rows in answers.items()}
    found = [
        Alternative(
            mode,
            float(hits.mean()),
            mcnemar(int((right[used] & ~hits).sum()), int((hits & ~right[used]).sum())),
        )
        for mode, hits in right.items()
        if mode != used
    ]
    return PreprocessComparison(
        used,
        len(labels),
        float(right[used].mean()),
        tuple(sorted(found, key=lambda one: -one.accuracy)),
    )
