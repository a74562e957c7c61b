"""Paint parts onto a picture, each with its shadow, folds and shaded edges, then light the whole.

Arrays are float32: colours in 0-255 as planes (3, H, W), masks (H, W) in 0-1. Coordinates are
pixels, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tailorbird.demo.fabric import Fabric, enlarged
from tailorbird.demo.outline import Array, Part, Rng, chance, rotation

_FINE = 3  # supersampling of outlines


@dataclass(frozen=True)
class Place:
    """The map from garment units to pixels: units @ matrix + shift, after a slow wobble."""

    matrix: Array  # (2, 2)
    shift: Array  # (2,)
    wobble: Array  # (4,): amplitude, two phases, frequency

    def pixels(self, units: Array) -> Array:
        """Return points (N, 2) in garment units as points in pixels."""
        size, a, b, pace = self.wobble
        soft: Array = units + size * np.sin(units[:, ::-1] * pace + (a, b))
        return soft @ self.matrix + self.shift

    def units(self, left: int, top: int, size: tuple[int, int], turn: float) -> tuple[Array, Array]:
        """Return garment units u, v of a window of pixels, along a part that is turned."""
        back = (np.linalg.inv(self.matrix) @ rotation(turn)).astype(np.float32)
        x = np.arange(left, left + size[1], dtype=np.float32) - np.float32(self.shift[0])
        y = np.arange(top, top + size[0], dtype=np.float32)[:, None] - np.float32(self.shift[1])
        return x * back[0, 0] + y * back[1, 0], x * back[0, 1] + y * back[1, 1]


@dataclass(frozen=True)
class Canvas:
    """The picture being painted."""

    pixels: Array  # (3, H, W)
    cover: Array  # (H, W): where parts lie so far; prints end with them
    grain: Array  # (H, W): unit noise
    light: Array  # (2,): unit vector towards the light
    phases: Array  # (6,): of the folds
    depth: float  # strength of the shading


def _mask(size: tuple[int, int], lines: list[Array], width: float) -> Image.Image:
    """Return lines filled, or stroked where width > 0, white on black, with smooth edges."""
    sheet = Image.new("L", (size[1] * _FINE, size[0] * _FINE))
    pen = ImageDraw.Draw(sheet)
    for line in lines:
        points = (line * _FINE).ravel().tolist()
        if width:
            pen.line(points, fill=255, width=max(1, round(width * _FINE)))
        else:
            pen.polygon(points, fill=255)
    return sheet.reduce(_FINE)


def _soft(mask: Image.Image, radius: float) -> Array:
    """Return the mask blurred, on every third pixel for speed."""
    small = mask.reduce(3).filter(ImageFilter.GaussianBlur(radius / 3))
    return np.asarray(small.resize(mask.size)) * np.float32(1 / 255)


def _behind(canvas: Canvas, mask: Array, distance: float) -> Array:
    """Return the mask moved away from the light by `distance` pixels."""
    dx, dy = (round(float(n)) for n in -canvas.light * distance)
    reach, (h, w) = max(abs(dx), abs(dy)), mask.shape
    padded = np.pad(mask, reach, mode="edge")
    return padded[reach - dy : reach - dy + h, reach - dx : reach - dx + w]


def paint(
    canvas: Canvas, part: Part, lines: list[Array], place: Place, paints: dict[str, Fabric]
) -> None:
    """Paint one part, whose `lines` are in pixels: shadow first, then fabric, folds and edges."""
    unit = float(np.sqrt(abs(np.linalg.det(place.matrix))))
    reach = max(2.0, 0.045 * unit * part.lift)
    margin = part.width * unit / 2 + 2.5 * reach + 1
    points = np.vstack(lines)
    h, w = canvas.grain.shape
    left, top = (max(0, int(n - margin)) for n in points.min(0))
    right, low = (min(n, int(m + margin)) for n, m in zip((w, h), points.max(0), strict=True))
    if right - left < 2 or low - top < 2:
        return
    size = (low - top, right - left)
    sheet = _mask(size, [line - (left, top) for line in lines], part.width * unit)
    mask = np.asarray(sheet) * np.float32(1 / 255)
    window, cover = canvas.pixels[:, top:low, left:right], canvas.cover[top:low, left:right]
    if part.lift:
        np.maximum(cover, mask, out=cover)
    else:
        mask *= cover
    if part.paint == "shade":
        window *= 1 - (1 - part.tone) * mask
        return
    fabric = paints[part.paint]
    u, v = place.units(left, top, size, part.turn)
    colour = fabric.colour(u, v, canvas.grain[top:low, left:right])
    shade: Array = np.full((1, 1), part.tone, np.float32)
    if part.lift:
        soft = _soft(sheet, reach)
        shadow = _behind(canvas, soft, reach * 0.6)
        strength = canvas.depth * min(1.0, 0.4 + part.lift * 0.6)
        window *= 1 - 0.42 * strength * shadow * (1 - mask)
        shade = shade * (0.9 + 0.1 * soft) + (soft - shadow) * (1.1 * strength)
        if part.lift > 0.85:
            small = _relief(canvas, part, fabric, u[::3, ::3], v[::3, ::3])
            shade = shade + enlarged(small, size) * strength
    bright = colour * np.minimum(shade, 1) + np.maximum(shade - 1, 0) * 110
    window += (bright - window) * mask


def _relief(canvas: Canvas, part: Part, fabric: Fabric, u: Array, v: Array) -> Array:
    """Return the change of brightness by creases, pleats and gloss at garment units u, v."""
    a, b, c, d, e, f = canvas.phases
    crease: Array = np.sin(u * 8 + 1.6 * np.sin(v * 2.2 + a) + b) * np.sin(v * 1.7 + c)
    out: Array = 0.045 * (crease + 0.6 * np.sin(u * 5 - v * 6 + d))
    if part.pleats:
        points = np.vstack(part.lines)
        (_, head), (wide, foot) = points.min(0), points.max(0)
        half = wide * (0.45 + 0.55 * np.clip((v - head) / (foot - head), 0, 1))
        fan = np.sin(u / half * part.pleats * 1.6 + e + 0.4 * np.sin(v * 3 + f))
        out = out * 0.4 + 0.1 * fan * np.clip((v - head) * 2 + 0.2, 0, 1)
    shine = np.clip(np.sin(u * 7 + 2 * np.sin(v * 2.3) + a) - 0.55, 0, 1)
    return np.asarray(out + fabric.gloss * 0.5 * shine, np.float32)


def cast_shadow(canvas: Canvas, lines: list[Array], far: float) -> None:
    """Darken the backdrop: a soft shadow thrown `far` pixels, and one close to the garment."""
    sheet = _mask(canvas.grain.shape, lines, 0)
    for distance, radius in ((far, far * 0.75), (2.0, 2.5)):
        canvas.pixels[...] *= 1 - 0.3 * _behind(canvas, _soft(sheet, radius), distance)


def light_up(rng: Rng, canvas: Canvas) -> None:
    """Apply a gradient of light, sometimes sun through a window, a colour cast, and noise."""
    h, w = canvas.grain.shape
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    glow: Array = 1 + np.float32(rng.uniform(0, 0.22)) * (x * canvas.light[0] + y * canvas.light[1])
    glow = glow - np.float32(rng.uniform(0, 0.25)) * (x * x + y * y)
    if chance(rng, 0.1):
        lean, shift, wide = (
            np.float32(n) for n in rng.uniform((-0.8, -0.2, 0.1), (0.8, 0.2, 0.22))
        )
        away = np.abs(x + y * lean - shift)
        glow = glow * (0.86 + 0.24 * np.clip((wide - away) * 22 + 0.5, 0, 1))
    cast = rng.normal(1, 0.05) * (1 + rng.normal(0, 0.025, (3, 1, 1)))
    canvas.pixels[...] *= glow * cast.astype(np.float32)
    canvas.pixels[...] += canvas.grain[::-1, ::-1] * np.float32(rng.uniform(1, 3))
