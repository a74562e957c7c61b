"""Describe corners of a picture so that they are recognised after turning, cropping and resizing.

Multi-scale oriented patches (Brown, Szeliski, Winder, "Multi-Image Matching using Multi-Scale
Oriented Patches", CVPR 2005): the strongest corners of five sizes of a grey thumbnail, spread over
it, each with the direction of its gradient and a smooth patch in that direction, whose brightness
and contrast are removed. A patch is kept as its lowest frequencies (discrete cosine transform).

All corners of a picture together are summarised by one vector: the sum of random Fourier features
of their descriptors (Rahimi and Recht, 2007), so that the product of two vectors estimates how many
corners of one picture have a counterpart in the other (an efficient match kernel, Bo and
Sminchisescu, 2009). Mirrored corners are added, so that mirroring does not change it.

Shapes: B pictures, M = 64 corners, D = 36 numbers per descriptor, V numbers per vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.dataset.duplicates.similarity import Greys, blur

LONG: Final = 112
"""Longer side in pixels of the thumbnail in which corners are found."""

_SHARES: Final = (1.0, 0.7071, 0.5, 0.3536, 0.25)
_QUOTAS: Final = (26, 16, 11, 7, 4)
_MOST: Final = sum(_QUOTAS)
PLACES: Final = 8192
"""Steps of `place` in the longer side."""

ANGLES: Final = 127
"""Steps of `angle` in a half turn."""

QUANTUM: Final = 127
"""Steps of `patch` in 1."""

_KEPT: Final = 6
NUMBERS: Final = _KEPT * _KEPT
VECTOR: Final = 512

_GRID: Final = 8
_SPACING: Final = 2.0  # pixels between the samples of a patch
_EDGE: Final = 3  # pixels at the outline without corners
_FLAT: Final = 0.5  # squared levels; corners weaker than this are noise
_SHARPNESS: Final = 2.5  # inverse width of the kernel between descriptors of length 1

CORNERS: Final = np.dtype(
    [
        ("place", "<i2", (_MOST, 2)),
        ("angle", "i1", (_MOST,)),
        ("level", "i1", (_MOST,)),
        ("patch", "i1", (_MOST, NUMBERS)),
    ]
)
"""Corners of a picture. place: x and y from its centre, in steps of `PLACES`. angle: in
steps of `ANGLES`. level: index of the size in which it was found; -1: no corner. patch:
descriptor."""


def _basis() -> npt.NDArray[np.float32]:
    """Return the lowest frequencies of a patch, (64, 36), without the constant one.

    Weighted by frequency: photos have about equal contrast in every band then, and fine structure
    tells more corners apart.
    """
    x = np.arange(_GRID)
    waves = np.cos(np.pi * np.arange(_KEPT)[:, None] * (2 * x + 1) / (2 * _GRID))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    both = np.einsum("ax,by->xyab", waves, waves).reshape(_GRID * _GRID, NUMBERS)
    frequency = np.hypot(*np.meshgrid(np.arange(_KEPT), np.arange(_KEPT), indexing="ij"))
    return np.asarray(both * frequency.reshape(-1), np.float32)


_BASIS: Final = _basis()
MIRROR: Final = np.where(np.arange(NUMBERS) % _KEPT % 2, -1, 1).astype(np.float32)
"""Signs by which a descriptor changes when the picture is mirrored: odd frequencies across."""

_random = np.random.default_rng(0)
_WAVES: Final = (_random.normal(size=(NUMBERS, VECTOR)) * _SHARPNESS).astype(np.float32)
_PHASES: Final = _random.uniform(0, 2 * np.pi, VECTOR).astype(np.float32)


def thumbnail(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the grey thumbnail of a picture, its longer side `LONG`: uint8 (h, w)."""
    scale = LONG / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX, reducing_gap=3.0))


