"""Geometry of garments: curves, and the parts that a garment is assembled from.

Garment units: x to the right, y down, the shoulders about 1 apart. An outline is a float array
(N, 2) of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Rng = np.random.Generator
MIRROR = np.array([-1.0, 1.0])  # multiply points by it to flip left and right


@dataclass(frozen=True)
class Part:
    """One piece of a garment: closed outlines, or strokes along lines where `width` is above 0."""

    lines: tuple[Array, ...]  # each (N, 2), garment units
    paint: str = "cloth"  # a key of fabric.paints, or "shade": darken what is beneath by `tone`
    width: float = 0.0  # stroke width, garment units
    lift: float = 0.0  # height above what is beneath: 0 printed, 1 a layer of cloth
    tone: float = 1.0  # brightness factor
    turn: float = 0.0  # angle between the grain of the cloth and straight down, radians
    pleats: float = 0.0  # number of folds that fan out from the top


@dataclass
class Garment:
    """The parts of a garment in painting order, and how it may be posed."""

    parts: list[Part] = field(default_factory=list)
    stands: bool = False  # seen from the side: stands on a floor instead of lying on it
    fabrics: str = ""  # fabrics for this cut, space separated; empty for those of the class

    def add(
        self, *lines: Array, paint: str = "cloth", lift: float = 0.0, tone: float = 1.0
    ) -> None:
        """Add one part of filled outlines on top of the others."""
        self.parts.append(Part(lines, paint, lift=lift, tone=tone))

    def stroke(
        self, *lines: Array, paint: str = "shade", width: float = 0.014, both: bool = False
    ) -> None:
        """Add a stroke along each line, a seam by default; with `both`, mirrored as well."""
        lines = (*lines, *(line * MIRROR for line in lines)) if both else lines
        lift = 0.0 if paint == "shade" or width < 0.02 else 0.4
        self.parts.append(Part(lines, paint, width, lift, tone=0.74))

    def moved(self, side: float, right: float = 0.0, down: float = 0.0) -> list[Part]:
        """Return copies of the parts, mirrored where `side` is -1, and shifted."""
        to = np.array([right, down])
        return [replace(p, lines=tuple(x * (side, 1) + to for x in p.lines)) for p in self.parts]


def curve(*knots: Sequence[float]) -> Array:
    """Return points (N, 2) along knots (x, y) or (x, y, bow).

    The edge to the next knot bulges by bow times its length, outward where the outline runs
    clockwise on screen and bow is positive.
    """
    p = np.array([knot[:2] for knot in knots], float)
    bow = np.array([knot[2] if len(knot) > 2 else 0.0 for knot in knots[:-1]])
    middle = (p[:-1] + p[1:]) / 2 + 2 * bow[:, None] * np.diff(p, axis=0)[:, ::-1] * (1, -1)
    t = np.linspace(0, 1, 9)[:-1, None]  # quadratic Bezier curves, eight points per edge
    points = (1 - t) ** 2 * p[:-1, None] + 2 * t * (1 - t) * middle[:, None] + t**2 * p[1:, None]
    return np.vstack([points.reshape(-1, 2), p[-1:]])


def closed(*knots: Sequence[float]) -> Array:
    """Return the outline through the knots and back to the first."""
    return curve(*knots, knots[0])


def mirrored(*knots: Sequence[float]) -> Array:
    """Return the symmetric outline whose right half, top to bottom, runs through the knots."""
    half = curve(*knots)
    return np.vstack([half, half[::-1] * MIRROR])


def band(wide: float, top: float, low: float, bow: float = 0.03) -> Array:
    """Return a strip of half-width `wide` from `top` to `low`, such as a waistband."""
    return closed((-wide, top, -bow), (wide, top), (wide + 0.015, low, bow), (-wide - 0.015, low))


def box(x: float, y: float, wide: float, high: float) -> Array:
    """Return a rectangle centred on x whose upper edge is at y."""
    half = wide / 2
    return closed((x - half, y), (x + half, y), (x + half, y + high), (x - half, y + high))


def oval(x: float, y: float, rx: float, ry: float) -> Array:
    """Return an ellipse around (x, y) with radii rx, ry."""
    t = np.linspace(0, 2 * np.pi, 25)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def rotation(angle: float) -> Array:
    """Return the matrix (2, 2) that turns points @ matrix by radians, clockwise on screen."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def chance(rng: Rng, odds: float) -> bool:
    """Return True with probability `odds`."""
    return bool(rng.random() < odds)
