"""matplotlib figures in the report's style, as inline SVG that takes its colours from the page."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tailorbird import privacy

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The colours matplotlib draws with; each is replaced by a CSS variable of the page.
INK, MUTED, GRID, BLUE, ORANGE, FILL = (
    "#010203",
    "#040506",
    "#070809",
    "#0a0b0c",
    "#0d0e0f",
    "#101112",
)
_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    BLUE: "blue",
    ORANGE: "orange",
    FILL: "fill",
}

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
}
WIDTH: Final = 4.9
"""Width of every chart in inches: about a phone's screen, so that text is not scaled down."""


@contextmanager
def style() -> Iterator[None]:
    """Use the report's style, and hide matplotlib's log messages below errors."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        privacy.redirect_files("matplotlib")
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            yield
    finally:
        log.setLevel(level)


def blank(
    height: float, *, left: float = 0.66, right: float = 0.16, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure of `height` inches and its axes, `left` and `right` inches from its edges.

    The margins are fixed because matplotlib's automatic layouts draw everything twice.
    """
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height), facecolor="none")
    edges = {
        "left": left / WIDTH,
        "right": 1 - right / WIDTH,
        "bottom": 0.48 / height,
        "top": 1 - 0.3 / height,
    }
    return figure, figure.subplots(
        gridspec_kw={**edges, **options.pop("gridspec_kw", {})}, **options
    )


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as an inline <svg> with unique ids and the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # The page's own font; older versions of matplotlib write it in another style property.
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", text)
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{title}">',
        text,
        count=1,
    )
    return text.strip()


def percents(axis: Axis) -> None:
    """Format an axis of shares in percent."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    ticks(axis)


def ticks(axis: Axis, *, most: int = 6, whole: bool = False) -> None:
    """Put at most about `most` ticks at round numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(
        MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1 if whole else 2)
    )
