"""Outlines: the curves and pieces that garments are cut from.

Garment units: x to the right, y down, the shoulders about 1 apart. An outline is a float array (N, 2) of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Rng = np.random.Generator


@dataclass(frozen=True)
class Part:
    """One piece of a garment: closed outlines, or strokes along lines when `width` is above zero."""

    lines: tuple[Array, ...]  # each (N, 2), garment units
    paint: str = "cloth"  # cloth, trim, lining, accent, stitch, sole, metal, wood or shade (darkens what is beneath)
    width: float = 0.0  # stroke width, garment units
    turn: float = (
        0.0  # radians between the grain of the cloth and straight down, anticlockwise on screen
    )
    lift: float = 0.0  # how far it stands out: 0 is printed on what is beneath and ends with it, 1 is a layer of cloth
    tone: float = 1.0  # brightness, 1 leaves the paint as it is
    pleats: tuple[float, float] = (
        0.0,
        1.0,
    )  # folds that fan out: how many, and the width at the top over the bottom


@dataclass(frozen=True)
class Garment:
    """The pieces in painting order, and how the garment may be posed."""

    parts: tuple[Part, ...]
    hang: float = 0.0  # half-width of the hanger, 0 where none fits
    stands: bool = False  # seen from the side: stands on something rather than lies on it
    fabrics: str = ""  # fabrics that suit this cut more than those of the class, space separated


def curve(*knots: Sequence[float]) -> Array:
    """Points (N, 2) along knots (x, y) or (x, y, bow): the edge to the next knot bulges by bow times its length.

    A positive bow bulges outward when the outline runs clockwise on screen.
    """
    p = np.array([knot[:2] for knot in knots], float)
    bow = np.array([knot[2] if len(knot) > 2 else 0.0 for knot in knots[:-1]])
    step = np.diff(p, axis=0)
    middle = (p[:-1] + p[1:]) / 2 + 2 * bow[:, None] * step[:, ::-1] * (1, -1)
    points = _T[0] * p[:-1, None] + _T[1] * middle[:, None] + _T[2] * p[1:, None]
    return np.vstack([points.reshape(-1, 2), p[-1:]])


_t = np.linspace(0, 1, 9)[:-1, None]
_T = ((1 - _t) ** 2, 2 * _t * (1 - _t), _t**2)  # quadratic Bezier weights, eight points to an edge


def closed(*knots: Sequence[float]) -> Array:
    """The outline through the knots and back to the first."""
    return curve(*knots, knots[0])


def mirrored(*knots: Sequence[float]) -> Array:
    """The outline whose right half, from top centre to bottom centre, runs through the knots."""
    half = curve(*knots)
    return np.vstack([half, half[::-1] * (-1, 1)])


def flipped(part: Array) -> Array:
    """The outline seen in a mirror."""
    return part * (-1, 1)


def turned(angle: float) -> Array:
    """The matrix (2, 2) that turns points, `points @ turned(angle)`, by radians clockwise on screen."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def oval(x: float, y: float, rx: float, ry: float) -> Array:
    """An ellipse around (x, y) with radii rx, ry."""
    t = np.linspace(0, 2 * np.pi, 25)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def chance(rng: Rng, odds: float) -> bool:
    """True with probability `odds`."""
    return bool(rng.random() < odds)
