"""The answer for one photo, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import ImageError
from tailorbird.images import ResizeRule, decode
from tailorbird.rendering import notebook, overlays

UNFAMILIAR = "none of the classes, it seems"
"""What people read in place of the label of an unfamiliar photo."""

THUMBNAIL = 256
"""Pixels of the longer side of the photo that a Prediction keeps to show with its heat maps."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    Attributes:
        path: Where the photo came from; None for bytes, files, images and arrays.
        label: The most probable class.
        probability: Its probability, 0 to 1.
        unsure: Whether the probability is below the model's threshold, or the photo unfamiliar.
        top: The most probable classes with their probabilities.
        heatmaps: float32 (T, h, w), Grad-CAM of the T = min(3, C) most probable classes, 0 or more;
            None unless asked for.
        unfamiliarity: How unlike all training photos it is: about 0 for usual ones, about 1 at the
            model's threshold; None in files that do not have it.
        unfamiliar: Whether it is above the threshold: the photo seems to be none of the classes.
        thumbnail: The photo as a small JPEG, kept with heat maps so that a notebook can show them.
        resize: How the model resizes photos; heat maps cover what it keeps of the photo.
    """

    path: str | None
    label: str
    probability: float
    unsure: bool
    top: tuple[tuple[str, float], ...]
    heatmaps: npt.NDArray[np.float32] | None = None
    thumbnail: bytes | None = field(default=None, repr=False, compare=False)
    unfamiliarity: float | None = None
    unfamiliar: bool = False
    resize: ResizeRule | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> str:
        """What to read before the label: `not sure: `, that it seems to be none, or nothing."""
        if self.unfamiliar:
            return f"{UNFAMILIAR}: "
        return "not sure: " if self.unsure else ""

    def _repr_html_(self) -> str:
        """Show the photo, a bar for each class, and the heat maps if asked for, in a notebook.

        A photo given as a path is read when it is shown; other photos are only shown with heat
        maps.
        """
        photo = None
        try:
            if self.thumbnail is not None:
                photo = decode(self.thumbnail).image
            elif self.path is not None:
                photo = overlays.thumbnail(decode(self.path, at_least=THUMBNAIL).image, THUMBNAIL)
        except ImageError:
            photo = None  # deleted meanwhile; the answer is still shown
        return notebook.prediction_html(
            self.top,
            verdict=self.verdict,
            source=self.path,
            photo=photo,
            heatmaps=self.heatmaps,
            rule=self.resize,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return one line of `predict --json`."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "unsure": self.unsure,
            "unfamiliar": self.unfamiliar,
            "unfamiliarity": self.unfamiliarity,
            "top": [
                {"label": label, "probability": probability} for label, probability in self.top
            ],
        }


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, and why."""

    path: str | None
    error: ImageError

    def as_dict(self) -> dict[str, Any]:
        """Return one line of `predict --json`."""
        return {"path": self.path, "error": str(self.error)}
