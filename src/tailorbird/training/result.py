"""The result of a training, and the content of its report."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailorbird.advice import Advice
from tailorbird.corrections import Joined
from tailorbird.dataset import Dataset, Sample
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.head import Fit, SearchResult
from tailorbird.label_errors import Suspects
from tailorbird.metrics.scores import Answers, Scores
from tailorbird.metrics.thresholds import Threshold
from tailorbird.model import ModelInfo
from tailorbird.model.fitting import Fitted
from tailorbird.preparation import LeftOut
from tailorbird.rendering.notebook import scores_html
from tailorbird.report import Content


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        model: the file written. info: its metadata.
        dataset: the photos used, with their splits.
        validation, test: scores. threshold: the confidence threshold.
        fit: the chosen head on frozen features; None for a network trained from scratch.
        search: all heads that were tried.
        left_out: photos that were not used, and why.
        seconds: by stage, and `total`.
        embedded: number of photos and views whose features were computed.
        answers: predictions for the photos of `validation` and `test`.
        report: the file written. report_error: why a requested report was not written.
        corrections: those that joined the training photos.
        suspects: labels that are probably wrong, where that was asked for.
        tuned: the fine-tuning run, where there was one.
        advice: what to do next, at most two steps.
        unfamiliarity: what the model takes for none of its classes; None: it cannot tell.
    """

    model: Path
    info: ModelInfo
    dataset: Dataset
    validation: Scores
    test: Scores
    threshold: Threshold
    fit: Fit | None
    search: SearchResult | None
    left_out: tuple[LeftOut, ...]
    seconds: dict[str, float]
    embedded: int
    answers: Mapping[str, Answers] = field(repr=False)
    report: Path | None = field(default=None)
    corrections: Joined | None = field(default=None)
    suspects: Suspects | None = field(default=None)
    tuned: FinetuneResult | None = field(default=None)
    report_error: str | None = field(default=None)
    advice: tuple[Advice, ...] = field(default=())
    unfamiliarity: Fitted | None = field(default=None)

    def _repr_html_(self) -> str:
        where = f"; report: {self.report}" if self.report else ""
        return scores_html(self.test.as_dict(), "Test", f"model: {self.model}{where}")

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `train --json`."""
        return {
            "model": str(self.model),
            "report": str(self.report) if self.report else None,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "promise": self.threshold.as_dict(),
            "unfamiliarity": self.info.unfamiliarity or None,
            "advice": [step.as_dict() for step in self.advice],
            "scores": {"validation": self.validation.as_dict(), "test": self.test.as_dict()},
            "settings": {
                name: value for name, value in self.info.settings.items() if name != "finetune"
            },
            "left_out": [entry.path for entry in self.left_out],
            "left_out_reasons": {entry.path: entry.reason for entry in self.left_out},
            "embedded": self.embedded,
            "backbone": self.info.backbone,
            "seed": self.info.seed,
            "corrections": self.corrections.as_dict() if self.corrections else None,
            "suspects": self.suspects.as_dict() if self.suspects else None,
            "finetune": self.info.settings.get("finetune"),
        }


def content_of(result: TrainResult) -> Content:
    """Return the content of the report."""
    return Content(
        kind="training",
        model=result.model,
        info=result.info,
        headline="test",
        scores={"test": result.test, "validation": result.validation},
        answers=result.answers["test"],
        dataset=result.dataset,
        left_out=result.left_out,
        search=result.search,
        threshold=result.threshold,
        suspects=result.suspects,
        advice=result.advice,
    )


def digests(photos: Iterable[Sample]) -> str:
    """Return the first 6 bytes of the SHA-256 of each photo, sorted, as base64.

    A model file stores those of the photos it was trained on and chosen on, so that `evaluate` can
    leave them aside: eight characters a photo, from which no photo can be made.
    """
    return base64.b64encode(
        b"".join(sorted(bytes.fromhex(photo.digest)[:6] for photo in photos))
    ).decode()
