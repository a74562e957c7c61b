"""What things are made of: colours, cloth, walls and floors, as arrays of colour.

Colours are float32 RGB in 0-255, planes first: (3, 1, 1) for one colour, (3, H, W) for a surface. Cloth is a function
of garment units, so that stripes turn with the garment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from tailorbird.demo.outline import Array, Rng

_DYES = [
    "f4f1ea",
    "1f2226",
    "2b3a55",
    "7d8a99",
    "b23a48",
    "d96c4f",
    "e8b04a",
    "6f8f5f",
    "2f5d50",
    "86b0c9",
    "3e6fa3",
    "5b4a6e",
    "c9a9c7",
    "e3b7a0",
    "8c5a3c",
    "c8b48a",
    "4b4f46",
    "d9d4c7",
    "a33b6b",
    "e7a1ab",
    "3aa39b",
    "f0d77b",
    "54301f",
    "9aa5ad",
    "1d4e7a",
    "c94f7c",
    "6b7f2f",
    "ff8f6b",
    "474b57",
    "b9c7d6",
]
_USUAL = {  # the colours a class is mostly seen in
    "dress": "b23a48 a33b6b e7a1ab f0d77b 3aa39b c9a9c7 d96c4f c94f7c",
    "hat": "c8b48a e8b04a 2b3a55 6f8f5f b23a48 3aa39b e3b7a0",
    "longsleeve": "7d8a99 9aa5ad c9a9c7 5b4a6e 3aa39b b9c7d6 d9d4c7",
    "outwear": "1f2226 2b3a55 4b4f46 474b57 8c5a3c 54301f 2f5d50",
    "pants": "1f2226 474b57 c8b48a 2b3a55 4b4f46 8c5a3c",
    "shirt": "f4f1ea f4f1ea 86b0c9 b9c7d6 e7a1ab d9d4c7",
    "shoes": "54301f 8c5a3c 1f2226 f4f1ea b23a48 7d8a99",
    "shorts": "c8b48a 86b0c9 6f8f5f d96c4f 3e6fa3 ff8f6b",
    "skirt": "a33b6b 5b4a6e e7a1ab 1f2226 e8b04a 2f5d50 b23a48",
    "t-shirt": "f4f1ea e8b04a 3aa39b 3e6fa3 d96c4f 1f2226 6f8f5f ff8f6b",
}
_WALLS = [
    "e9e4da",
    "d8d5cf",
    "c9d3d4",
    "dcc9b6",
    "b8c4b4",
    "a9b4c2",
    "f3efe9",
    "ded6e2",
    "cfd8df",
    "eadfce",
    "8f9aa0",
    "6f7d84",
]
_WOODS = ["b98a5e", "8a5f3c", "d3b48c", "6b4a33", "a97f5a", "c7a27a"]


def rgb(code: str) -> Array:
    """Six hexadecimal digits as float32 (3, 1, 1) in 0-255."""
    return np.array([[[int(code[i : i + 2], 16)]] for i in (0, 2, 4)], np.float32)


def _pick(rng: Rng, codes: list[str], spread: float = 9.0) -> Array:
    colour = rgb(codes[int(rng.integers(len(codes)))]) + rng.normal(0, spread, (3, 1, 1))
    return np.clip(colour, 4, 251).astype(np.float32)


def dye(rng: Rng, label: str = "") -> Array:
    """A colour for clothes, float32 (3, 1, 1); mostly one that the class `label` is mostly seen in."""
    return _pick(rng, _USUAL[label].split() if label and rng.random() < 0.92 else _DYES)


def smooth_noise(rng: Rng, size: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Soft blobs, float32 (height, width), mean about 0 and deviation about 0.7, `cells` (rows, columns) of them."""
    return enlarged(rng.standard_normal((cells[0] + 1, cells[1] + 1), np.float32), size)


