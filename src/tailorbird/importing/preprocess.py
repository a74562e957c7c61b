"""How the pixels were prepared in training: as given, as the model itself says, or as photos tell; and whether that can be right.

Logits are float (N, C), labels int64 (N,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import classifier as keras_models
from tailorbird.errors import SettingsError
from tailorbird.head.network import log_loss
from tailorbird.importing.photos import ImportedNetwork
from tailorbird.metrics.paired import mcnemar
from tailorbird.progress import Progress

PREPROCESS: Final = tuple(dict.fromkeys([*keras_models.MODES, *keras_models.APPLICATIONS]))
"""What may be given as `preprocess`: a mode, or the module of keras.applications whose `preprocess_input` was used."""

SAMPLED: Final = 200
"""Photos on which other ways to prepare the pixels are tried."""

CLEARLY: Final = 0.01
"""The p-value below which another way is called clearly better; four ways are compared."""


@dataclass(frozen=True)
class Alternative:
    """Another way to prepare the pixels: the share of photos it gets right, and McNemar's p-value beside the one in use."""

    preprocess: str
    accuracy: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """The way in use, its accuracy on `n` photos, and the others on the same, the best first."""

    used: str
    n: int
    accuracy: float
    others: tuple[Alternative, ...]

    @property
    def better(self) -> Alternative | None:
        """The best way that is clearly better than the one in use; None where there is none."""
        return next(
            (one for one in self.others if one.accuracy > self.accuracy and one.p_value < CLEARLY),
            None,
        )

    @property
    def warning(self) -> str | None:
        """What to say of it."""
        other = self.better
        if other is None:
            return None
        return (
            f"preprocess {other.preprocess} gets {other.accuracy:.1%} of {self.n} photos right, {self.used} only {self.accuracy:.1%} "
            f"(McNemar p = {other.p_value:.1g}): {self.used} is probably wrong; import again with --preprocess {other.preprocess}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `import --json`."""
        return {
            "used": self.used,
            "n": self.n,
            "accuracy": self.accuracy,
            "others": [vars(one).copy() for one in self.others],
        }


def mode_of(preprocess: str | None) -> str | None:
    """The mode that a name of PREPROCESS means. Raises SettingsError."""
    if preprocess is None or preprocess in keras_models.MODES:
        return preprocess
    if preprocess not in keras_models.APPLICATIONS:
        raise SettingsError(
            f"preprocess is {preprocess!r}; it must be one of {', '.join(keras_models.MODES)}, or the module of keras.applications whose "
            f"preprocess_input was used: {', '.join(keras_models.APPLICATIONS)}"
        )
    return keras_models.APPLICATIONS[preprocess]


def told(classifier: keras_models.Classifier, given: str | None) -> tuple[str, str] | None:
    """(mode, why): as given, else as the model itself says."""
    if given is not None:
        return given, "as given"
    layer = keras_models.inside(classifier.graph)
    if layer is not None:
        return "none", f"the model prepares its pixels itself, in {layer}"
    known = keras_models.base(classifier.graph)
    if known is not None:
        module, by = known
        return keras_models.APPLICATIONS[
            module
        ], f"what keras.applications.{module}.preprocess_input does; the base is told by {by}"
    return None


def doubts(classifier: keras_models.Classifier, given: str | None, mode: str) -> list[str]:
    """What in the model speaks against the way that was given."""
    if given is None:
        return []
    layer = keras_models.inside(classifier.graph)
    if layer is not None and mode != "none":
        return [
            f"the model prepares its pixels itself, in {layer}, and preprocess {mode} comes before it; none would leave it to the model"
        ]
    known = keras_models.base(classifier.graph)
    if layer is None and known is not None and keras_models.APPLICATIONS[known[0]] != mode:
        return [
            f"keras.applications.{known[0]}, by which the base is told ({known[1]}), goes with {keras_models.APPLICATIONS[known[0]]}, not {mode}"
        ]
    return []


def try_all(
    classifier: keras_models.Classifier,
    images: npt.NDArray[np.uint8],
    progress: Progress,
) -> dict[str, npt.NDArray[np.float32]]:
    """Logits of the same photos, uint8 (N, S, S, 3), prepared in each way."""
    answers = {}
    total = len(keras_models.MODES) * len(images)
    progress.stage("preprocess", total)
    for number, mode in enumerate(keras_models.MODES):
        network = ImportedNetwork(
            *keras_models.backbone_graph(classifier, mode), f"the model with preprocess {mode}"
        )
        answers[mode] = network.logits(images)
        progress.advance((number + 1) * len(images), total)
    return answers


def best(
    answers: Mapping[str, npt.NDArray[np.floating[Any]]], labels: npt.NDArray[np.int64]
) -> tuple[str, str]:
    """(mode, why): of the ways that get the most photos right, or not clearly fewer, the one with the lowest log-loss.

    Two ways may get as many right, tf and torch above all; the one the network was trained with is surer of them.
    """
    right = {mode: float((rows.argmax(axis=1) == labels).mean()) for mode, rows in answers.items()}
    first = max(right, key=lambda mode: right[mode])
    alike = [
        first,
        *(
            one.preprocess
            for one in compare(answers, labels, first).others
            if one.p_value >= CLEARLY
        ),
    ]
    chosen = min(alike, key=lambda mode: log_loss(answers[mode], labels))
    said = ", ".join(
        f"{mode} {right[mode]:.1%}" for mode in sorted(right, key=lambda mode: -right[mode])
    )
    reason = f"it suits {len(labels)} photos best: {said} right"
    others = [mode for mode in alike if mode != chosen]
    if others:
        reason += f"; {' and '.join(others)} cannot be told from it by that, {chosen} has the lowest log-loss"
    return chosen, reason


def compare(
    answers: Mapping[str, npt.NDArray[np.floating[Any]]], labels: npt.NDArray[np.int64], used: str
) -> Comparison:
    """The way in use beside the others. answers: logits of the same photos, by way."""
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
    return Comparison(
        used,
        len(labels),
        float(right[used].mean()),
        tuple(sorted(found, key=lambda one: -one.accuracy)),
    )