def local_features(
    thumbnails: Sequence[npt.NDArray[np.uint8]],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int8]]:
    """Return the corners of B thumbnails, (B,) of type `CORNERS`, and their vectors, (B, V)."""
    corners = np.zeros(len(thumbnails), CORNERS)
    pictures = [Image.fromarray(grey).convert("F") for grey in thumbnails]
    sizes = np.array([picture.size for picture in pictures], np.int64)
    start = 0
    for level, (share, quota) in enumerate(zip(_SHARES, _QUOTAS, strict=True)):
        greys, inside = _canvas(pictures, sizes, share)
        part = slice(start, start + quota)
        found, place, angle, patch = _corners(greys, inside, quota)
        centred = (place + 0.5) / inside[:, None] - 0.5
        centred *= sizes[:, None] / sizes.max(1)[:, None, None]
        corners["place"][:, part] = np.rint(centred * PLACES)
        corners["angle"][:, part] = np.rint(angle / np.pi * ANGLES)
        corners["level"][:, part] = np.where(found, level, -1)
        corners["patch"][:, part] = np.rint(patch * QUANTUM)
        start += quota
    return corners, _vectors(corners)


def _canvas(
    pictures: Sequence[Image.Image], sizes: npt.NDArray[np.int64], share: float
) -> tuple[Greys, npt.NDArray[np.int64]]:
    """Return resized pictures at the top left of squares, edges repeated, and their sizes."""
    side = max(2 * _EDGE + 2, round(LONG * share))
    inside = np.clip(np.rint(sizes * share), 1, side).astype(np.int64)
    greys = np.empty((len(pictures), side, side), np.float32)
    for grey, picture, (width, height) in zip(greys, pictures, inside.tolist(), strict=True):
        small = (
            picture
            if picture.size == (width, height)
            else picture.resize((width, height), Image.Resampling.BILINEAR)
        )
        grey[:height, :width] = np.asarray(small)
        grey[height:, :width] = grey[height - 1, :width]
        grey[:, width:] = grey[:, width - 1 : width]
    return greys, inside


def _corners(
    greys: Greys, inside: npt.NDArray[np.int64], quota: int
) -> tuple[npt.NDArray[np.bool_], Greys, Greys, Greys]:
    """Return up to `quota` corners of each picture: found (B, Q), place (B, Q, 2), angle, patch."""
    count, side = greys.shape[:2]
    smooth = blur(greys)
    across, down = _slopes(smooth)
    squares = blur(np.concatenate([across * across, down * down, across * down]))
    xx, yy, xy = squares.reshape(3, count, side, side)
    strength = (xx * yy - xy * xy) / (xx + yy + np.float32(1e-3))  # harmonic mean of eigenvalues
    picture, at = _strongest(strength, inside, quota)
    y, x = np.divmod(at, side)
    flat = strength.reshape(count, -1)
    found = flat[picture, at] > 0
    dx = _peak(*(flat[picture, at + step] for step in (-1, 0, 1)))
    dy = _peak(*(flat[picture, at + step] for step in (-side, 0, side)))
    smoother = blur(smooth)
    across, down = _slopes(blur(smoother))
    angle = np.arctan2(down.reshape(count, -1)[picture, at], across.reshape(count, -1)[picture, at])
    place = np.stack([x + dx, y + dy], -1)
    return found, place, angle, _patches(smoother, place, angle)


def _slopes(greys: Greys) -> tuple[Greys, Greys]:
    """Return the differences of neighbours across and down, zero at the outline."""
    across, down = np.zeros_like(greys), np.zeros_like(greys)
    across[:, :, 1:-1] = greys[:, :, 2:] - greys[:, :, :-2]
    down[:, 1:-1] = greys[:, 2:] - greys[:, :-2]
    return across, down


