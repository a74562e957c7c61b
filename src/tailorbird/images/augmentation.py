"""Augmented views: one seeded affine map and a change of brightness for each view of a photo."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from tailorbird.errors import SettingsError
from tailorbird.images.resizing import Pixels, ResizeRule

_MOST: Final = {"zoom": 0.9, "rotation": 180, "shear": 60, "shift": 0.9, "brightness": 0.9}
"""Largest valid values; beyond them a photo may be black, empty or rotated more than once."""


@dataclass(frozen=True)
class Augmentation:
    """The range that each augmented view is drawn from.

    flip: mirror left to right with probability one half.
    zoom: scale by a factor between 1 - zoom and 1 + zoom; 0 to 0.9.
    rotation: largest angle in degrees, either way; 0 to 180.
    shear: largest angle in degrees, either way; 0 to 60.
    shift: largest shift as a fraction of the side, either way; 0 to 0.9.
    brightness: multiply by a factor between 1 - brightness and 1 + brightness; 0 to 0.9.

    Raises SettingsError that names every value outside its range.
    """

    flip: bool = True
    zoom: float = 0.15
    rotation: float = 10.0
    shear: float = 8.0
    shift: float = 0.06
    brightness: float = 0.15

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}; it must be between 0 and {most:g}"
            for name, most in _MOST.items()
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value <= most
        ]
        if problems:
            raise SettingsError("invalid augmentation: " + "; ".join(problems))

    @property
    def key(self) -> str:
        """Short name of these ranges, for cache keys; different ranges have different names."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def view_random(digest: bytes, view: int) -> np.random.Generator:
    """Return the random generator of one view of one photo.

    It depends only on the photo's SHA-256 (`digest`) and the number of the view.
    """
    seed = hashlib.sha256(digest + b"view" + str(view).encode()).digest()[:16]
    return np.random.default_rng(int.from_bytes(seed, "big"))


def warp(
    image: Image.Image, rule: ResizeRule, augmentation: Augmentation, random: np.random.Generator
) -> Pixels:
    """Return one augmented view, uint8 (size, size, 3).

    Flip, zoom, rotation, shear and shift are a single affine map; brightness follows. The picture
    is first shrunk to the sharpness that the view can show, because an affine map samples points
    and would alias. Corners that would lie outside the picture repeat its border colours.
    """
    size = rule.size
    a = augmentation
    side = math.ceil(size * (1 + a.zoom))
    source = image.resize((side, side), Image.Resampling.BILINEAR)

    flip = -1.0 if a.flip and random.random() < 0.5 else 1.0
    scale = math.exp(random.uniform(math.log(1 - a.zoom), math.log(1 + a.zoom)))
    angle, shear = (math.radians(random.uniform(-limit, limit)) for limit in (a.rotation, a.shear))
    shift_x, shift_y = (random.uniform(-a.shift, a.shift) * side for _ in range(2))
    brightness = random.uniform(1 - a.brightness, 1 + a.brightness)

    # Pillow takes the map from output to input: input = M (output - centre) + centre + shift.
    to_input = side / size / scale
    cos, sin = math.cos(angle), math.sin(angle)
    rotate = np.array([[cos, -sin], [sin, cos]])
    skew = np.array([[1.0, math.tan(shear)], [0.0, 1.0]])
    matrix = rotate @ skew @ np.diag([flip, 1.0]) * to_input
    reach = np.abs(matrix).sum(axis=1) * size / 2 + np.abs([shift_x, shift_y]) - side / 2
    # 3/8 of the side is further than the default ranges can reach.
    margin = max(side * 3 // 8, math.ceil(reach.max()) + 1)
    padded = Image.fromarray(
        np.pad(np.asarray(source), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    )
    centre_in = np.array([side / 2 + margin + shift_x, side / 2 + margin + shift_y])
    offset = centre_in - matrix @ np.array([size / 2, size / 2])
    coefficients = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    warped = padded.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(
        warped.point([min(255, round(value * brightness)) for value in range(256)] * 3)
    )
