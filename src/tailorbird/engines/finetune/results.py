"""What a fine-tuning run reports: scores, epochs, the best weights' origin, the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.engines.finetune.plan import Stage
from tailorbird.head.network import log_loss
from tailorbird.metrics.calibration import temperature

Stopped = Literal["finished", "early", "budget"]


@dataclass(frozen=True)
class Score:
    """On the validation photos. log_loss: nats, after fitting the one temperature (lower is better). accuracy: 0 to 1."""

    log_loss: float
    accuracy: float
    temperature: float


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Score:
    """Score finite logits (M, C) by the labels (M,): calibrated first, because the finished model will be."""
    scale = temperature(logits, labels)
    return Score(
        log_loss=log_loss(logits.astype(np.float64) / scale, labels),
        accuracy=float(np.mean(logits.argmax(axis=1) == labels)),
        temperature=scale,
    )


@dataclass(frozen=True)
class Epoch:
    """One epoch. stage counts from 1; epoch too, and 0 is the score before a stage at a size not scored before.

    loss and accuracy are running means over the training photos as the weights moved, with dropout and augmentation on, None for
    epoch 0; learning_rate is the head's at the end. images_per_second is training's, seconds the epoch's with its validation.
    """

    stage: int
    size: int
    cut: str
    epoch: int
    learning_rate: float
    loss: float | None
    accuracy: float | None
    validation_log_loss: float
    validation_accuracy: float
    images_per_second: float | None
    seconds: float
    best: bool
    """Whether it was the best so far."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def sentence(self, stages: int, epochs: int) -> str:
        """The epoch for people."""
        scored = f"validation log-loss {self.validation_log_loss:.3f}, accuracy {100 * self.validation_accuracy:.1f}%"
        mark = ", the best so far" if self.best else ""
        if self.loss is None or self.accuracy is None:
            return f"stage {self.stage}/{stages}, before it, at {self.size} px: {scored}{mark}"
        speed = f"; {self.images_per_second:,.0f} images/s" if self.images_per_second else ""
        return (
            f"stage {self.stage}/{stages}, epoch {self.epoch}/{epochs}: loss {self.loss:.3f}, accuracy {100 * self.accuracy:.1f}%; "
            f"{scored}{mark}{speed}"
        )


@dataclass(frozen=True)
class Best:
    """The best weights so far. stage 0 is the frozen base with the head found on its features; epoch as in `Epoch`.

    size: in pixels, what these weights were scored at and are to be used at. logits: float32 (M, C), of the validation photos.
    """

    stage: int
    epoch: int
    size: int
    score: Score
    logits: npt.NDArray[np.float32] = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the logits."""
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "size": self.size,
            "score": asdict(self.score),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], logits: npt.NDArray[np.float32]) -> Best:
        """Read `as_dict` back."""
        return cls(value["stage"], value["epoch"], value["size"], Score(**value["score"]), logits)


@dataclass(frozen=True)
class Tuned:
    """What `finetune` did. The network holds the weights of `best`, to be exported at `best.size`.

    start: the frozen base's score at its own size. resumed_from: (stage, epoch, step), how much of them was over in earlier
    processes, None when this one did it all. seconds: of all processes. stopped: finished; early: a stage ended by early stopping;
    budget: the time was over.
    """

    history: tuple[Epoch, ...]
    stages: tuple[Stage, ...]
    best: Best
    start: Score
    resumed_from: tuple[int, int, int] | None
    seconds: float
    stopped: Stopped

    def as_dict(self) -> dict[str, Any]:
        """For JSON and a model file's metadata."""
        return {
            "history": [epoch.as_dict() for epoch in self.history],
            "stages": [stage.as_dict() for stage in self.stages],
            "best": self.best.as_dict(),
            "start": asdict(self.start),
            "resumed_from": list(self.resumed_from) if self.resumed_from else None,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }
