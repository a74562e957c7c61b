"""Augmented views: a seeded affine map, a change of brightness, a rectangle erased.

`warp` makes a view with Pillow. `picture_for_views` and `draw_view` are its two halves, for devices
that make a whole batch of views at once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.errors import SettingsError
from tailorbird.images.resizing import Pixels, ResizeRule, resized

_MOST: Final = {
    "zoom": 0.9,
    "rotation": 180,
    "shear": 60,
    "shift": 0.9,
    "brightness": 0.9,
    "erase": 1,
}
"""Largest valid values; beyond them a photo may be black, empty or rotated more than once."""

GREY: Final = 127
"""Value of erased pixels."""


@dataclass(frozen=True)
class Augmentation:
    """The range that each augmented view is drawn from.

    flip: mirror left to right with probability one half.
    zoom: scale by a factor between 1 - zoom and 1 + zoom; 0 to 0.9.
    rotation: largest angle in degrees, either way; 0 to 180.
    shear: largest angle in degrees, either way; 0 to 60.
    shift: largest shift as a fraction of the side, either way; 0 to 0.9.
    brightness: multiply by a factor between 1 - brightness and 1 + brightness; 0 to 0.9.
    erase: probability that a rectangle becomes grey (random erasing, Zhong et al. 2020); 0 to 1.

    Raises SettingsError that names every value outside its range.
    """

    flip: bool = True
    zoom: float = 0.15
    rotation: float = 10.0
    shear: float = 8.0
    shift: float = 0.06
    brightness: float = 0.15
    erase: float = 0.0

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


@dataclass(frozen=True)
class View:
    """One augmented view of a picture of `side` x `side` pixels.

    Attributes:
        side: of the picture, at least that of the view.
        map: float64 (2, 3): (x, y) of the view to (x, y) of the picture, both in pixels from the
            top left corner.
        brightness: factor.
        erased: rectangle (top, left, bottom, right) of the view that becomes grey, or None.
    """

    side: int
    map: npt.NDArray[np.float64]
    brightness: float
    erased: tuple[int, int, int, int] | None


def draw_view(rule: ResizeRule, augmentation: Augmentation, random: np.random.Generator) -> View:
    """Draw one view: flip, zoom, rotation, shear and shift as one affine map; brightness; erasing.

    The picture has the sharpness that the view can show, because an affine map samples points and
    would alias.
    """
    size = rule.size
    a = augmentation
    side = math.ceil(size * (1 + a.zoom))
    flip = -1.0 if a.flip and random.random() < 0.5 else 1.0
    scale = math.exp(random.uniform(math.log(1 - a.zoom), math.log(1 + a.zoom)))
    angle, shear = (math.radians(random.uniform(-limit, limit)) for limit in (a.rotation, a.shear))
    shift_x, shift_y = (random.uniform(-a.shift, a.shift) * side for _ in range(2))
    brightness = random.uniform(1 - a.brightness, 1 + a.brightness)

    # input = M (output - centre) + centre + shift
    to_input = side / size / scale
    cos, sin = math.cos(angle), math.sin(angle)
    rotate = np.array([[cos, -sin], [sin, cos]])
    skew = np.array([[1.0, math.tan(shear)], [0.0, 1.0]])
    matrix = rotate @ skew @ np.diag([flip, 1.0]) * to_input
    offset = np.array([side / 2 + shift_x, side / 2 + shift_y]) - matrix @ np.full(2, size / 2)
    return View(side, np.column_stack([matrix, offset]), brightness, _erased(size, a, random))


def _erased(
    size: int, augmentation: Augmentation, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Return a rectangle of 2% to a third of the area, with sides of ratio 0.3 to 3.3."""
    if not augmentation.erase or random.random() >= augmentation.erase:
        return None
    area = random.uniform(0.02, 1 / 3) * size * size
    ratio = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
    height, width = (min(size, round(math.sqrt(area * r))) for r in (ratio, 1 / ratio))
    top, left = (int(random.integers(0, size - side + 1)) for side in (height, width))
    return top, left, top + height, left + width


def picture_for_views(
    image: Image.Image, rule: ResizeRule, augmentation: Augmentation
) -> Image.Image:
    """Return the picture that views are made of, of `View.side` x `View.side` pixels.

    It shows what the resize rule keeps.
    """
    return resized(image, rule, math.ceil(rule.size * (1 + augmentation.zoom)))


def warp(
    image: Image.Image, rule: ResizeRule, augmentation: Augmentation, random: np.random.Generator
) -> Pixels:
    """Return one augmented view, uint8 (size, size, 3).

    Corners that would lie outside the picture repeat its border colours.
    """
    size, view = rule.size, draw_view(rule, augmentation, random)
    side, matrix, offset = view.side, view.map[:, :2], view.map[:, 2]
    source = picture_for_views(image, rule, augmentation)
    centre = matrix @ np.full(2, size / 2) + offset
    reach = np.abs(matrix).sum(axis=1) * size / 2 + np.abs(centre - side / 2) - side / 2
    # 3/8 of the side is further than the default ranges can reach.
    margin = max(side * 3 // 8, math.ceil(reach.max()) + 1)
    padded = Image.fromarray(
        np.pad(np.asarray(source), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    )
    (a, b), (d, e) = matrix
    c, f = offset + margin
    warped = padded.transform(
        (size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    brightness = [min(255, round(value * view.brightness)) for value in range(256)] * 3
    pixels = np.asarray(warped.point(brightness))
    if view.erased is None:
        return pixels
    top, left, bottom, right = view.erased
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = GREY
    return pixels
