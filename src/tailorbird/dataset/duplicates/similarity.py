"""Whether two pictures show the same thing in the same place: aligned, then compared pixel by pixel.

Copies differ by re-encoding, size, brightness and a slight crop; two products photographed against the same wall differ in
their edges. So the measure is the correlation of fine structure (a band of frequencies, blind to exposure) after the best
shift and stretch of one picture onto the other, over the whole and in each tile, together with the colours.

Arrays of grey values are float32 (P, n, n) for P pictures or pairs, 0 to 255. A move is float64 (P, 4): stretch and shift
across, stretch and shift down, in coordinates from -1 to 1.
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
"""Pixels a side at which pictures are compared in the end."""

SKETCH: Final = 32
"""Pixels a side of the grey sketch that is kept of every photo."""

DECODED: Final = 3 * SIDE
"""Pixels a side to decode for `prepare`: libjpeg's coarser scales would differ visibly between copies of different size."""

_STRUCTURE: Final = 0.87  # of the pairs of different photos in three data sets the best reach 0.83; copies start at 0.88
_SKETCH_STRUCTURE: Final = (
    0.9  # 99.8% of copies reach 0.92; of different photos with similar hashes one in thirty does
)
_TILE_STRUCTURE: Final = 0.5
_MOVE: Final = (
    0.13  # 0.06 is a crop of 3% on either side; up to 0.09 was seen between frames of a burst
)
_HUE: Final = (
    0.06,
    0.2,
)  # median and largest; frames of a burst in changing light reach 0.04 and 0.18
_LEVELS: Final = (
    26.0  # 10% brighter reaches 24, 15% more contrast 23: so little needs no look at the hue
)
_GAIN: Final = (0.5, 2.0)
_FLAT: Final = 1.5  # levels: pictures this close everywhere are the same even without any structure
_NOISE: Final = 1.5  # levels of fine structure that compression invents
_CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture made ready to compare: rgb uint8 (96, 96, 3), and its smoothed grey float32 (1, 96, 96)."""

    rgb: npt.NDArray[np.uint8]
    grey: Greys


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two pictures are.

    structure: correlation of fine structure, -1 to 1. tile: that of the tile which agrees least. plain: the largest
    difference of a block, in levels, nothing aligned. levels: the same after aligning. hue: median and largest difference of
    a block in the logarithms of R / G and B / G, which exposure leaves alone. gain: contrast of the second over the first.
    move: largest shift or stretch that aligned them.
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
        """Whether both are the same picture, up to re-encoding, size, exposure and a slight crop."""
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


def sketch(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The grey sketch of a picture: uint8 (32, 32)."""
    return np.asarray(
        image.convert("L").resize((SKETCH, SKETCH), Image.Resampling.BOX, reducing_gap=3.0)
    )


def sketches_agree(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """For P pairs of sketches, uint8 (P, 32, 32) each, whether they may be of the same picture: bool (P,).

    Tells nearly all pairs of different photos apart, so that few need decoding again.
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
    """Shrink a picture (RGB, upright, at least `DECODED` a side where the file has that much) to what `compare` needs."""
    rgb = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=3.0))
    return Prepared(rgb, blur(_grey(rgb)[None]))


def compare(a: Prepared, b: Prepared) -> Likeness:
    """How alike two pictures are, after moving `a` onto `b`."""
    small_a, small_b = (_shrink(blur(p.grey)) for p in (a, b))
    move = _align(a.grey, b.grey, _align(small_a, small_b, _still(1), 5), 3)
    second = np.ascontiguousarray(b.rgb.transpose(2, 0, 1)).astype(np.float32)
    plain = np.ascontiguousarray(a.rgb.transpose(2, 0, 1)).astype(np.float32)
    first, weights = _moved(plain, np.repeat(move, 3, 0))
    weight = weights[:1]
    x, y = blur(_grey(first.transpose(1, 2, 0))[None]), b.grey
    band_x, band_y = _band(x) * weight, _band(y) * weight
    xx, yy, xy = (
        _blocks(p * q, SIDE // 4)[0]
        for p, q in ((band_x, band_x), (band_y, band_y), (band_x, band_y))
    )
    structure = float(xy.sum() / np.sqrt(xx.sum() * yy.sum() + 1e-6))
    # A tile counts where it holds more structure than compression invents and not far less than the others.
    energy = (xx + yy) / 2
    counts = energy > max(_NOISE**2, 0.25 * float(energy.mean()))
    return Likeness(
        structure,
        tile=float((xy / np.sqrt(xx * yy + 1e-6))[counts].min(initial=1.0)),
        plain=float(np.abs(_blocks(plain - second, SIDE // 24)).max()),
        gain=_gain(x, y, weight),
        move=float(np.abs(move - _still(1)).max()),
        **_colours(first, second, weight),
    )


def _colours(first: Greys, second: Greys, weight: Greys) -> dict[str, Any]:
    """How far the colours of two aligned pictures, float32 (3, n, n) each, are apart: `levels` and `hue` of `Likeness`."""
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
    """Luma of ITU-R BT.601."""
    return np.asarray(rgb @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


def blur(greys: Greys) -> Greys:
    """Greys smoothed with the binomial kernel 1 4 6 4 1 in both directions, edges repeated."""
    for _ in range(2):
        p = np.pad(greys, ((0, 0), (0, 0), (2, 2)), mode="edge")
        greys = (p[..., :-4] + p[..., 4:]) + 4 * (p[..., 1:-3] + p[..., 3:-1]) + 6 * p[..., 2:-2]
        greys = greys.transpose(0, 2, 1) / np.float32(16)
    return greys


def _band(greys: Greys) -> Greys:
    """Fine structure: what one smoothing keeps and two more take away."""
    return greys - blur(blur(greys))


def _shrink(greys: Greys) -> Greys:
    """A third of the side."""
    n = greys.shape[1] // 3
    return np.asarray(greys.reshape(-1, n, 3, n, 3).mean((2, 4)))


def _blocks(values: Greys, side: int) -> Greys:
    """Means over blocks of `side` pixels: (P, n, n) to (P, n / side, n / side)."""
    n = values.shape[1] // side
    return np.asarray(values.reshape(-1, n, side, n, side).mean((2, 4)))


def _gain(x: Greys, y: Greys, weight: Greys) -> float:
    """The contrast of y over that of x."""
    total = weight.sum()
    dx, dy = ((v - (v * weight).sum() / total) * weight for v in (x, y))
    return float(np.sqrt((dy * dy).sum() / ((dx * dx).sum() + 1e-6)))


def _still(n: int) -> Moves:
    return np.tile(np.array([1.0, 0.0, 1.0, 0.0]), (n, 1))


def _coordinates(n: int) -> npt.NDArray[np.float32]:
    return ((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32)


def _moved(greys: Greys, move: Moves) -> tuple[Greys, Greys]:
    """The greys sampled where each move points, bilinearly, and the weight (P, n, n), 1 where that is inside the picture.

    Plain indexing rather than products with sampling matrices: those would start BLAS threads for a few microseconds.
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
    """The stretch and shift of each `a` onto its `b` that leave the least squared difference, contrast and brightness free.

    Gauss-Newton from `move` (Lucas and Kanade, 1981; with gain and bias as in Baker and Matthews, 2004).
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
