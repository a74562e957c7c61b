"""Draw one picture of a garment: cut, fabric, surroundings, light and camera follow from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from tailorbird.demo.fabric import backdrop, paints
from tailorbird.demo.garments import CUTS
from tailorbird.demo.outline import Garment, Part, Rng, chance, rotation
from tailorbird.demo.painting import Canvas, Place, cast_shadow, light_up, paint
from tailorbird.validation import Problems

CLASSES: tuple[str, ...] = tuple(CUTS)


@dataclass(frozen=True)
class Drawing:
    """A picture and the box (left, top, right, bottom) of its garment, in pixels, end excluded."""

    image: Image.Image
    label: str
    box: tuple[int, int, int, int]


def _place(rng: Rng, parts: list[Part], size: tuple[int, int], *, stands: bool) -> Place:
    """Turn, stretch and move the garment so that it fills most of the picture (width, height)."""
    stretch = np.diag(rng.uniform(0.93, 1.07, 2)) @ np.array([[1, 0], [rng.normal(0, 0.05), 1]])
    matrix = stretch @ rotation(rng.normal(0, 0.06 if stands else 0.15))
    points = np.vstack([line for part in parts for line in part.lines]) @ matrix
    low, high = points.min(0), points.max(0)
    scale = rng.uniform(0.76, 0.98) * float(np.min(np.array(size) / (high - low)))
    spare = np.abs(np.array(size) - (high - low) * scale)
    middle = np.array(size) / 2 + rng.uniform(-0.35, 0.35, 2) * spare
    if stands:
        middle[1] += 0.2 * spare[1]
    wobble = np.array([rng.uniform(0.004, 0.016), *rng.uniform(0, 6.3, 2), rng.uniform(2.5, 5.0)])
    return Place(matrix * scale, middle - (low + high) / 2 * scale, wobble)


def draw(label: str, seed: int, *, size: tuple[int, int] | None = None) -> Drawing:
    """Draw one garment of the class `label`; the same seed (0 or more) gives the same picture.

    Args:
        label: One of CLASSES.
        seed: Seed of everything random, 0 or more.
        size: Width and height in pixels, each 64 to 1024; chosen to fit by default.

    Raises:
        SettingsError: A value is out of range.
    """
    with Problems() as problems:
        problems.choice("label", label, CLASSES)
        problems.whole("seed", seed, 0)
        for name, length in zip(("width", "height"), size or (), strict=False):
            problems.whole(name, length, 64, 1024)
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    garment = Garment()
    CUTS[label](rng, garment)
    wide, high = np.ptp(np.vstack([line for part in garment.parts for line in part.lines]), axis=0)
    width, height = size or ((256, 320) if high > wide else (280, 256))
    upright = chance(rng, 0.7) if garment.stands else chance(rng, 0.3)
    place = _place(rng, garment.parts, (width, height), stands=garment.stands)
    pieces = [(part, [place.pixels(line) for line in part.lines]) for part in garment.parts]
    filled = [line for part, lines in pieces if part.lift and not part.width for line in lines]
    own = np.vstack(filled)
    colours = paints(rng, label, garment.fabrics)
    floor = own[:, 1].max() - rng.uniform(0.06, 0.3) * height if garment.stands else height * 0.9
    behind = backdrop(rng, (height, width), colours["cloth"].base, int(floor) if upright else None)
    towards = rng.normal(-2.1, 0.5)  # mostly from the upper left
    canvas = Canvas(
        pixels=behind.astype(np.float32),
        cover=np.zeros((height, width), np.float32),
        grain=rng.standard_normal((height, width), np.float32),
        light=np.array([np.cos(towards), np.sin(towards)], np.float32),
        phases=rng.uniform(0, 6.3, 6).astype(np.float32),
        depth=rng.uniform(0.75, 1.2),
    )
    cast_shadow(canvas, filled, rng.uniform(4, 12))
    for part, lines in pieces:
        paint(canvas, part, lines, place, colours)
    light_up(rng, canvas)
    left, top = (max(0, int(n)) for n in own.min(0))
    right, low = (min(n, int(m) + 1) for n, m in zip((width, height), own.max(0), strict=True))
    return Drawing(_photographed(rng, canvas.pixels), label, (left, top, right, low))


def _photographed(rng: Rng, pixels: np.ndarray) -> Image.Image:
    """Return the scene (3, H, W) as a phone sees it: out of focus, dark or pale, with noise."""
    planes = [Image.fromarray(plane) for plane in np.clip(pixels, 0, 255).astype(np.uint8)]
    focus = ImageFilter.GaussianBlur(rng.uniform(0, 2.2))
    seen = np.asarray(Image.merge("RGB", planes).filter(focus), np.float32) / 255
    seen = seen ** np.float32(np.exp(rng.normal(0, 0.4)))
    seen = seen * np.float32(rng.uniform(0.4, 1)) + np.float32(rng.uniform(0, 0.2))
    seen += np.float32(rng.uniform(0, 0.1)) * rng.standard_normal(seen.shape, np.float32)
    return Image.fromarray((np.clip(seen, 0, 1) * 255).astype(np.uint8))
