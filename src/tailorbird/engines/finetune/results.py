"""Results of a fine-tuning run: scores, epochs, the best weights and where they come from."""

from __future__ import annotations

import math
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
    """Scores on the validation photos.

    Attributes:
        log_loss: log-loss in nats, after fitting the temperature; lower is better.
        accuracy: 0 to 1.
        temperature: the fitted temperature.
    """

    log_loss: float
    accuracy: float
    temperature: float


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Score:
    """Score finite logits (M, C) against labels (M,), calibrated as the finished model will be."""
    scale = temperature(logits, labels)
    return Score(
        log_loss=log_loss(logits.astype(np.float64) / scale, labels),
        accuracy=float(np.mean(logits.argmax(axis=1) == labels)),
        temperature=scale,
    )


@dataclass(frozen=True)
class Epoch:
    """One epoch of a stage; both count from 1, and epoch 0 is the score before the stage.

    Attributes:
        stage: number of the stage.
        size: S in pixels.
        cut: name of the layer below the trained part.
        epoch: number of the epoch in the stage.
        learning_rate: learning rate of the head at the end of the epoch.
        loss: running mean over the training photos, with dropout and augmentation; None in epoch 0.
        accuracy: running mean over the same photos, 0 to 1; None for epoch 0.
        validation_log_loss: validation log-loss after calibration, in nats.
        validation_accuracy: 0 to 1.
        images_per_second: speed of training; None for epoch 0.
        seconds: duration of training and validation.
        best: whether it was the best so far.
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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def overfits(self, photos: int, best: float) -> bool:
        """Return whether training photos are learned by heart.

        They are if they are recognised better than the validation photos ever were, by more than
        two standard errors (binomial), although they are augmented and their mean is behind. The
        validation accuracy of this epoch alone says less: early on, the averaged weights that it
        is measured with are far behind those that train.

        Args:
            photos: number of validation photos.
            best: the highest validation accuracy so far, this epoch's and the frozen backbone's
                included; 0 to 1.
        """
        if self.accuracy is None:
            return False
        return self.accuracy - best > 2 * math.sqrt(best * (1 - best) / photos)

    def sentence(self, stages: int, epochs: int) -> str:
        """Return the epoch as a sentence."""
        scored = (
            f"validation log-loss {self.validation_log_loss:.3f}, "
            f"accuracy {100 * self.validation_accuracy:.1f}%{', the best so far' * self.best}"
        )
        if self.loss is None or self.accuracy is None:
            return f"stage {self.stage}/{stages}, before it, at {self.size} px: {scored}"
        speed = f"; {self.images_per_second:,.0f} images/s" if self.images_per_second else ""
        return (
            f"stage {self.stage}/{stages}, epoch {self.epoch}/{epochs}: loss {self.loss:.3f}, "
            f"accuracy {100 * self.accuracy:.1f}%; {scored}{speed}"
        )


@dataclass(frozen=True)
class Best:
    """The best weights so far.

    Attributes:
        stage: stage in which they were scored; 0 for the frozen backbone with the initial head.
        epoch: epoch in which they were scored; 0 before the stage's first epoch.
        size: S in pixels at which they were scored and are to be used.
        score: score on the validation photos.
        logits: logits of the validation photos, float32 (M, C).
        trained: (stage, epoch) of the training that made them; (0, 0) for the initial weights.
    """

    stage: int
    epoch: int
    size: int
    score: Score
    logits: npt.NDArray[np.float32] = field(repr=False, compare=False)
    trained: tuple[int, int] = (0, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without the logits."""
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "size": self.size,
            "score": asdict(self.score),
            "trained": list(self.trained),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], logits: npt.NDArray[np.float32]) -> Best:
        """Return what `as_dict` was called on."""
        stage, epoch = value["trained"]
        score = Score(**value["score"])
        return cls(value["stage"], value["epoch"], value["size"], score, logits, (stage, epoch))

    def sentence(self) -> str:
        """Return which weights were kept."""
        stage, epoch = self.trained
        if not stage:
            return f"kept the initial weights at {self.size} px: training improved nothing"
        return f"kept the weights of stage {stage}, epoch {epoch}, at {self.size} px"


@dataclass(frozen=True)
class FinetuneResult:
    """Result of `finetune`; the network holds the weights of `best`, to be used at `best.size`.

    Attributes:
        history: every epoch.
        stages: the plan.
        best: the weights that were kept.
        start: score of the initial weights at the backbone's own size.
        resumed_from: (stage, epoch, step) that earlier processes had finished; None if none did.
        seconds: duration of the run, summed over all processes.
        stopped: finished; early: a stage ended by early stopping; budget: out of time.
    """

    history: tuple[Epoch, ...]
    stages: tuple[Stage, ...]
    best: Best
    start: Score
    resumed_from: tuple[int, int, int] | None
    seconds: float
    stopped: Stopped

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON and a model file's metadata."""
        return {
            "history": [epoch.as_dict() for epoch in self.history],
            "stages": [stage.as_dict() for stage in self.stages],
            "best": self.best.as_dict(),
            "start": asdict(self.start),
            "resumed_from": list(self.resumed_from) if self.resumed_from else None,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }
