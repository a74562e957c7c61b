"""Settings of `import_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailorbird.dataset import DataSettings
from tailorbird.model.fitting import REFUSE
from tailorbird.validation import Problems


@dataclass(frozen=True)
class ImportSettings:
    """How a classifier is imported.

    Attributes:
        classes: names of the outputs, in their order; see `read_classes`. For a model with one
            output two names, first the one for an output of 0. Empty: those in the file, if it
            states them.
        arch: name of the timm network, for files that hold weights alone.
        preprocess: how pixels were prepared in training: tf, caffe, torch (or imagenet), unit, bgr
            or none, or the module of keras.applications whose `preprocess_input` was used; by
            default as found in the model, else the one that scores best.
        size: of the images in pixels, for a model that takes any.
        validate: labelled photos as for `train`, to calibrate and score on; see
            `photos.read_scoring_data`.
        precision: target precision above the confidence threshold, 0.5 to 1.
        refuse: share of photos of the classes that may be refused as none of them, 0 to 0.5; 0, or
            without `validate`: the model tells no unfamiliar photos.
        seed: for splitting photos without splits into calibration and test.
        data: how the folder or CSV of photos is read.
    """

    classes: str | Path | Sequence[str] = ()
    arch: str | None = None
    preprocess: str | None = None
    size: int | None = None
    validate: str | Path | None = None
    precision: float = 0.95
    refuse: float = REFUSE
    seed: int = 0
    data: DataSettings | None = None

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.number("precision", self.precision, 0.5, 1)
            problems.number("refuse", self.refuse, 0, 0.5)
            problems.seed(self.seed)
