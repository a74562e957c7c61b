"""The result of an import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailorbird.importing.photos import ScoringData
from tailorbird.importing.preprocess import PreprocessComparison
from tailorbird.metrics.scores import Scores
from tailorbird.metrics.thresholds import Threshold
from tailorbird.model.metadata import ModelInfo
from tailorbird.rendering.notebook import scores_html


@dataclass(frozen=True)
class ImportResult:
    """The result of `import_model`.

    Attributes:
        model: the file written.
        info: its metadata.
        preprocess, preprocess_reason: the preprocessing in the graph, and the reason for it.
        heatmaps: whether the file has heat maps.
        agreement: largest difference of a probability between the network in ONNX and in its own
            framework, on `compared` photos.
        validation, test, threshold: None without photos.
        photos: those that calibrated and scored the model.
        comparison: the preprocessings side by side; None without photos.
        warnings, notes: sentences for people.
        seconds: by stage.
    """

    model: Path
    info: ModelInfo
    preprocess: str
    preprocess_reason: str
    heatmaps: bool
    agreement: float
    compared: int
    validation: Scores | None
    test: Scores | None
    threshold: Threshold | None
    photos: ScoringData | None = field(repr=False)
    comparison: PreprocessComparison | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]

    def _repr_html_(self) -> str:
        if self.test is None:
            return f"<div>model: {self.model}; not scored</div>"
        return scores_html(self.test.as_dict(), "Test", f"model: {self.model}")

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `import --json`."""
        return {
            "model": str(self.model),
            "classes": list(self.info.classes),
            "size": self.info.resize.size,
            "preprocess": self.preprocess,
            "preprocess_reason": self.preprocess_reason,
            "heatmaps": self.heatmaps,
            "no_heatmaps": self.info.settings.get("no_heatmaps"),
            "calibrated": self.test is not None,
            "temperature": self.info.temperature,
            "threshold": self.info.threshold,
            "agreement": self.agreement,
            "compared": self.compared,
            "scores": self.info.scores or None,
            "preprocess_tried": self.comparison.as_dict() if self.comparison else None,
            "unknown_labels": self.photos.unknown if self.photos else {},
            "left_out": [
                {"path": path, "reason": reason}
                for path, reason in (self.photos.data.left_out if self.photos else ())
            ],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
