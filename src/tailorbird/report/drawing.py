"""Charts as inline SVG that takes its colours and its font from the page.

Importing a plotting library and drawing five charts with it would take longer than everything else
a report needs. Lengths are in points, the SVG's units; y grows downward as in SVG.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Final

# CSS variables of the page.
INK, MUTED, GRID, BLUE, ORANGE, FILL = "ink", "muted", "line", "blue", "orange", "fill"

WIDTH: Final = 352.8
"""Width of every chart: about a phone's screen, so that text is not scaled down."""

SMALL: Final = 8.5
"""Font size of annotations."""

_NORMAL: Final = 9.5
_TITLE: Final = 10.5
_DASHES: Final = {"": "", "--": "6.5 2.8", ":": "1 1.7"}

Range = tuple[float, float]


def padded(values: Sequence[float], share: float = 0.05) -> Range:
    """Return the range of some values, wider by a share of it at both ends; never empty."""
    low, high = min(values), max(values)
    wider = share * (high - low) or 0.05 * abs(low) or 0.05
    return low - wider, high + wider


def ticks(limits: Range, most: int = 6, *, whole: bool = False) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, at most `most` intervals apart."""
    low, high = limits
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    factor = next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most)
    step = max(1.0, factor * step) if whole else factor * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def percent(share: float) -> str:
    """Return a share as the label of a tick."""
    return f"{100 * share:.6g}%"


def number(value: float) -> str:
    """Return a value as the label of a tick."""
    return f"{value:.6g}"


class Axes:
    """A rectangle of a chart with the ranges of its data, and what was drawn on it."""

    def __init__(
        self,
        height: float,
        x: Range,
        y: Range,
        *,
        left: float = 47.5,
        right: float = 11.5,
        top: float = 21.6,
        bottom: float = 34.6,
    ) -> None:
        """Place the rectangle in a chart of `height`, at these distances from the chart's edges.

        x, y: what the left and right, the bottom and top edges stand for.
        """
        self.left, self.right = left, WIDTH - right
        self.top, self.bottom = top, height - bottom
        self._x, self._y = x, y
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        """Return the horizontal place of a value."""
        low, high = self._x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        low, high = self._y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str,
        width: float = 1.8,
        *,
        dashes: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw a line through points. dashes: "", "--" or ":"."""
        places = " ".join(f"{self.x(x):.2f},{self.y(y):.2f}" for x, y in zip(xs, ys, strict=True))
        self._path(f'<polyline points="{places}"', colour, width, dashes, opacity)

    def across(self, y: float, colour: str, width: float, *, dashes: str = "") -> None:
        """Draw a horizontal line over the whole width."""
        self.line(self._x, (y, y), colour, width, dashes=dashes)

    def down(self, x: float, colour: str, width: float, *, dashes: str = "") -> None:
        """Draw a vertical line over the whole height."""
        self.line((x, x), self._y, colour, width, dashes=dashes)

    def dot(
        self, x: float, y: float, colour: str, radius: float = 3.0, *, hollow: bool = False
    ) -> None:
        """Draw a circle, filled or as a ring."""
        fill = "none" if hollow else f"var(--{colour})"
        ring = f";stroke:var(--{colour});stroke-width:1.5" if hollow else ""
        self.parts.append(
            f'<circle cx="{self.x(x):.2f}" cy="{self.y(y):.2f}" r="{radius:.2f}" '
            f'style="fill:{fill}{ring}"/>'
        )

    def diamond(self, x: float, y: float, colour: str, radius: float = 5.0) -> None:
        """Draw a filled square on its corner."""
        at, height = self.x(x), self.y(y)
        self.parts.append(
            f'<path d="M{at - radius:.2f} {height:.2f}l{radius} {-radius} {radius} {radius} '
            f'{-radius} {radius}z" style="fill:var(--{colour})"/>'
        )

    def bar(self, x: float, y: float, width: float, colour: str) -> None:
        """Draw a column from the lower edge to `y`; `width` is in units of x."""
        left, right, top = self.x(x - width / 2), self.x(x + width / 2), self.y(y)
        self.parts.append(
            f'<rect x="{left:.2f}" y="{top:.2f}" width="{right - left:.2f}" '
            f'height="{self.bottom - top:.2f}" style="fill:var(--{colour})"/>'
        )

    def text(
        self,
        place: tuple[float, float],
        text: str,
        colour: str = INK,
        *,
        size: float = SMALL,
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        """Write one line, its baseline at a place in points. anchor: start, middle or end."""
        x, y = place
        turn = f' transform="rotate(-90 {x:.2f} {y:.2f})"' if turned else ""
        self.parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{turn} '
            f'style="font:{size}px var(--sans);fill:var(--{colour})">{html.escape(text)}</text>'
        )

    def x_ticks(
        self, places: Sequence[float], label: Callable[[float], str], *, grid: bool = True
    ) -> None:
        """Draw ticks with labels below the rectangle, and grid lines through it."""
        for value in places:
            x = self.x(value)
            if grid:
                self.down(value, GRID, 0.8)
            self._path(f'<path d="M{x:.2f} {self.bottom:.2f}v3.5"', MUTED, 0.8)
            self.text((x, self.bottom + 13.5), label(value), MUTED, size=_NORMAL, anchor="middle")

    def y_ticks(self, places: Sequence[float], label: Callable[[float], str]) -> None:
        """Draw ticks with labels left of the rectangle, and grid lines through it."""
        for value in places:
            y = self.y(value)
            self.across(value, GRID, 0.8)
            self._path(f'<path d="M{self.left:.2f} {y:.2f}h-3.5"', MUTED, 0.8)
            self.text((self.left - 7, y + 3.4), label(value), MUTED, size=_NORMAL, anchor="end")

    def frame(self, *, title: str = "", x: str = "", y: str = "", left: bool = True) -> None:
        """Draw the lower and the left edge, the title, and the names of x and y."""
        edge = f'<path d="M{self.right:.2f} {self.bottom:.2f}H{self.left:.2f}'
        self._path(edge + (f'V{self.top:.2f}"' if left else '"'), MUTED, 0.8)
        if title:
            self.text((self.left, 15), title, size=_TITLE)
        if x:
            middle = (self.left + self.right) / 2
            self.text((middle, self.bottom + 29), x, MUTED, size=_NORMAL, anchor="middle")
        if y:
            middle = (self.top + self.bottom) / 2
            self.text((11, middle), y, MUTED, size=_NORMAL, anchor="middle", turned=True)

    def legend(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """Draw a legend beside the title: text, colour and dashes of each line."""
        end = self.right
        for text, colour, dashes in reversed(entries):
            self.text((end, 15), text, size=SMALL, anchor="end")
            end -= 4.6 * len(text) + 4
            self._path(f'<path d="M{end - 20:.2f} 12h20"', colour, 1.8, dashes)
            end -= 32

    def _path(
        self, start: str, colour: str, width: float, dashes: str = "", opacity: float = 1.0
    ) -> None:
        dash = f";stroke-dasharray:{_DASHES[dashes]}" if dashes else ""
        pale = f";opacity:{opacity}" if opacity < 1 else ""
        style = f"fill:none;stroke:var(--{colour});stroke-width:{width:g}{dash}{pale}"
        self.parts.append(f'{start} style="{style}"/>')


def svg(title: str, height: float, *axes: Axes) -> str:
    """Return a chart as an inline <svg>; `title` is read to those who cannot see it."""
    parts = "\n".join(part for one in axes for part in one.parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html.escape(title)}" '
        f'stroke-linejoin="round">\n{parts}\n</svg>'
    )
