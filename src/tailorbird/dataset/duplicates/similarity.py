"""Decide whether two pictures are copies: align them, then compare pixel by pixel.

Copies differ by re-encoding, size, brightness and a slight crop; two products before the same wall
differ in their edges. The measure is therefore the correlation of fine structure (a band of
frequencies that exposure does not change) after the best shift and stretch of one picture onto the
other, over the whole picture and in each tile, together with the colours.

Arrays of grey values are float32 (P, n, n) for P pictures or pairs, 0 to 255. A move is float64
(P, 4): horizontal stretch and shift, vertical stretch and shift, in coordinates from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Greys = npt.NDArray[np.float32]
"""float32 (P, n, n)."""
Moves = npt.NDArray[np.float64]
"""float64 (P, 4)."""

SIDE: Final = 96
"""Side in pixels at which pictures are compared in the last step."""

SKETCH: Final = 32
"""Side in pixels of the grey sketch that is kept of every photo."""

ORIENTATIONS: Final = 8
"""Ways to mirror a picture and turn it by quarter turns; see `orient`."""

DECODED: Final = 3 * SIDE
"""Least side in pixels to decode for `prepare`.

libjpeg's coarser scales would differ visibly between copies of different size.
"""

# Thresholds, chosen on three data sets of photos and their copies.
_STRUCTURE: Final = 0.87  # different photos reach at most 0.83; copies start at 0.88
_TURNED_STRUCTURE: Final = 0.95  # eight orientations give chance eight times; copies reach 0.98
_SKETCH_STRUCTURE: Final = 0.9  # 99.8% of copies reach 0.92; 1 in 30 different photos does
_TILE_STRUCTURE: Final = 0.5
_MOVE: Final = 0.13  # 0.06 is a crop of 3% on either side; frames of a burst reach 0.09
_HUE: Final = (0.06, 0.2)  # median, largest; a burst in changing light reaches 0.04, 0.18
_LEVELS: Final = 26.0  # 10% brighter reaches 24, 15% more contrast 23; no hue check below
_GAIN: Final = (0.5, 2.0)
_FLAT: Final = 1.5  # levels: pictures this close everywhere are the same without any structure
_NOISE: Final = 1.5  # levels of fine structure that compression adds
_CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture ready to compare: rgb uint8 (96, 96, 3), and smoothed grey float32 (1, 96, 96)."""

    rgb: npt.NDArray[np.uint8]
    grey: Greys

    def turned(self, orientation: int) -> Prepared:
        """Return the picture in another orientation, see `orient`."""
        if orientation == 0:
            return self
        rgb = np.moveaxis(orient(np.moveaxis(self.rgb, 2, 0), orientation), 0, 2)
        return Prepared(rgb, np.ascontiguousarray(orient(self.grey, orientation)))


@dataclass(frozen=True, slots=True)
class Likeness:
    """How similar two pictures are.

    structure: correlation of fine structure, -1 to 1. tile: the lowest such correlation of a tile.
    plain: largest difference of a block in levels, without alignment. levels: the same after
    alignment. hue: median and largest difference of a block in the logarithms of R / G and B / G,
    which exposure does not change. gain: contrast of the second over the first. move: largest
    shift or stretch of the alignment.
    """

    structure: float
    tile: float
    plain: float
    levels: float
    hue: tuple[float, float]
    gain: float
    move: float

    @property
    def same(self) -> bool:
        """Whether both are copies, up to re-encoding, size, exposure and a slight crop."""
        coloured_alike = self.levels <= _LEVELS or (
            self.hue[0] <= _HUE[0] and self.hue[1] <= _HUE[1]
        )
        return self.plain <= _FLAT or (
            self.structure >= _STRUCTURE
            and self.tile >= _TILE_STRUCTURE
            and coloured_alike
            and _GAIN[0] <= self.gain <= _GAIN[1]
            and self.move <= _MOVE
        )

    def same_in(self, orientation: int) -> bool:
        """Whether both are copies, the second turned to `orientation`."""
        return self.same and (orientation == 0 or self.structure >= _TURNED_STRUCTURE)


