"""Colours, fabrics and backdrops as float32 colour planes in 0-255.

One colour has shape (3, 1, 1), a surface (3, H, W). Patterns are functions of garment units, so
that stripes turn with the garment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tailorbird.demo.outline import Array, Rng, chance

# Class -> its fabrics and its usual colours; repeated for a higher probability.
# fmt: off
_CLASSES = {
    "dress": ("plain plain dots floral floral ombre shiny", "b23a48 a33b6b e7a1ab f0d77b c9a9c7"),
    "hat": ("plain plain plain suede", "c8b48a e8b04a 2b3a55 6f8f5f b23a48 3aa39b e3b7a0"),
    "longsleeve": ("plain plain plain stripes stripes melange rib", "7d8a99 c9a9c7 5b4a6e d9d4c7"),
    "outwear": ("plain plain melange leather leather suede", "1f2226 2b3a55 4b4f46 8c5a3c 2f5d50"),
    "pants": ("plain plain plain melange leather", "1f2226 474b57 c8b48a 2b3a55 4b4f46 8c5a3c"),
    "shirt": ("plain plain check check check pin pin pin", "f4f1ea f4f1ea 86b0c9 b9c7d6 e7a1ab"),
    "shoes": ("plain leather", "54301f 8c5a3c 1f2226 f4f1ea b23a48 7d8a99"),
    "shorts": ("plain plain plain plain camo floral", "c8b48a 86b0c9 6f8f5f d96c4f 3e6fa3 ff8f6b"),
    "skirt": ("plain plain dots check check ombre shiny", "a33b6b 5b4a6e e7a1ab 1f2226 e8b04a"),
    "t-shirt": ("plain plain plain plain stripes melange", "f4f1ea e8b04a 3aa39b 3e6fa3 1f2226"),
}
# fmt: on
_ANY = " ".join(colours for _, colours in _CLASSES.values())
_DENIM = "3b5578 5b7ba3 26344d 8aa4c0 42464f"
_WALLS = "e9e4da d8d5cf c9d3d4 dcc9b6 b8c4b4 a9b4c2 f3efe9 ded6e2 cfd8df eadfce 8f9aa0 6f7d84"
_WOODS = "b98a5e 8a5f3c d3b48c 6b4a33 a97f5a c7a27a"


def rgb(code: str) -> Array:
    """Return six hexadecimal digits as float32 (3, 1, 1)."""
    return np.array(list(bytes.fromhex(code)), np.float32).reshape(3, 1, 1)


def _pick(rng: Rng, codes: str) -> Array:
    colour = rgb(str(rng.choice(codes.split()))) + rng.normal(0, 6, (3, 1, 1))
    return np.clip(colour, 4, 251).astype(np.float32)


def _unlike(rng: Rng, codes: str, other: Array) -> Array:
    """Return the one of three random colours that differs most from `other`."""
    return max((_pick(rng, codes) for _ in range(3)), key=lambda c: float(np.abs(c - other).sum()))


def _step(x: Array, sharp: float = 3.0) -> Array:
    share: Array = np.clip(x * sharp + 0.5, 0, 1)
    return share


def _floral(u: Array, v: Array) -> Array:
    x = (u + 0.05 * np.sin(v * 9)) * 19
    y = (v + 0.05 * np.sin(u * 8)) * 19 + 1.6 * (np.sin(x / 2) > 0)
    radius: Array = np.sqrt(4.001 - 2 * np.abs(np.sin(x)) - 2 * np.abs(np.sin(y)))
    return _step(0.66 + 0.13 * np.sin(5 * np.arctan2(np.cos(x), np.cos(y))) - radius, 4.0)


# Fabric -> the share of its second colour at garment units (u, v).
_PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "stripes": lambda u, v: _step(np.sin(v * 42) - 0.2),
    "pin": lambda u, v: _step(np.sin(u * 75) - 0.55, 2.0),
    "check": lambda u, v: (_step(np.sin(u * 33)) + _step(np.sin(v * 33))) * 0.45,
    "dots": lambda u, v: _step(np.sin(u * 30) * np.sin(v * 30) - 0.5, 4.0),
    "floral": _floral,
    "camo": lambda u, v: _step(np.sin(u * 11 + 2 * np.sin(v * 7)) + np.sin(v * 13) - 0.3, 4.0),
    "ombre": lambda u, v: np.clip(v / 1.6, 0, 1),
    "denim": lambda u, v: 0.4 * np.sin(v * 4) * np.sin(u * 5) + 0.3 * np.sin((u + v) * 190),
    "knit": lambda u, v: 0.5 + 0.5 * np.sin(v * 105 + 2.2 * np.abs(np.sin(u * 36))),
    "rib": lambda u, v: 0.5 + 0.5 * np.sin(u * 85),
    "straw": lambda u, v: np.sin(u * 90) * np.sin(v * 90),
}
_DARKER = {
    "denim": 0.75,
    "knit": 0.78,
    "rib": 0.78,
    "straw": 0.86,
}  # second colour: the first, darker
_GRAIN = {"melange": 8.0, "suede": 6.0, "denim": 9.0, "straw": 9.0, "knit": 5.0}


@dataclass(frozen=True)
class Fabric:
    """A pattern of two colours (3, 1, 1)."""

    base: Array
    other: Array
    kind: str = ""
    pace: float = 1.0  # scale of the pattern

    @property
    def gloss(self) -> float:
        """The strength of highlights, 0 to 1."""
        return {"leather": 0.7, "shiny": 0.5}.get(self.kind, 0.0)

    def colour(self, u: Array, v: Array, grain: Array) -> Array:
        """Return the colour (3, H, W) at garment units u, v with unit noise, each (H, W)."""
        colour = self.base + grain * np.float32(_GRAIN.get(self.kind, 2.0))
        if pattern := _PATTERNS.get(self.kind):
            colour = colour + (self.other - self.base) * pattern(u * self.pace, v * self.pace)
        return colour


def paints(rng: Rng, label: str, fabrics: str) -> dict[str, Fabric]:
    """Return the paints of a garment: "cloth", one of the fabrics, and those of smaller parts.

    Args:
        rng: Source of the choices.
        label: The class.
        fabrics: Fabrics to choose from, space separated; empty for those of the class.
    """
    usual, colours = _CLASSES[label]
    usual = (
        usual if chance(rng, 0.8) else str(rng.choice([names for names, _ in _CLASSES.values()]))
    )
    kind = str(rng.choice((fabrics or usual).split()))
    colours = {"denim": _DENIM, "straw": "d9b878"}.get(kind, colours)
    base = _pick(rng, colours if chance(rng, 0.6) or kind in _DARKER else _ANY)
    accent, other = _unlike(rng, _ANY, base), _unlike(rng, _ANY, base)
    plain = {
        "trim": base * rng.uniform(0.72, 0.95) if chance(rng, 0.8) else other,
        "lining": base * 0.42 + 8,
        "accent": accent,
        "stitch": rgb("d9a441") if kind == "denim" else rgb("f2efe6"),
        "white": rgb("eeeae0"),
        "metal": rgb("b9b3a2"),
        "wood": rgb("b07a48"),
    }
    second = base * _DARKER[kind] if kind in _DARKER else other
    cloth = Fabric(base, second, kind, rng.uniform(0.75, 1.35))
    return {"cloth": cloth} | {name: Fabric(colour, colour) for name, colour in plain.items()}


def enlarged(values: Array, size: tuple[int, int]) -> Array:
    """Return a float32 array (h, w) interpolated to `size` (height, width)."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _blobs(rng: Rng, size: tuple[int, int], rows: int, columns: int) -> Array:
    """Return smooth noise (height, width) of mean 0, varying over a grid of rows and columns."""
    return enlarged(rng.standard_normal((rows + 1, columns + 1), np.float32), size)


