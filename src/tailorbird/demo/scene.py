"""Painting: pieces laid over a picture one by one, each with its shadow, folds and rounded edges, and the light over all.

Arrays are float32, colours RGB in 0-255 as planes (3, H, W), masks (H, W) in 0-1; x is to the right, y down, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tailorbird.demo.materials import Cloth, dye, enlarged, rgb, solid
from tailorbird.demo.outline import Array, Part, Rng, chance, closed, curve, oval, turned

_FINE = 3  # outlines are drawn this many times larger, then averaged down to soft edges
_FAR = 3  # and cast shadows this many times smaller


@dataclass(frozen=True)
class Place:
    """Garment units to pixels: pixels = units @ matrix + shift, with a slow wobble as of soft cloth before it."""

    matrix: Array  # (2, 2)
    shift: Array  # (2,)
    wobble: Array  # (4,): amplitude, then two phases and a pace

    def pixels(self, units: Array) -> Array:
        """Points (N, 2) in garment units as points in pixels."""
        size, a, b, pace = self.wobble
        x, y = units[:, 0], units[:, 1]
        soft = np.stack([x + size * np.sin(y * pace + a), y + size * np.sin(x * pace + b)], axis=1)
        return soft @ self.matrix + self.shift

    def units(self, left: int, top: int, size: tuple[int, int], turn: float) -> tuple[Array, Array]:
        """Garment units (u, v) of a window of pixels (height, width), turned along a sleeve."""
        spin = turned(turn)
        back = (np.linalg.inv(self.matrix) @ spin).astype(np.float32)
        start = (self.shift @ back).astype(np.float32)
        x = np.arange(left, left + size[1], dtype=np.float32)[None, :]
        y = np.arange(top, top + size[0], dtype=np.float32)[:, None]
        u, v = (
            x * back[0, 0] + y * back[1, 0] - start[0],
            x * back[0, 1] + y * back[1, 1] - start[1],
        )
        amount, a, b, pace = (np.float32(n) for n in self.wobble)
        return u - amount * np.sin(v * pace + a), v - amount * np.sin(u * pace + b)


@dataclass(frozen=True)
class Canvas:
    """The picture being painted."""

    pixels: Array  # (3, H, W)
    cover: Array  # (H, W) where pieces lie so far: what is printed on them ends with them
    grain: Array  # (H, W) unit noise
    light: Array  # (2,) unit vector towards the light
    phases: Array  # (6,) of the folds
    depth: float  # strength of shading


def _sheet(
    size: tuple[int, int], scale: float, lines: list[Array], width: float = 0.0
) -> Image.Image:
    """Lines drawn white on black on a sheet (height, width), all times `scale`; filled, or strokes where width > 0."""
    sheet = Image.new("L", (round(size[1] * scale), round(size[0] * scale)))
    pen = ImageDraw.Draw(sheet)
    for line in lines:
        points = (line * scale).ravel().tolist()
        if width > 0:
            pen.line(points, fill=255, width=max(1, round(width * scale)))
        else:
            pen.polygon(points, fill=255)
    return sheet


def _soft(sheet: Image.Image, radius: float) -> Array:
    return np.asarray(sheet.filter(ImageFilter.GaussianBlur(radius))) * np.float32(1 / 255)


def _shifted(mask: Array, dx: int, dy: int) -> Array:
    """The mask moved right and down by whole pixels; what moves in stays as it was."""
    h, w = mask.shape
    out = mask.copy()
    if abs(dx) < w and abs(dy) < h:
        out[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = mask[
            max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
        ]
    return out


def paint(
    canvas: Canvas, part: Part, lines: list[Array], place: Place, paints: dict[str, Cloth]
) -> None:
    """Lay one part (its `lines` in pixels) over the picture: its shadow on what is there, then cloth, folds and edges."""
    unit = float(np.sqrt(abs(np.linalg.det(place.matrix))))
    reach = max(2.0, 0.045 * unit * part.lift)
    every = np.vstack(lines)
    margin = part.width * unit / 2 + 2.5 * reach + 1
    h, w = canvas.grain.shape
    left, top = (max(0, int(n)) for n in np.floor(every.min(0) - margin))
    right, low = (
        min(n, int(m)) for n, m in zip((w, h), np.ceil(every.max(0) + margin), strict=True)
    )
    if right - left < 2 or low - top < 2:
        return
    size = (low - top, right - left)
    sheet = _sheet(size, _FINE, [line - (left, top) for line in lines], part.width * unit).reduce(
        _FINE
    )
    mask = np.asarray(sheet) * np.float32(1 / 255)
    window = canvas.pixels[:, top:low, left:right]
    cover = canvas.cover[top:low, left:right]
    if part.lift:
        np.maximum(cover, mask, out=cover)
    else:
        mask *= cover
    if part.paint == "shade":
        window *= 1 - (1 - part.tone) * mask
        return
    goods = paints[part.paint]
    u: Array = mask
    v: Array = mask  # flat goods do not look at them
    if not goods.flat or part.lift > 0.85:
        u, v = place.units(left, top, size, part.turn)
    colour = goods.colour(u, v, canvas.grain[top:low, left:right])
    shade: Array = np.full((1, 1), part.tone, np.float32)
    kept = 1 - mask
    if part.lift:
        few = 3 if part.lift > 0.85 else 1  # large soft things are worked out on every third pixel
        soft = _soft(sheet.reduce(few), reach / few)
        dx, dy = (round(float(n)) for n in -canvas.light * reach * 0.6 / few)
        shadow = _shifted(
            soft, dx, dy
        )  # also what is lit: edges that face the light rise above their shadow
        strength = canvas.depth * min(1.0, 0.4 + part.lift * 0.6)
        shade = shade * (0.9 + 0.1 * soft) + (soft - shadow) * (1.1 * strength)
        if few > 1:
            x, y = u[::few, ::few], v[::few, ::few]
            shade += _folds(canvas, part, x, y) * (goods.folds * strength)
            if goods.gloss:
                shade += (
                    goods.gloss
                    * 0.5
                    * np.clip(np.sin(x * 7 + 2 * np.sin(y * 2.3) + canvas.phases[0]) - 0.55, 0, 1)
                )
            shade, shadow = enlarged(shade, size), enlarged(shadow, size)
        kept *= 1 - 0.42 * strength * shadow
    dark = np.minimum(shade, 1)
    colour *= dark * mask
    colour += (shade - dark) * mask * 110  # what is brighter than its own colour turns whiter
    window *= kept
    window += colour


def _folds(canvas: Canvas, part: Part, u: Array, v: Array) -> Array:
    """Creases along the cloth, about -0.1 to 0.1; fanning out from the top where the part is pleated."""
    a, b, c, d, e, f = canvas.phases
    count, ratio = part.pleats
    crease = np.sin(u * 8 + 1.6 * np.sin(v * 2.2 + a) + b) * np.sin(v * 1.7 + c) + 0.6 * np.sin(
        u * 5 - v * 6 + d
    )
    out: Array = 0.045 * crease
    if count:
        points = np.vstack(part.lines)
        head, foot, wide = (
            float(n) for n in (points[:, 1].min(), points[:, 1].max(), points[:, 0].max())
        )
        half = wide * (ratio + (1 - ratio) * np.clip((v - head) / (foot - head), 0, 1)) + 1e-3
        fan = np.sin(u / half * count * 1.6 + e + 0.4 * np.sin(v * 3 + f)) * np.clip(
            (v - head) * 2 + 0.2, 0, 1
        )
        out = out * 0.4 + 0.1 * fan
    return out


def cast_shadow(canvas: Canvas, lines: list[Array], far: float) -> None:
    """Darken what lies behind: a soft shadow thrown `far` pixels away from the light, and one where they touch."""
    size = canvas.cover.shape
    small = _sheet((size[0], size[1]), 1 / _FAR, lines)
    shade = np.ones((small.height, small.width), np.float32)
    for distance, radius in ((far, far * 0.75), (2.0, 2.5)):
        dx, dy = (round(float(n)) for n in -canvas.light * distance / _FAR)
        shade *= 1 - 0.3 * _shifted(_soft(small, radius / _FAR), dx, dy)
    canvas.pixels[...] *= enlarged(shade, (size[0], size[1]))


def light_up(rng: Rng, canvas: Canvas) -> None:
    """Falling light over the finished picture: a gradient, sometimes a window, a colour cast, and the camera's noise."""
    h, w = canvas.grain.shape
    x, y = (
        np.linspace(-0.5, 0.5, w, dtype=np.float32),
        np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None],
    )
    glow = (
        1
        + rng.uniform(0, 0.22) * (x * canvas.light[0] + y * canvas.light[1])
        - rng.uniform(0, 0.25) * (x * x + y * y)
    )
    if chance(rng, 0.1):  # sun through a window
        lean, at, wide = rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.2), rng.uniform(0.1, 0.22)
        band = np.clip((wide - np.abs(x + y * lean - at)) * 22 + 0.5, 0, 1)
        bar = 1 - np.clip((0.012 - np.abs(x + y * lean - at)) * 60 + 0.5, 0, 1)
        glow = glow * (0.86 + 0.24 * band * bar)
    gain = rng.normal(1, 0.05) * (1 + rng.normal(0, 0.025, (3, 1, 1)))
    canvas.pixels[...] *= glow * gain.astype(np.float32)
    canvas.pixels[...] += canvas.grain[::-1, ::-1] * rng.uniform(1, 3)


