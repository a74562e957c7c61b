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

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
_STEP: Final = 28  # pixels; sides of canvases are multiples of it
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
_BINOMIAL: Final = np.array([0, 1, 4, 6, 4, 1, 0], np.float32) / 16
_SLOPE: Final = np.stack(
    [
        np.outer(_BINOMIAL, np.roll(_BINOMIAL, 1) - np.roll(_BINOMIAL, -1)).ravel(),
        np.outer(np.roll(_BINOMIAL, 1) - np.roll(_BINOMIAL, -1), _BINOMIAL).ravel(),
    ],
    axis=1,
)
"""From 7 x 7 pixels to the slopes, across and down, of these pixels smoothed: float32 (49, 2)."""

_STRONG: Final = float(2**24)
"""More than any corner's strength."""

_FAR: Final = 2**15 - 1
"""More than any squared distance of two pixels of a thumbnail."""

_NOT_STRONGER: Final = np.where(np.tri(3 * max(_QUOTAS), k=-1, dtype=bool), 0, _FAR).astype(
    np.int16
)
MIRROR: Final = np.where(np.arange(NUMBERS) % _KEPT % 2, -1, 1).astype(np.float32)
"""Signs by which a descriptor changes when the picture is mirrored: odd frequencies across."""

_EVEN: Final = MIRROR > 0
_STEPS: Final = ((np.arange(_GRID) - (_GRID - 1) / 2) * _SPACING).astype(np.float32)
_ALONG: Final = np.repeat(_STEPS, _GRID)
_ACROSS: Final = np.tile(_STEPS, _GRID)

_random = np.random.default_rng(0)
_WAVES: Final = (_random.normal(size=(NUMBERS, VECTOR)) * _SHARPNESS).astype(np.float32)
_PHASES: Final = _random.uniform(0, 2 * np.pi, VECTOR).astype(np.float32)


