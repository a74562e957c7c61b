"""A picture of one garment: its cut, cloth, pose, surroundings and light are drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tailorbird.demo import accessories, bottoms, tops
from tailorbird.demo.materials import FABRICS, Cloth, backdrop, cloth, dye, grain, rgb, solid
from tailorbird.demo.outline import Array, Garment, Part, Rng, chance, closed, curve, turned
from tailorbird.demo.scene import Canvas, Place, cast_shadow, clutter, light_up, paint
from tailorbird.errors import SettingsError

_CUTS: dict[str, Callable[[Rng], Garment]] = {
    "dress": bottoms.dress,
    "hat": accessories.hat,
    "longsleeve": tops.longsleeve,
    "outwear": tops.outwear,
    "pants": bottoms.pants,
    "shirt": tops.shirt,
    "shoes": accessories.shoes,
    "shorts": bottoms.shorts,
    "skirt": bottoms.skirt,
    "t-shirt": tops.tshirt,
}
CLASSES: tuple[str, ...] = tuple(_CUTS)


@dataclass(frozen=True)
class Drawing:
    """What was drawn, and where: `box` is left, top, right, bottom of the garment in pixels, right and bottom excluded."""

    image: Image.Image
    label: str
    box: tuple[int, int, int, int]


def _paints(rng: Rng, kind: str, base: Array) -> dict[str, Cloth]:
    """The cloth and every lesser paint of one garment."""
    other, accent = (
        max((dye(rng) for _ in range(3)), key=lambda c: float(np.abs(c - base).sum()))
        for _ in range(2)
    )
    fabric = cloth(rng, kind, base, other)
    ground = (
        fabric.colour(*(np.zeros((1, 1), np.float32),) * 3)
        if kind in ("denim", "wash", "straw")
        else base
    )
    trim = (
        ground * rng.uniform(0.72, 0.95)
        if chance(rng, 0.65)
        else (ground * 0.6 + 100 if chance(rng, 0.5) else other)
    )
    thread = (
        rgb("d9a441")
        if kind in ("denim", "wash")
        else (rgb("f2efe6") if chance(rng, 0.6) else accent)
    )
    colours = {
        "trim": trim,
        "lining": ground * 0.42 + 8,
        "accent": accent,
        "stitch": thread,
        "sole": rgb("eeeae0"),
        "metal": rgb("b9b3a2"),
        "wood": rgb("b07a48"),
    }
    return {
        "cloth": fabric,
        **{name: solid(np.asarray(c, np.float32)) for name, c in colours.items()},
    }


def _pose(
    rng: Rng, parts: Sequence[Part], size: tuple[int, int], *, hung: bool, stands: bool
) -> Place:
    """Turn, stretch and move the garment so that it fills much of the picture (width, height)."""
    turn = rng.normal(0, 0.05 if hung or stands else 0.075)
    stretch = np.diag(rng.uniform(0.93, 1.07, 2)) @ np.array([[1, 0], [rng.normal(0, 0.05), 1]])
    matrix = stretch @ turned(turn)
    every = np.vstack([line for part in parts for line in part.lines]) @ matrix
    lo, hi = every.min(0), every.max(0)
    fill = rng.uniform(0.98, 1.15) if chance(rng, 0.04) else rng.uniform(0.85, 0.96)
    scale = fill * float(np.min(np.array(size) / (hi - lo)))
    spare = np.abs(np.array(size) - (hi - lo) * scale)
    middle = np.array(size) / 2 + rng.uniform(-0.35, 0.35, 2) * spare
    if stands:
        middle[1] += 0.2 * spare[1]
    wobble = np.array([rng.uniform(0.004, 0.016), *rng.uniform(0, 6.3, 2), rng.uniform(2.5, 5.0)])
    return Place(matrix * scale, middle - (lo + hi) / 2 * scale, wobble)


def _hanger(rng: Rng, half: float) -> list[Part]:
    """A coat hanger for shoulders, or a clip hanger where `half` is below zero."""
    steel = str(rng.choice(["metal", "wood", "lining"]))
    hook = curve(
        (0, -0.12), (0, -0.24, -0.3), (0.09, -0.3, -0.5), (0.0, -0.4, -0.4), (-0.05, -0.33)
    )
    if half > 0:
        bar = curve((-half * 0.9, 0.16, 0.04), (0, -0.06, 0.04), (half * 0.9, 0.16))
        return [
            Part((hook,), "metal", width=0.025, lift=0.3),
            Part((bar,), steel, width=0.055, lift=0.4),
        ]
    clips = tuple(
        closed((x - 0.04, -0.12), (x + 0.04, -0.12), (x + 0.03, 0.05), (x - 0.03, 0.05))
        for x in (half * 0.8, -half * 0.8)
    )
    return [
        Part((hook,), "metal", width=0.025, lift=0.3),
        Part((curve((half, -0.12), (-half, -0.12)),), steel, width=0.04, lift=0.4),
        Part(clips, "metal", lift=0.4),
    ]


def draw(label: str, seed: int, *, size: tuple[int, int] | None = None) -> Drawing:
    """One garment of the class `label`; the same picture for the same seed (0 or more).

    `size` is (width, height) in pixels, each 64 to 1024; without it the garment chooses, about 256 x 300.
    """
    if label not in _CUTS:
        raise SettingsError(f"label is {label!r}; it must be one of {', '.join(CLASSES)}")
    if seed < 0:
        raise SettingsError(f"seed is {seed}; it must be a whole number of 0 or more")
    if size and not all(64 <= n <= 1024 for n in size):
        raise SettingsError(
            f"size is {size[0]} x {size[1]} pixels; width and height must each be 64 to 1024"
        )
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    garment = _CUTS[label](rng)
    extent = np.ptp(np.vstack([line for part in garment.parts for line in part.lines]), axis=0)
    frames = (
        [(256, 320), (240, 300), (224, 280)]
        if extent[1] > extent[0]
        else [(256, 256), (264, 240), (288, 256)]
    )
    width, height = size or frames[int(rng.integers(3))]
    hung = bool(garment.hang) and chance(rng, 0.36)
    upright = hung or (garment.stands and chance(rng, 0.3 if label == "hat" else 0.85))
    parts = (*(_hanger(rng, garment.hang) if hung else ()), *garment.parts)
    place = _pose(rng, parts, (width, height), hung=hung, stands=garment.stands)
    lines = [[place.pixels(line) for line in part.lines] for part in parts]
    solids = [
        group if part.lift and not part.width else []
        for part, group in zip(parts, lines, strict=True)
    ]
    own = np.vstack([line for group in solids[-len(garment.parts) :] for line in group])
    base = dye(rng, label)
    kinds = (garment.fabrics or FABRICS[label]).split()
    paints = _paints(rng, kinds[int(rng.integers(len(kinds)))], base)
    horizon = None
    if garment.stands and upright:
        horizon = int(own[:, 1].max() - rng.uniform(0.06, 0.3) * height)
    elif hung and chance(rng, 0.4):
        horizon = int(height * rng.uniform(0.72, 0.92))
    towards = rng.normal(-2.1, 0.5)  # mostly from the upper left
    canvas = Canvas(
        pixels=backdrop(rng, (height, width), base, horizon=horizon, upright=upright).astype(
            np.float32, copy=False
        ),
        cover=np.zeros((height, width), np.float32),
        grain=grain(rng, (height, width)),
        light=np.array([np.cos(towards), np.sin(towards)], np.float32),
        phases=rng.uniform(0, 6.3, 6).astype(np.float32),
        depth=float(rng.uniform(0.75, 1.2)),
    )
    if chance(rng, 0.16):
        clutter(rng, canvas, upright=upright)
        canvas.cover[...] = 0
    cast_shadow(
        canvas,
        [line for group in solids for line in group],
        far=rng.uniform(8, 20) if hung else rng.uniform(4, 9),
    )
    for part, group in zip(parts, lines, strict=True):
        paint(canvas, part, group, place, paints)
    light_up(rng, canvas)
    left, top = (max(0, int(n)) for n in own.min(0))
    right, low = (min(n, int(m) + 1) for n, m in zip((width, height), own.max(0), strict=True))
    planes = np.clip(canvas.pixels, 0, 255).astype(np.uint8)
    return Drawing(
        Image.merge("RGB", [Image.fromarray(plane) for plane in planes]),
        label,
        (left, top, right, low),
    )