def _plain(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    return tone + _blobs(rng, size, 5, 5) * 3 + _blobs(rng, size, size[0] // 3, size[1] // 3) * 2


def _planks(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    wide = int(rng.integers(26, 64))
    rows = np.arange(size[0]) // wide
    tones = rng.normal(0, 6, size[0] // wide + 1).astype(np.float32)[rows]
    veins = (_blobs(rng, size, size[0] // 3, 4) + _blobs(rng, size, size[0] // 9, 2)) * 4
    out = tone + (veins + tones[:, None]) * rgb("ffe6bf") / 255
    out[:, np.flatnonzero(np.diff(rows, prepend=0))] *= 0.75
    return out


def _tiles(rng: Rng, size: tuple[int, int], tone: Array) -> Array:
    step = int(rng.integers(40, 90))
    out = _plain(rng, size, tone)
    joint = (np.arange(size[0]) % step < 2)[:, None] | (np.arange(size[1]) % step < 2)
    return np.where(joint, out * 0.7 + 40, out)


def backdrop(rng: Rng, size: tuple[int, int], away_from: Array, horizon: int | None) -> Array:
    """Return what lies behind a garment, float32 (3, height, width): a surface seen from above.

    With `horizon` it is a wall that ends in a floor at that row. Its colour differs from
    `away_from`.
    """
    tone, wood = _unlike(rng, _WALLS, away_from), _unlike(rng, _WOODS, away_from)
    surface = (_plain, _plain, _tiles, _planks)[int(rng.integers(4))]
    if horizon is None:
        return surface(rng, size, wood if surface is _planks else tone)
    out = _plain(rng, size, tone)
    if 8 < horizon < size[0] - 8:
        low = (size[0] - horizon, size[1])
        floor = _planks(rng, low, wood) if chance(rng, 0.6) else _plain(rng, low, tone * 0.75)
        out[:, horizon:] = floor * np.linspace(0.82, 1.06, low[0], dtype=np.float32)[:, None]
        out[:, horizon : horizon + 2] *= 0.6
    return out
