"""Plots of experiments, with matplotlib, which is imported only here and only when needed.

Colours are Okabe and Ito's, which can be distinguished with any kind of colour blindness. In SVG,
text stays text. Class names are untrusted text and never parsed as mathematics.
"""

from __future__ import annotations

import html
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tailorbird import privacy
from tailorbird.dataset import printable
from tailorbird.experiments.alternatives import NAMES, value_text
from tailorbird.experiments.data import PICTURES
from tailorbird.experiments.learning_curves import LearningCurve
from tailorbird.experiments.learning_rates import RateFinding
from tailorbird.experiments.summaries import curve_lines, rate_lines, sweep_lines, sweep_title
from tailorbird.experiments.sweep_results import Factor, SweepResult
from tailorbird.files import write_bytes
from tailorbird.rendering import fonts
from tailorbird.validation import Problems

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
SHOWN = 20
"""Maximum number of settings of a grid, or of classes, in one plot."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "tailorbird",
    "text.parse_math": False,
}


def draw_sweep(result: SweepResult, path: str | Path) -> None:
    """Plot every fit, the means and the choice, one panel per factor.

    Raises SettingsError, StorageError.
    """
    factors = result.factors
    one = len(factors) == 1 and factors[0].name == "settings"

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(factors), sharey=not one, squeeze=False)[0]
        for panel, factor in zip(axes, factors, strict=True):
            if one:
                _ranking(panel, result, factor)
            else:
                _levels(panel, result, factor)
        if not one:
            axes[0].set_ylabel(_metric_words(result))
            figure.legend(
                *axes[0].get_legend_handles_labels(),
                loc="outside lower center",
                ncols=3,
                frameon=False,
            )

    width = 9.0 if one else max(6.0, 3.6 * len(factors))
    height = 1.6 + 0.28 * min(SHOWN, len(factors[0].settings)) if one else 4.6
    _save(path, draw, (width, height), sweep_title(result), sweep_lines(result))


def _metric_words(result: SweepResult) -> str:
    return (
        "accuracy on photos held out, %"
        if result.metric == "accuracy"
        else "log-loss on photos held out"
    )


def _values(result: SweepResult, number: int) -> list[float]:
    good = [fit for fit in result.fits if fit.setting == number and fit.failure is None]
    return [100 * fit.accuracy if result.metric == "accuracy" else fit.log_loss for fit in good]


def _levels(axes: Axes, result: SweepResult, factor: Factor) -> None:
    values = [_values(result, number) for number in factor.settings]
    jitter = np.random.default_rng(0)
    for place, column in enumerate(values):
        axes.plot(
            place + jitter.uniform(-0.12, 0.12, len(column)),
            column,
            "o",
            color=GREY,
            ms=3.5,
            alpha=0.7,
            mew=0,
        )
    means = [float(np.mean(column)) if column else math.nan for column in values]
    axes.plot(range(len(means)), means, "-", color=BLUE, lw=1.5)
    chosen = factor.settings.index(factor.chosen)
    same = [
        place
        for place, number in enumerate(factor.settings)
        if (found := result.comparison(factor.chosen, number)) is not None
        and not found.distinguishable
    ]
    worse = [place for place in range(len(means)) if place != chosen and place not in same]
    for places, marker, fill, size, colour, label in (
        ([chosen], "D", "full", 9, VERMILION, "chosen"),
        (same, "o", "full", 8, BLUE, "not significantly different"),
        (worse, "o", "none", 8, BLUE, "significantly different"),
    ):
        heights = [means[place] for place in places]
        axes.plot(
            places, heights, marker, color=colour, ms=size, fillstyle=fill, mew=1.5, label=label
        )
    settings = [result.setting(number).settings for number in factor.settings]
    axes.set_xticks(
        range(len(settings)), [value_text(factor.name, getattr(s, factor.name)) for s in settings]
    )
    axes.set_xlim(-0.5, len(settings) - 0.5)
    axes.set_xlabel(
        NAMES.get(factor.name, factor.name) + (" layers" if factor.name == "inner" else "")
    )


def _ranking(axes: Axes, result: SweepResult, factor: Factor) -> None:
    ranked = [score for score in result.settings if not score.pruned and not score.failed][:SHOWN]
    for place, score in enumerate(ranked):
        values = _values(result, score.number)
        comparison = result.comparison(factor.chosen, score.number)
        same = score.number == factor.chosen or (
            comparison is not None and not comparison.distinguishable
        )
        axes.plot(values, [place] * len(values), "o", color=GREY, ms=3.5, alpha=0.7, mew=0)
        marker = "D" if score.number == factor.chosen else "o"
        colour = VERMILION if score.number == factor.chosen else BLUE
        axes.plot(
            [np.mean(values)],
            [place],
            marker,
            color=colour,
            ms=8,
            fillstyle="full" if same else "none",
        )
    axes.set_yticks(range(len(ranked)), [score.name for score in ranked])
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_xlabel(_metric_words(result) + "; hollow: significantly worse than the best")


def draw_rates(result: RateFinding, path: str | Path) -> None:
    """Plot loss against learning rate. Raises SettingsError, StorageError."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rates, losses, spread = map(np.array, (result.rates, result.losses, result.spread))
        axes.fill_between(
            rates,
            losses - spread,
            losses + spread,
            color=BLUE,
            alpha=0.2,
            lw=0,
            label="spread over seeds",
        )
        axes.plot(
            rates, losses, color=BLUE, lw=2, label=f"smoothed training loss, mean of {result.seeds}"
        )
        axes.axvline(
            result.suggestion, color=VERMILION, lw=2, label=f"suggested: {result.suggestion:g}"
        )
        axes.axvline(
            result.lowest_loss,
            color=GREY,
            lw=1.2,
            ls="--",
            label=f"lowest loss: {result.lowest_loss:.2g}",
        )
        axes.axvline(
            result.steepest,
            color=GREY,
            lw=1.2,
            ls=":",
            label=f"steepest fall: {result.steepest:.2g}",
        )
        axes.set_xscale("log")
        axes.set_ylim(0, min(1.15 * max(losses), 2 * losses[0]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, nats")
        axes.legend(frameon=False, fontsize=9)

    _save(path, draw, (7.5, 4.4), rate_lines(result)[0], rate_lines(result))


def draw_curve(result: LearningCurve, path: str | Path) -> None:
    """Plot accuracy against photos, and what each class's photos are worth.

    Raises SettingsError, StorageError.
    """
    classes = result.classes[:SHOWN]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(
            1, 2 if classes else 1, squeeze=False, width_ratios=[1.25, 1] if classes else None
        )[0]
        _curve(panels[0], result)
        if classes:
            _worth(panels[1], result)

    height = max(4.4, 1.6 + 0.28 * len(classes))
    _save(
        path, draw, (11.0 if classes else 7.5, height), curve_lines(result)[0], curve_lines(result)
    )


def _curve(axes: Axes, result: LearningCurve) -> None:
    sizes = [point.photos for point in result.points]
    for row in result.runs:
        axes.plot(sizes, 100 * row, "o", color=GREY, ms=3, alpha=0.6, mew=0)
    axes.plot(
        sizes,
        [100 * point.accuracy for point in result.points],
        "o-",
        color=BLUE,
        ms=6,
        lw=1.5,
        label="mean of the runs",
    )
    if len(result.band_photos):
        refused = result.extrapolation.refused is not None
        low, middle, high = 100 * result.band
        axes.fill_between(result.band_photos, low, high, color=ORANGE, alpha=0.2, lw=0)
        label = (
            "power law (does not fit, not extrapolated)"
            if refused
            else "power law, to twice the photos, 95% band"
        )
        axes.plot(result.band_photos, middle, "--", color=VERMILION, lw=1.5, label=label)
    axes.set_xscale("log")
    axes.set_xticks(sizes[::2] + ([2 * sizes[-1]] if not result.extrapolation.refused else []))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel("training photos (logarithmic)")
    axes.set_ylabel("accuracy on photos held out, %")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _worth(axes: Axes, result: LearningCurve) -> None:
    classes = result.classes[:SHOWN]
    for place, gain in enumerate(classes):
        colour = GREY if gain.noise else BLUE
        low, high = gain.interval
        axes.plot([100 * low, 100 * high], [place, place], color=colour, lw=2)
        axes.plot(
            [100 * gain.cost],
            [place],
            "o",
            color=colour,
            ms=7,
            fillstyle="none" if gain.noise else "full",
        )
    axes.axvline(0, color="black", lw=0.8)
    names = [f"{_short(gain.label)} ({gain.photos:,})" for gain in classes]
    axes.set_yticks(range(len(classes)), names)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlabel(
        "points of balanced accuracy lost with only a quarter\nof the class's photos (in "
        "brackets); hollow grey: may be chance"
    )


def _short(label: str, most: int = 28) -> str:
    label = printable(label)
    return label if len(label) <= most else label[: most - 1] + "…"


def _save(
    path: str | Path,
    draw: Callable[[Any], None],
    size: tuple[float, float],
    title: str,
    lines: Sequence[str],
) -> None:
    """Draw and write the plot, or a page with the plot and the findings as text."""
    path = Path(path)
    with Problems() as problems:
        problems.ending("picture", path, *PICTURES)
    with _styled() as figure_class:
        figure = figure_class(figsize=size, layout="constrained")
        draw(figure)
        wrapped = textwrap.wrap(printable(title), max(40, int(size[0] * 9.4)))
        figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize=12, fontweight="bold")
        if path.suffix.lower() == ".png":  # in an SVG the viewer's own fonts draw the text
            fonts.use_in_figure(figure)
        buffer = io.BytesIO()
        kind = "png" if path.suffix.lower() == ".png" else "svg"
        # Without a date the same result gives the same bytes.
        figure.savefig(
            buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None
        )
    data = buffer.getvalue()
    if path.suffix.lower() == ".html":
        data = _page(title, lines, data.decode()).encode()
    write_bytes(path, data)


@contextmanager
def _styled() -> Iterator[type[Figure]]:
    privacy.redirect_files("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # `fonts.use_in_figure` reports them for a PNG; in an SVG the viewer's fonts have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield Figure


def _page(title: str, lines: Sequence[str], svg: str) -> str:
    picture = svg[svg.index("<svg") :]
    items = "".join(f"<li>{html.escape(printable(line))}</li>" for line in lines)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(printable(title))}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;"
        "padding:0 1rem;color:#222}"
        "svg{max-width:100%;height:auto}</style></head>"
        f"<body>{picture}<ul>{items}</ul></body></html>\n"
    )