def clutter(rng: Rng, canvas: Canvas, *, upright: bool) -> None:
    """Things that happen to be in the picture: leaves, a book, a cup, a phone, a frame on the wall."""
    h, w = canvas.grain.shape
    for _ in range(int(rng.integers(1, 3))):
        corner = np.array([rng.choice([0.06, 0.94]) * w, rng.choice([0.08, 0.92]) * h])
        turn, unit = rng.uniform(0, 6.3), rng.uniform(0.22, 0.34) * w
        kind = int(rng.integers(0, 5)) if not upright else int(rng.choice([0, 5]))
        if kind == 5:
            corner[1], turn = h * rng.uniform(0.06, 0.3), 0.0
        spin = turned(turn) * unit
        page = closed((-0.4, -0.55), (0.4, -0.55), (0.4, 0.55), (-0.4, 0.55))
        inner = page * 0.75
        paints = {
            "a": solid(dye(rng)),
            "b": solid(dye(rng)),
            "pale": solid(rgb("f1eee6")),
            "dark": solid(rgb("23262b")),
        }
        if kind == 0:  # leaves
            green = solid(np.asarray(rgb("5c7f56") * rng.uniform(0.7, 1.2), np.float32))
            paints["green"] = green
            blade = closed((0, 0, 0.22), (0.85, 0, 0.22))
            angles = np.linspace(0, 4.5, 6) + rng.normal(0, 0.2, 6)
            parts = [Part((blade @ turned(angle),), "green", lift=0.8) for angle in angles]
        elif kind == 1:  # a book or magazine
            parts = [
                Part((page,), "a", lift=1.0),
                Part((curve((-0.33, -0.55), (-0.33, 0.55)),), "shade", width=0.02, tone=0.8),
                Part((closed((-0.15, -0.35), (0.25, -0.35), (0.25, -0.1), (-0.15, -0.1)),), "b"),
            ]
        elif kind == 2:  # a cup on a saucer
            parts = [
                Part((oval(0, 0, 0.5, 0.5),), "pale", lift=1.0),
                Part((oval(0, 0, 0.32, 0.32),), "a", lift=1.0),
                Part((oval(0, 0, 0.25, 0.25),), "dark"),
            ]
        elif kind == 3:  # a phone
            parts = [Part((page * (0.75, 1),), "dark", lift=0.9), Part((page * (0.68, 0.9),), "b")]
        elif kind == 4:  # sheets of paper
            parts = [
                Part((page @ turned(0.25),), "pale", lift=0.5),
                Part((page,), "pale", lift=0.5),
                Part(
                    tuple(curve((-0.28, y), (0.26, y)) for y in (-0.35, -0.22, -0.09)),
                    "shade",
                    width=0.03,
                    tone=0.75,
                ),
            ]
        else:  # a frame
            parts = [
                Part((page * 1.1,), "a", lift=0.7),
                Part((page,), "pale"),
                Part((inner,), "b"),
                Part((oval(0, 0.1, 0.2, 0.2),), "a"),
            ]
        place = Place(spin, corner, np.array([0.0, 0.0, 0.0, 1.0]))
        for part in parts:
            paint(canvas, part, [place.pixels(line) for line in part.lines], place, paints)