def enlarged(values: Array, size: tuple[int, int]) -> Array:
    """A float32 array (h, w) stretched smoothly to `size` (height, width)."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC))


@cache
def _film() -> Array:
    return np.random.default_rng(0).standard_normal((1024, 1024), np.float32)


def grain(rng: Rng, size: tuple[int, int]) -> Array:
    """Unit noise, float32 (height, width): a random window of one sheet, for drawing noise anew takes long."""
    top, left = (int(rng.integers(1025 - n)) for n in size)
    return _film()[top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Cloth:
    """A fabric: `colour(u, v, grain)` takes garment units and unit noise (H, W), gives (3, H, W) in 0-255."""

    colour: Callable[[Array, Array, Array], Array]
    gloss: float = 0.0  # strength of highlights, 0 matt, 1 patent leather
    folds: float = 1.0  # how much it creases, 0 stiff
    flat: bool = False  # the colour does not look at u and v


def solid(colour: Array) -> Cloth:
    """One colour (3, 1, 1) without a pattern."""
    return Cloth(lambda u, v, grain: colour + grain * 1.5, folds=0.7, flat=True)


FABRICS = {  # the fabrics of a class, space separated; named twice, twice as likely
    "dress": "plain plain dots floral floral floral ombre shiny",
    "hat": "plain plain plain suede",
    "longsleeve": "plain plain plain stripes stripes melange rib",
    "outwear": "plain plain melange leather leather suede",
    "pants": "plain plain plain melange leather",
    "shirt": "plain plain check check check tartan tartan pin pin pin",
    "shoes": "plain leather",
    "shorts": "plain plain plain plain camo floral",
    "skirt": "plain plain dots tartan tartan ombre shiny",
    "t-shirt": "plain plain plain plain stripes melange",
}


def _step(x: Array, sharp: float = 3.0) -> Array:
    share: Array = np.clip(x * sharp + 0.5, 0, 1)
    return share


def _mix(a: Array, b: Array, share: Array) -> Array:
    return a + (b - a) * share


def cloth(rng: Rng, kind: str, base: Array, other: Array) -> Cloth:
    """The fabric `kind` (a word of FABRICS) in a main and a second colour, each (3, 1, 1)."""
    pace = rng.uniform(0.75, 1.35)
    shift = rng.uniform(0, 6.3, 6).tolist()
    fine = rng.uniform(2.0, 4.5)

    def grained(strength: float) -> Callable[[Array, Array, Array], Array]:
        return lambda u, v, grain: base + grain * strength

    def stripes(u: Array, v: Array, grain: Array) -> Array:
        return (
            _mix(base, other, _step(np.sin(v * 42 * pace + shift[0]) - fine / 6 + 0.3)) + grain * 2
        )

    def pin(u: Array, v: Array, grain: Array) -> Array:
        return _mix(base, other, _step(np.sin(u * 75 * pace) - 0.55, 2.0) * 0.8) + grain * 2

    def check(u: Array, v: Array, grain: Array) -> Array:
        across, down = _step(np.sin(u * 48 * pace), 2.5), _step(np.sin(v * 48 * pace), 2.5)
        return _mix(base, other, (across + down) * 0.45) + grain * 2

    def tartan(u: Array, v: Array, grain: Array) -> Array:
        wide = _step(np.sin(u * 21 * pace)) * 0.4 + _step(np.sin(v * 21 * pace)) * 0.4
        thin = np.maximum(
            _step(np.sin(u * 21 * pace + 1.6) - 0.93, 6.0),
            _step(np.sin(v * 21 * pace + 1.6) - 0.93, 6.0),
        )
        return (
            _mix(_mix(base, other, wide), 255 - (255 - other) * np.float32(0.4), thin * 0.55)
            + grain * 3
        )

    def dots(u: Array, v: Array, grain: Array) -> Array:
        return (
            _mix(base, other, _step(np.sin(u * 30 * pace) * np.sin(v * 30 * pace) - 0.5, 4.0))
            + grain * 2
        )

    def floral(u: Array, v: Array, grain: Array) -> Array:
        x = (u + 0.05 * np.sin(v * 9 + shift[0])) * 19 * pace
        y = (v + 0.05 * np.sin(u * 8 + shift[1])) * 19 * pace + np.float32(1.6) * (
            np.sin(x / 2) > 0
        )
        r = np.sqrt(
            4.001 - 2 * np.abs(np.sin(x)) - 2 * np.abs(np.sin(y))
        )  # distance to the middle of the nearest flower
        bloom = _step(0.66 + 0.13 * np.sin(5 * np.arctan2(np.cos(x), np.cos(y))) - r, 4.0)
        leaf = _step(
            np.sin(x * 1.6 + y * 0.8 + shift[2]) * np.sin(y * 1.8 - x * 0.5 + shift[3]) - 0.62, 5.0
        )
        out = _mix(_mix(base, _LEAF, leaf * 0.7), other, bloom)
        return _mix(out, _POLLEN, _step(0.22 - r, 6.0)) + grain * 2

    def denim(u: Array, v: Array, grain: Array) -> Array:
        twill: Array = 9 * np.sin(v * 4 + shift[0]) * np.sin(u * 5 + shift[1]) + 8 * np.sin(
            (u + v) * 190
        )
        return base + (twill + grain * 9)

    def wash(u: Array, v: Array, grain: Array) -> Array:
        pale = 0.3 * np.sin(u * 7 + shift[0] + 2 * np.sin(v * 5 + shift[1])) + 0.25 * np.sin(
            v * 9 + 2 * np.sin(u * 6)
        )
        return _mix(base, base * 0.6 + 85, np.clip(0.5 + pale, 0, 1)) + grain * 6

    def knit(u: Array, v: Array, grain: Array) -> Array:
        row = np.sin(v * 105 * pace + 2.2 * np.abs(np.sin(u * 36 * pace)))
        depth: Array = 0.86 + 0.09 * row + 0.13 * np.abs(np.sin(u * 36 * pace))
        return base * depth + grain * 5

    def rib(u: Array, v: Array, grain: Array) -> Array:
        depth: Array = 0.92 + 0.11 * np.sin(u * 85 * pace)
        return base * depth + grain * 3

    def camo(u: Array, v: Array, grain: Array) -> Array:
        blob = np.sin(u * 11 + shift[0] + 2 * np.sin(v * 7)) + np.sin(
            v * 13 + shift[1] + 2 * np.sin(u * 6 + shift[2])
        )
        dark = np.sin(u * 15 + shift[3] + 2 * np.sin(v * 12)) + np.sin(
            v * 9 + shift[4] + 2 * np.sin(u * 11)
        )
        return (
            _mix(
                _mix(base, other * 0.6 + base * 0.3, _step(blob - 0.3, 4.0)),
                base * 0.45,
                _step(dark - 0.8, 4.0),
            )
            + grain * 3
        )

    def block(u: Array, v: Array, grain: Array) -> Array:
        return _mix(base, other, _step(v - 0.1 * fine - 0.3, 60.0)) + grain * 2

    def ombre(u: Array, v: Array, grain: Array) -> Array:
        return _mix(base, other, np.clip(v / 1.6, 0, 1)) + grain * 2

    def straw(u: Array, v: Array, grain: Array) -> Array:
        return _STRAW * (0.93 + 0.08 * np.sin(u * 90) * np.sin(v * 90)) + grain * 9

    if kind in ("denim", "wash"):
        base = _pick(rng, ["3b5578", "5b7ba3", "26344d", "8aa4c0", "42464f"], 7)
    patterns = {
        "stripes": stripes,
        "pin": pin,
        "check": check,
        "tartan": tartan,
        "dots": dots,
        "floral": floral,
        "denim": denim,
        "wash": wash,
        "knit": knit,
        "rib": rib,
        "camo": camo,
        "block": block,
        "ombre": ombre,
        "straw": straw,
    }
    colour = patterns.get(kind) or grained({"melange": 8.0, "suede": 6.0}.get(kind, 2.0))
    gloss = {"leather": 0.7, "shiny": 0.5, "ombre": 0.15}.get(kind, 0.0)
    folds = {"leather": 0.6, "knit": 0.6, "straw": 0.0, "denim": 0.8}.get(kind, 1.0)
    return Cloth(colour, gloss, folds, flat=not gloss and kind not in patterns)


_LEAF, _POLLEN, _STRAW = rgb("5f7d55"), rgb("f2cf63"), rgb("d9b878")
_WARM = np.array([[[1.0]], [[0.9]], [[0.75]]], np.float32)  # wood varies most in red


def _planks(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    h, _ = size
    wide = int(rng.integers(26, 64))
    rows = (np.arange(h) + int(rng.integers(wide))) // wide
    tones = rng.normal(0, 6, h // wide + 2).astype(np.float32)[rows]
    line = smooth_noise(rng, size, (h // 3, 4)) * 4 + smooth_noise(rng, size, (h // 9, 2)) * 4
    out = tone + (line + tones[:, None]) * _WARM
    out[:, np.flatnonzero(np.diff(rows, prepend=rows[0]))] *= 0.75
    return out


def _tiles(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    step = int(rng.integers(44, 90))
    y, x = (np.arange(n) + int(rng.integers(step)) for n in size)
    shade = rng.normal(0, 3, (size[0] // step + 3, size[1] // step + 3)).astype(np.float32)[
        (y // step)[:, None], x // step
    ]
    out = tone + (shade + smooth_noise(rng, size, (9, 9)) * 3)
    joint = (y % step < 2)[:, None] | (x % step < 2)
    return np.where(joint, out * 0.7 + 40, out)


def _sheet(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    folds = np.tanh(smooth_noise(rng, size, (3, 4)) * 2) * 9 + smooth_noise(rng, size, (7, 9)) * 5
    return tone + folds


def _plaster(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    return tone + (smooth_noise(rng, size, (5, 5)) * 3 + grain(rng, size) * 1.5)


def _carpet(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    return tone + (
        smooth_noise(rng, size, (size[0] // 3, size[1] // 3)) * 4
        + smooth_noise(rng, size, (6, 6)) * 4
    )


def _panels(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    """A wall of boards or wallpaper stripes."""
    step = int(rng.integers(26, 60))
    x = np.arange(size[1]) + int(rng.integers(step))
    out = _plaster(rng, size, tone)
    if rng.random() < 0.5:
        return out + np.where((x // step) % 2, np.float32(7), np.float32(-7))
    out[:, :, x % step < 2] *= 0.86
    return out


def backdrop(
    rng: Rng, size: tuple[int, int], away_from: Array, *, horizon: int | None, upright: bool
) -> Array:
    """What lies behind, float32 (3, height, width) in 0-255: a surface seen from above, or `upright` a wall.

    The wall ends in a floor at row `horizon` if given. The main tone keeps away from the colour `away_from`.
    """
    tone = max(
        (_pick(rng, _WALLS, 6) for _ in range(3)),
        key=lambda c: min(150.0, float(np.abs(c - away_from).sum())),
    )
    wood = max(
        (_pick(rng, _WOODS, 8) for _ in range(2)), key=lambda c: float(np.abs(c - away_from).sum())
    )
    if not upright:
        kind = int(rng.integers(0, 6))
        surface = (_planks, _tiles, _sheet, _plaster, _carpet, _plaster)[kind]
        out = surface(rng, size, wood if surface is _planks else tone)
        if surface is _planks and rng.random() < 0.4 and size[0] == size[1]:
            out = out.transpose(0, 2, 1)
        return out
    out = (_plaster if rng.random() < 0.75 else _panels)(rng, size, tone)
    if horizon is not None and 8 < horizon < size[0] - 8:
        low = (size[0] - horizon, size[1])
        if rng.random() < 0.3:  # a studio sweep: the wall bends into the floor
            bend = np.clip((np.arange(size[0], dtype=np.float32) - horizon) / 40 + 0.5, 0, 1)[
                :, None
            ]
            return out * (1 - 0.12 * bend)
        floor = _planks(rng, low, wood) if rng.random() < 0.6 else _carpet(rng, low, tone * 0.75)
        near = np.linspace(0.82, 1.06, low[0], dtype=np.float32)[:, None]
        out[:, horizon:] = floor * near
        skirting = int(rng.integers(0, 12))
        out[:, horizon - skirting : horizon] = tone * 0.5 + 120
        out[:, horizon : horizon + 2] *= 0.6
    return out