def _strongest(
    strength: Greys, inside: npt.NDArray[np.int64], quota: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return picture numbers (B, 1) and flat positions (B, Q) of local maxima, well spread.

    Adaptive non-maximal suppression: those farthest from a stronger one are chosen. Clears
    everything else in `strength` that is not a local maximum inside the picture.
    """
    count, side = strength.shape[:2]
    centre = strength[:, 1:-1, 1:-1]
    highest = centre > _FLAT
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            highest &= centre >= strength[:, dy : dy + side - 2, dx : dx + side - 2]
    c = np.arange(1, side - 1)
    within = (c >= _EDGE) & (c < inside[..., None] - _EDGE)  # (B, 2, n)
    highest &= within[:, 1, :, None] & within[:, 0, None, :]
    peaks = np.zeros_like(strength)
    peaks[:, 1:-1, 1:-1] = np.where(highest, centre, 0)
    flat = peaks.reshape(count, -1)
    most = min(3 * quota, flat.shape[1] - 1)
    picture = np.arange(count)[:, None]
    at = np.argpartition(-flat, most, axis=1)[:, :most]
    at = at[picture, np.argsort(-flat[picture, at], axis=1, kind="stable")]
    y, x = np.divmod(at.astype(np.int32), side)
    apart = (y[:, :, None] - y[:, None]) ** 2 + (x[:, :, None] - x[:, None]) ** 2
    weaker = np.tri(most, k=-1, dtype=bool)
    nearest = np.where(weaker, apart, 4 * side * side).min(2)
    nearest[flat[picture, at] <= 0] = -1
    chosen = at[picture, np.argsort(-nearest, axis=1, kind="stable")[:, :quota]]
    missing = flat[picture, chosen] <= 0
    chosen[missing] = side + 1
    strength.reshape(count, -1)[:, side + 1] = 0
    return picture, chosen


def _peak(before: Greys, here: Greys, after: Greys) -> Greys:
    """Return where the parabola through three neighbours peaks, -0.5 to 0.5."""
    bend = before - 2 * here + after
    return np.clip((before - after) / np.where(bend < -1e-6, 2 * bend, -np.inf), -0.5, 0.5)


def _patches(greys: Greys, place: Greys, angle: Greys) -> Greys:
    """Return descriptors of length 1, (B, Q, D): patches around places, turned by the angles."""
    side = greys.shape[1]
    steps = ((np.arange(_GRID) - (_GRID - 1) / 2) * _SPACING).astype(np.float32)
    cos, sin = (f(angle.astype(np.float32))[..., None, None] for f in (np.cos, np.sin))
    along, across = steps[:, None], steps[None, :]
    top = np.float32(side - 1.001)
    x = (place[..., 0, None, None] + along * cos - across * sin).astype(np.float32).clip(0, top)
    y = (place[..., 1, None, None] + along * sin + across * cos).astype(np.float32).clip(0, top)
    left, above = x.astype(np.int32), y.astype(np.int32)
    x -= left
    y -= above
    first = above * side + left
    first += (np.arange(len(greys), dtype=np.int32) * side * side)[:, None, None, None]
    flat = greys.reshape(-1)
    upper = flat[first] * (1 - x) + flat[first + 1] * x
    first += side
    lower = flat[first] * (1 - x) + flat[first + 1] * x
    values = (upper * (1 - y) + lower * y).reshape(*angle.shape, _GRID * _GRID)
    patch = values @ _BASIS
    length = np.linalg.norm(patch, axis=-1, keepdims=True)
    return np.asarray(patch / np.maximum(length, 1e-6), np.float32)


def _vectors(corners: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return the summaries of pictures' corners, int8 (B, V)."""
    result = np.empty((len(corners), VECTOR), np.int8)
    for row, (patch, level) in enumerate(zip(corners["patch"], corners["level"], strict=True)):
        plain = patch[level >= 0].astype(np.float32) / QUANTUM
        both = np.concatenate([plain, plain * MIRROR])
        total = np.cos(both @ _WAVES + _PHASES).sum(0) / np.sqrt(max(len(both), 1))
        result[row] = np.clip(np.rint(total * 32), -127, 127)
    return result
