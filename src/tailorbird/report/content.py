"""The content of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tailorbird.advice import Advice
from tailorbird.dataset import Dataset
from tailorbird.head import SearchResult
from tailorbird.label_errors import Suspects
from tailorbird.metrics.refusals import Strangers
from tailorbird.metrics.scores import Answers, Scores
from tailorbird.metrics.thresholds import Threshold
from tailorbird.model import ModelInfo


@dataclass(frozen=True)
class Content:
    """The inputs of a report; parts that are None or empty are left out of it.

    kind: training (a model just made), evaluation (scored on labelled photos) or model (its file
    alone). headline: the name in `scores` of the scores that the report is about. answers: the
    model's probabilities for the same photos. dataset: the training dataset. left_out: (path,
    reason). trained_on: number of scored photos the model was trained on. suspects: labels of the
    dataset that are probably wrong. advice: what to do next. strangers: what photos that should be
    refused were scored to.
    """

    kind: Literal["training", "evaluation", "model"]
    model: Path
    info: ModelInfo
    headline: str
    scores: Mapping[str, Scores] = field(default_factory=dict)
    answers: Answers | None = None
    dataset: Dataset | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    search: SearchResult | None = None
    threshold: Threshold | None = None
    trained_on: int = 0
    suspects: Suspects | None = None
    advice: tuple[Advice, ...] = ()
    strangers: Strangers | None = None