def thumbnail(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the grey thumbnail of a picture, its longer side `LONG`: uint8 (h, w)."""
    scale = LONG / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX, reducing_gap=3.0))


def canvas_shape(thumbnail: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width of the canvas for a thumbnail, multiples of `_STEP`."""
    height, width = (-(-side // _STEP) * _STEP for side in thumbnail.shape)
    return height, width


def local_features(
    thumbnails: Sequence[npt.NDArray[np.uint8]],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int8]]:
    """Return the corners of B thumbnails, (B,) of type `CORNERS`, and their vectors, (B, V).

    Those with the same `canvas_shape` are computed together, which is faster.
    """
    together: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, grey in enumerate(thumbnails):
        together[canvas_shape(grey)].append(number)
    corners = np.zeros(len(thumbnails), CORNERS)
    for numbers in together.values():
        corners[numbers] = _described([thumbnails[number] for number in numbers])
    return corners, _vectors(corners)


def _described(thumbnails: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[Any]:
    """Return the corners of thumbnails with the same `canvas_shape`."""
    corners = np.zeros(len(thumbnails), CORNERS)
    sizes = np.array([grey.shape[::-1] for grey in thumbnails], np.int64)
    start = 0
    for level, (greys, inside) in enumerate(_pyramid(thumbnails, sizes)):
        quota = _QUOTAS[level]
        part = slice(start, start + quota)
        found, place, angle, patch = _corners(greys, inside, quota)
        centred = (place + 0.5) / inside[:, None] - 0.5
        centred *= sizes[:, None] / sizes.max(1)[:, None, None]
        corners["place"][:, part] = np.rint(centred * PLACES)
        corners["angle"][:, part] = np.rint(angle * np.float32(ANGLES / np.pi))
        corners["level"][:, part] = np.where(found, level, -1)
        corners["patch"][:, part] = np.rint(patch * QUANTUM)
        start += quota
    return corners


def _pyramid(
    thumbnails: Sequence[npt.NDArray[np.uint8]], sizes: npt.NDArray[np.int64]
) -> Iterator[tuple[Greys, npt.NDArray[np.int64]]]:
    """Yield the levels: pictures at the top left of canvases, edges repeated, and their sizes."""
    shape = canvas_shape(thumbnails[0])
    pictures = [Image.fromarray(grey).convert("F") for grey in thumbnails]
    for share in _SHARES:
        inside = np.maximum(np.rint(sizes * share), 1).astype(np.int64)
        greys = np.empty((len(pictures), *(math.ceil(side * share) for side in shape)), np.float32)
        for grey, picture, size in zip(greys, pictures, inside.tolist(), strict=True):
            width, height = size
            small = picture if share == 1 else picture.resize(size, Image.Resampling.BILINEAR)
            grey[:height, :width] = small
            grey[height:, :width] = grey[height - 1, :width]
            grey[:, width:] = grey[:, width - 1 : width]
        yield greys, inside


def _corners(
    greys: Greys, inside: npt.NDArray[np.int64], quota: int
) -> tuple[npt.NDArray[np.bool_], Greys, Greys, Greys]:
    """Return up to `quota` corners of each picture: found (B, Q), place (B, Q, 2), angle, patch."""
    count, _, width = greys.shape
    smooth = blur(greys)
    strength = _strength(smooth)
    at, found = _strongest(strength, inside, quota)
    picture = np.arange(count)[:, None]
    y, x = np.divmod(at, width)
    flat = strength.reshape(count, -1)
    dx = _peak(*(flat[picture, at + step] for step in (-1, 0, 1)))
    dy = _peak(*(flat[picture, at + step] for step in (-width, 0, width)))
    smoother = blur(smooth)
    near = smoother.reshape(count, -1)[picture[..., None], at[..., None] + _around(width)]
    slopes = near @ _SLOPE  # of another smoothing, at the corners alone
    angle = np.arctan2(slopes[..., 1], slopes[..., 0])
    place = np.stack([x + dx, y + dy], -1).astype(np.float32)
    return found, place, angle, _patches(smoother, place, angle)


def _around(width: int) -> npt.NDArray[np.int64]:
    """Return the steps from a pixel to its 7 x 7 neighbours in rows of `width`, (49,)."""
    c = np.arange(-3, 4)
    return (c[:, None] * width + c).ravel()


def _strength(smooth: Greys) -> Greys:
    """Return the harmonic mean of the eigenvalues of the structure tensor, zero without corner."""
    across, down = _slopes(smooth)
    squares = np.empty((3, *smooth.shape), np.float32)
    np.multiply(across, across, out=squares[0])
    np.multiply(down, down, out=squares[1])
    np.multiply(across, down, out=squares[2])
    xx, yy, xy = blur(squares.reshape(-1, *smooth.shape[1:])).reshape(squares.shape)
    total = xx + yy
    total += np.float32(1e-3)
    xx *= yy
    xy *= xy
    xx -= xy
    xx /= total
    return np.ascontiguousarray(xx)


def _slopes(greys: Greys) -> tuple[Greys, Greys]:
    """Return the differences of neighbours across and down, zero at the outline."""
    across, down = np.zeros_like(greys), np.zeros_like(greys)
    across[:, :, 1:-1] = greys[:, :, 2:] - greys[:, :, :-2]
    down[:, 1:-1] = greys[:, 2:] - greys[:, :-2]
    return across, down


def _maxima(
    strength: Greys, inside: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return picture numbers, rising, and flat positions of local maxima inside the pictures."""
    _, height, width = strength.shape
    highest = np.maximum(strength[:, :-2], strength[:, 2:])
    np.maximum(highest, strength[:, 1:-1], out=highest)
    highest = np.maximum(np.maximum(highest[..., :-2], highest[..., 2:]), highest[..., 1:-1])
    np.maximum(highest, _FLAT, out=highest)
    found = strength[:, 1:-1, 1:-1] >= highest
    x, y = (
        (c >= _EDGE) & (c < inside[:, axis, None] - _EDGE)
        for axis, c in enumerate((np.arange(1, width - 1), np.arange(1, height - 1)))
    )
    found &= y[:, :, None]
    found &= x[:, None]
    picture, at = np.divmod(np.flatnonzero(found), (height - 2) * (width - 2))
    row, column = np.divmod(at, width - 2)
    return picture, (row + 1) * width + column + 1


def _strongest(
    strength: Greys, inside: npt.NDArray[np.int64], quota: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return flat positions (B, Q) of local maxima, well spread, and whether they exist.

    Adaptive non-maximal suppression: those farthest from a stronger one are chosen.
    """
    count, _, width = strength.shape
    picture, at = _maxima(strength, inside)
    values = strength.reshape(count, -1)[picture, at]
    order = np.argsort(picture * _STRONG - values, kind="stable")
    rank = np.arange(len(order)) - np.searchsorted(picture, np.arange(count))[picture]
    most = 3 * quota
    kept = rank < most
    picture, rank = picture[kept], rank[kept]
    places = np.full((count, most), _EDGE * width + _EDGE)
    places[picture, rank] = at[order[kept]]
    y, x = (side.astype(np.int16) for side in np.divmod(places, width))
    apart, across = y[:, :, None] - y[:, None], x[:, :, None] - x[:, None]
    apart *= apart
    across *= across
    apart += across
    np.maximum(apart, _NOT_STRONGER[:most, :most], out=apart)
    nearest = np.full((count, most), np.int16(-1))
    nearest[picture, rank] = apart.min(2)[picture, rank]
    chosen = np.argsort(-nearest, axis=1, kind="stable")[:, :quota]
    return np.take_along_axis(places, chosen, 1), np.take_along_axis(nearest, chosen, 1) >= 0


def _peak(before: Greys, here: Greys, after: Greys) -> Greys:
    """Return where the parabola through three neighbours peaks, -0.5 to 0.5."""
    bend = before - 2 * here + after
    return np.clip((before - after) / np.where(bend < -1e-6, 2 * bend, -np.inf), -0.5, 0.5)


def _patches(greys: Greys, place: Greys, angle: Greys) -> Greys:
    """Return descriptors of length 1, (B, Q, D): patches around places, turned by the angles."""
    count, height, width = greys.shape
    cos, sin = (f(angle)[..., None] for f in (np.cos, np.sin))
    x = _ALONG * cos - _ACROSS * sin
    y = _ALONG * sin + _ACROSS * cos
    x += place[..., :1]
    y += place[..., 1:]
    x.clip(0, np.float32(width - 1.001), out=x)
    y.clip(0, np.float32(height - 1.001), out=y)
    left, above = x.astype(np.intp), y.astype(np.intp)
    x -= left
    y -= above
    above *= width
    above += left
    above += (np.arange(count) * (height * width))[:, None, None]
    flat = greys.reshape(-1)
    upper, lower = _between(flat, above, x), _between(flat[width:], above, x)
    lower -= upper
    lower *= y
    lower += upper
    patch = lower @ _BASIS
    length = np.linalg.norm(patch, axis=-1, keepdims=True)
    return np.asarray(patch / np.maximum(length, 1e-6), np.float32)


def _between(flat: Greys, at: npt.NDArray[np.intp], share: Greys) -> Greys:
    """Return values between those at `at` and those that follow."""
    before = flat.take(at)
    between = flat[1:].take(at)
    between -= before
    between *= share
    between += before
    return between


def _vectors(corners: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return the summaries of pictures' corners, int8 (B, V).

    Mirroring changes the sign of a part b of the argument, and cos(a + b) + cos(a - b) is
    2 cos(a) cos(b).
    """
    result = np.empty((len(corners), VECTOR), np.int8)
    for row, (patch, level) in enumerate(zip(corners["patch"], corners["level"], strict=True)):
        plain = patch[level >= 0].astype(np.float32) * np.float32(1 / QUANTUM)
        kept = plain[:, _EVEN] @ _WAVES[_EVEN] + _PHASES
        turned = plain[:, ~_EVEN] @ _WAVES[~_EVEN]
        np.cos(kept, out=kept)
        np.cos(turned, out=turned)
        total = np.einsum("ij,ij->j", kept, turned) * np.sqrt(2 / max(len(plain), 1))
        result[row] = np.clip(np.rint(total * 32), -127, 127)
    return result