def orient(pictures: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return square pictures (..., n, n) in one of eight orientations, 0 to 7; 0 is unchanged.

    The bits of `orientation`: 4 transposes, 2 mirrors top and bottom, 1 mirrors left and right.
    """
    if orientation & 4:
        pictures = pictures.swapaxes(-1, -2)
    if orientation & 2:
        pictures = pictures[..., ::-1, :]
    return pictures[..., ::-1] if orientation & 1 else pictures


def sketch(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the grey sketch of a picture, uint8 (32, 32)."""
    return np.asarray(
        image.convert("L").resize((SKETCH, SKETCH), Image.Resampling.BOX, reducing_gap=3.0)
    )


def sketches_agree(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return whether P pairs of sketches, uint8 (P, 32, 32) each, may be copies: bool (P,).

    Rejects nearly all pairs of different photos, so that few are decoded again.
    """
    result = np.empty(len(a), bool)
    for start in range(0, len(a), _CHUNK):
        part = slice(start, start + _CHUNK)
        first, second = (blur(values[part].astype(np.float32)) for values in (a, b))
        move = _align(first, second, _still(len(first)), 3)
        moved, weight = _moved(first, move)
        x, y = _band(moved) * weight, _band(second) * weight
        alike = (x * y).sum((1, 2)) / np.sqrt((x * x).sum((1, 2)) * (y * y).sum((1, 2)) + 1e-6)
        near = np.abs(move - _still(1)).max(1) <= 1.3 * _MOVE
        flat = np.abs(a[part].astype(np.int16) - b[part]).max((1, 2)) <= 3 * _FLAT
        result[part] = flat | (near & (alike >= _SKETCH_STRUCTURE))
    return result


def prepare(image: Image.Image) -> Prepared:
    """Shrink a picture for `compare`: RGB, upright, at least `DECODED` a side if possible."""
    rgb = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=3.0))
    return Prepared(rgb, blur(_grey(rgb)[None]))


def compare(a: Prepared, b: Prepared) -> Likeness:
    """Return how similar two pictures are, after aligning `a` with `b`."""
    small_a, small_b = (_shrink(blur(p.grey)) for p in (a, b))
    move = _align(a.grey, b.grey, _align(small_a, small_b, _still(1), 5), 3)
    second = np.ascontiguousarray(b.rgb.transpose(2, 0, 1)).astype(np.float32)
    plain = np.ascontiguousarray(a.rgb.transpose(2, 0, 1)).astype(np.float32)
    first, weights = _moved(plain, np.repeat(move, 3, 0))
    return likeness(
        first,
        second,
        weights[:1],
        plain=float(np.abs(_blocks(plain - second, SIDE // 24)).max()),
        move=float(np.abs(move - _still(1)).max()),
    )


def likeness(
    first: Greys, second: Greys, weight: Greys, *, plain: float = np.inf, move: float = 0.0
) -> Likeness:
    """Return how similar two aligned pictures are.

    Args:
        first, second: the pictures, RGB, float32 (3, 96, 96).
        weight: 1 where they are compared, 0 elsewhere, float32 (1, 96, 96).
        plain, move: see `Likeness`.
    """
    x, y = (blur(_grey(picture.transpose(1, 2, 0))[None]) for picture in (first, second))
    band_x, band_y = _band(x) * weight, _band(y) * weight
    xx, yy, xy = (
        _blocks(p * q, SIDE // 4)[0]
        for p, q in ((band_x, band_x), (band_y, band_y), (band_x, band_y))
    )
    structure = float(xy.sum() / np.sqrt(xx.sum() * yy.sum() + 1e-6))
    # A tile counts if it has more structure than compression adds and not far less than others.
    energy = (xx + yy) / 2
    counts = energy > max(_NOISE**2, 0.25 * float(energy.mean()))
    return Likeness(
        structure,
        tile=float((xy / np.sqrt(xx * yy + 1e-6))[counts].min(initial=1.0)),
        plain=plain,
        gain=_gain(x, y, weight),
        move=move,
        **_colours(first, second, weight),
    )


def _colours(first: Greys, second: Greys, weight: Greys) -> dict[str, Any]:
    """Return `levels` and `hue` of two aligned pictures, float32 (3, n, n) each."""
    share = _blocks(weight, SIDE // 8)[0]
    inside = share > 0.5
    a, b = (
        _blocks(picture * weight, SIDE // 8)[:, inside] / share[inside]
        for picture in (first, second)
    )
    if not a.size:
        return {"levels": 255.0, "hue": (9.0, 9.0)}
    # 16 levels are added because the ratio of two dark values is mostly noise.
    hue_a, hue_b = (np.log(blocks[::2] + 16) - np.log(blocks[1] + 16) for blocks in (a, b))
    apart = np.abs(hue_a - hue_b).max(0)
    return {
        "levels": float(np.abs(a - b).max()),
        "hue": (float(np.median(apart)), float(apart.max())),
    }


def _grey(rgb: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Greys:
    """Return the luma of ITU-R BT.601."""
    return np.asarray(rgb @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


def blur(greys: Greys) -> Greys:
    """Smooth with the binomial kernel 1 4 6 4 1 in both directions, edges repeated."""
    count, height, width = greys.shape
    padded = np.empty((count, height + 4, width + 4), np.float32)
    padded[:, 2:-2, 2:-2] = greys
    padded[:, 2:-2, :2], padded[:, 2:-2, -2:] = greys[:, :, :1], greys[:, :, -1:]
    padded[:, :2], padded[:, -2:] = padded[:, 2:3], padded[:, -3:-2]
    # Four sums of neighbours in each direction: only additions of rows that are side by side.
    for _ in range(4):
        padded = padded[:, :-1] + padded[:, 1:]
    padded *= np.float32(1 / 256)
    for _ in range(4):
        padded = padded[:, :, :-1] + padded[:, :, 1:]
    return padded


def _band(greys: Greys) -> Greys:
    """Return the fine structure: what one smoothing keeps and two more remove."""
    return greys - blur(blur(greys))


def _shrink(greys: Greys) -> Greys:
    """Average to a third of the side."""
    n = greys.shape[1] // 3
    return np.asarray(greys.reshape(-1, n, 3, n, 3).mean((2, 4)))


def _blocks(values: Greys, side: int) -> Greys:
    """Return means over blocks of `side` pixels: (P, n, n) to (P, n / side, n / side)."""
    n = values.shape[1] // side
    return np.asarray(values.reshape(-1, n, side, n, side).mean((2, 4)))


def _gain(x: Greys, y: Greys, weight: Greys) -> float:
    """Return the contrast of y over that of x."""
    total = weight.sum()
    dx, dy = ((v - (v * weight).sum() / total) * weight for v in (x, y))
    return float(np.sqrt((dy * dy).sum() / ((dx * dx).sum() + 1e-6)))


def _still(n: int) -> Moves:
    return np.tile(np.array([1.0, 0.0, 1.0, 0.0]), (n, 1))


def _coordinates(n: int) -> npt.NDArray[np.float32]:
    return ((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32)


def _moved(greys: Greys, move: Moves) -> tuple[Greys, Greys]:
    """Sample the greys bilinearly after each move; the weight (P, n, n) is 1 inside the picture.

    Plain indexing instead of products with sampling matrices, which would start BLAS threads for a
    few microseconds of work.
    """
    n = greys.shape[1]
    inside = []
    for stretch, shift in ((move[:, 2], move[:, 3]), (move[:, 0], move[:, 1])):
        at = ((_coordinates(n) * stretch[:, None] + shift[:, None] + 1) / 2 * n - 0.5).astype(
            np.float32
        )
        inside.append(((at > -0.6) & (at < n - 0.4)).astype(np.float32))
        at = at.clip(0, n - 1)
        before = np.minimum(at.astype(np.int64), n - 2)
        share = (at - before)[:, :, None]
        low = np.take_along_axis(greys, before[:, :, None], 1)
        greys = (
            low + share * (np.take_along_axis(greys, before[:, :, None] + 1, 1) - low)
        ).transpose(0, 2, 1)
    return greys, inside[0][:, :, None] * inside[1][:, None, :]


def _align(a: Greys, b: Greys, move: Moves, steps: int) -> Moves:
    """Return the stretch and shift of each `a` onto its `b` with the least squared difference.

    Contrast and brightness are free. Gauss-Newton from `move` (Lucas and Kanade, 1981; with gain
    and bias as in Baker and Matthews, 2004).
    """
    pairs, n = a.shape[:2]
    c = _coordinates(n)
    inner = np.zeros((n, n), np.float32)
    inner[1:-1, 1:-1] = 1
    ridge = np.diag([0.5 * n * n] * 4 + [1.0, 1.0])  # keeps featureless pictures where they are
    target = b.reshape(pairs, -1)
    slopes = np.zeros((pairs, 6, n, n), np.float32)
    slopes[:, 5] = 1
    for _ in range(steps):
        moved, weight = _moved(a, move)
        slopes[:, 1, :, 1:-1] = (moved[:, :, 2:] - moved[:, :, :-2]) * np.float32(n / 4)
        slopes[:, 3, 1:-1] = (moved[:, 2:] - moved[:, :-2]) * np.float32(n / 4)
        slopes[:, 0] = slopes[:, 1] * c
        slopes[:, 2] = slopes[:, 3] * c[:, None]
        slopes[:, 4] = moved
        flat = slopes.reshape(pairs, 6, -1)
        weighted = (slopes * (weight * inner)[:, None]).reshape(pairs, 6, -1)
        normal = np.einsum("pik,pjk->pij", weighted, flat).astype(np.float64) + ridge
        solution = np.linalg.solve(
            normal, np.einsum("pik,pk->pi", weighted, target).astype(np.float64)[..., None]
        )[..., 0]
        contrast = np.where(np.abs(solution[:, 4:5]) > 0.05, solution[:, 4:5], 1.0)
        step = np.clip(solution[:, :4] / contrast, -0.08, 0.08)
        x, tx, y, ty = move.T
        move = np.stack(
            [x * (1 + step[:, 0]), tx + x * step[:, 1], y * (1 + step[:, 2]), ty + y * step[:, 3]],
            1,
        )
        move = np.clip(move, [0.5, -0.5, 0.5, -0.5], [1.5, 0.5, 1.5, 0.5])
    return move
