"""float32 beside int8: accuracy, speed and size, and the rule by which int8 is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tailorbird.dataset import Sample, pixels_of
from tailorbird.errors import RunError
from tailorbird.images import ResizeRule
from tailorbird.preparation import evenly_spread
from tailorbird.progress import Progress
from tailorbird.quantization import quantise

if TYPE_CHECKING:
    import onnx

MOST_LOST: Final = 0.005
"""Accuracy that int8 may lose; with more it is refused."""

CALIBRATED_ON: Final = 256
"""Maximum number of photos on which ranges are measured; more do not change the features."""


@dataclass(frozen=True)
class Precision:
    """One of the two: accuracy 0 to 1, images per second on one thread, size in bytes."""

    accuracy: float
    images_per_second: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        return {
            "accuracy": self.accuracy,
            "images_per_second": round(self.images_per_second, 1),
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Figures:
    """float32 and int8 on the same photos.

    agreement: share of the photos for which both predict the same class.
    """

    float32: Precision
    int8: Precision
    agreement: float

    @property
    def difference(self) -> float:
        """Accuracy of int8 minus that of float32."""
        return self.int8.accuracy - self.float32.accuracy

    @property
    def speedup(self) -> float:
        """How many times as fast int8 is on this processor."""
        return self.int8.images_per_second / self.float32.images_per_second

    @property
    def refused(self) -> bool:
        """Whether int8 loses more than MOST_LOST."""
        # Half a millionth: accuracies are fractions, whose difference is rounded.
        return self.difference < -MOST_LOST - 5e-7

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        return {
            "float32": self.float32.as_dict(),
            "int8": self.int8.as_dict(),
            "difference": self.difference,
            "speedup": round(self.speedup, 3),
            "agreement": self.agreement,
        }


class AccuracyLost(RunError):
    """int8 loses more accuracy than allowed; `result` has the figures. Nothing was written."""

    def __init__(self, result: Any, where: str) -> None:
        figures: Figures = result.figures
        super().__init__(
            f"int8 loses {-100 * figures.difference:.1f} points of accuracy {where} "
            f"({100 * figures.float32.accuracy:.1f}% to {100 * figures.int8.accuracy:.1f}%); at "
            f"most {100 * MOST_LOST:g} is allowed, so nothing was written; keep the float32 file, "
            "or give more photos like those it will be used on"
        )
        self.result = result


def calibrated(
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    rule: ResizeRule,
    name: str,
    progress: Progress,
) -> tuple[onnx.ModelProto, int]:
    """Quantise a backbone's graph on at most CALIBRATED_ON of the photos, evenly spread.

    Returns:
        The int8 graph and the number of photos.

    Raises:
        BackboneError: See `quantise`.
        ImageError: A photo changed or vanished since it was scanned.
    """
    photos = [samples[index] for index in evenly_spread(len(samples), CALIBRATED_ON)]
    progress.stage("calibrate", len(photos))
    graph = quantise(
        model,
        photos,
        lambda sample: pixels_of(sample, rule),
        name,
        progress=lambda done: progress.advance(done, len(photos)),
    )
    return graph, len(photos)
