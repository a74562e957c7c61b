"""The report's charts: matplotlib draws them as SVG, and their colours become the page's, light or dark.

What is drawn here are numbers and words of our own; names of classes and files stay in the page's HTML. Should one come this way
all the same, matplotlib is told to take no text for a formula.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tailorbird import privacy
from tailorbird.report import tuning

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# What matplotlib draws with, and the page's variable each becomes. No chart uses these values for anything else.
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
_WIDTH: Final = 4.9
"""Inches of every chart: at 72 points each about a phone's width, so that text keeps its size there."""

TRIALS: Final = 40
"""Configurations drawn at most, the best first."""


def charts(numbers: dict[str, Any]) -> dict[str, str]:
    """Every chart there are numbers for, by name (loss, accuracy, trials, reliability, coverage), as SVG elements."""
    with _matplotlib():
        found: dict[str, str] = {}
        if numbers["search"]:
            members = numbers["search"]["members"]
            found["loss"] = _svg(_curve(members, "loss", "Log-loss"), "loss", "Log-loss by epoch")
            found["accuracy"] = _svg(
                _curve(members, "accuracy", "Accuracy"), "accuracy", "Accuracy by epoch"
            )
            if len(numbers["search"]["trials"]) > 1:
                found["trials"] = _svg(
                    _trials(numbers["search"]["trials"]), "trials", "Configurations tried"
                )
        if numbers["tuning"]:
            found["tuning_loss"] = _svg(
                tuning.draw(numbers["tuning"], "loss", "Log-loss"), "tl", "Log-loss by epoch"
            )
            drawn = tuning.draw(numbers["tuning"], "accuracy", "Accuracy")
            found["tuning_accuracy"] = _svg(drawn, "ta", "Accuracy by epoch")
        if numbers["calibration"]:
            found["reliability"] = _svg(
                _reliability(numbers["calibration"]), "reliability", "Reliability diagram"
            )
        if numbers["coverage_curve"]:
            scores = numbers["scores"][numbers["headline"]]
            wanted = numbers["info"]["settings"].get("precision")
            drawn = _coverage(
                numbers["coverage_curve"], scores, wanted if isinstance(wanted, float) else None
            )
            found["coverage"] = _svg(drawn, "coverage", "Accuracy by coverage")
        return found


@contextmanager
def _matplotlib() -> Iterator[None]:
    """matplotlib in our style, and only its errors told: where it keeps its list of fonts is nobody's concern who wants a model."""
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
    """A figure of `height` inches and its axes, `left` and `right` inches from its edges.

    The margins are given because matplotlib's automatic layouts draw everything twice, half of what a chart costs.
    """
    from matplotlib.figure import Figure

    figure = Figure((_WIDTH, height), facecolor="none")
    edges = {
        "left": left / _WIDTH,
        "right": 1 - right / _WIDTH,
        "bottom": 0.48 / height,
        "top": 1 - 0.3 / height,
    }
    return figure, figure.subplots(
        gridspec_kw={**edges, **options.pop("gridspec_kw", {})}, **options
    )


def _svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an inline <svg> whose ids no other chart has and whose colours are the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # The page's own font: matplotlib says so in one style or, in older versions, in the other.
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


def _curve(members: Sequence[dict[str, Any]], what: str, title: str) -> Figure:
    """Training against validation for the best head; the validation curves of the heads averaged with it are thin."""
    figure, axes = blank(2.9)
    best = members[0]
    for other in members[1:]:
        epochs = [epoch["epoch"] for epoch in other["history"]]
        axes.plot(
            epochs,
            [epoch[f"validation_{what}"] for epoch in other["history"]],
            color=BLUE,
            lw=0.8,
            alpha=0.45,
        )
    epochs = [epoch["epoch"] for epoch in best["history"]]
    validation = [epoch[f"validation_{what}"] for epoch in best["history"]]
    axes.plot(
        epochs,
        [epoch[what] for epoch in best["history"]],
        color=ORANGE,
        ls=(0, (4, 1.6)),
        label="training",
    )
    axes.plot(epochs, validation, color=BLUE, label="validation")
    at = best["best_epoch"]
    axes.axvline(at, color=MUTED, lw=0.9, ls=":")
    axes.plot([at], [validation[at - 1]], "o", color=BLUE, ms=6)
    near_end = at > 0.6 * epochs[-1]
    # Losses fall and accuracies rise: the free corner is above or below.
    height, offset = (1.0, -9) if what == "loss" else (0.0, 4)
    axes.annotate(
        f"best: epoch {at}", (at, height), xycoords=("data", "axes fraction"), xytext=(-4 if near_end else 4, offset),
        textcoords="offset points", ha="right" if near_end else "left", fontsize=8.5, color=INK,
    )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("epoch")
    if what == "accuracy":
        percents(axes.yaxis)
    axes.set_xlim(
        0.5, max(epoch["epoch"] for member in members for epoch in member["history"]) + 0.5
    )
    ticks(axes.xaxis, whole=True)
    axes.legend(loc="center right", fontsize=8.5)
    return figure


def _trials(trials: Sequence[dict[str, Any]]) -> Figure:
    """One row for each configuration, the best on top: its settings, validation log-loss as a dot, accuracy in words."""
    done = [trial for trial in trials if trial["validation_loss"] is not None][:TRIALS]
    names = [settings_in_short(trial["settings"]) for trial in done]
    left = min(0.15 + 0.062 * max(map(len, names)), 0.68 * _WIDTH)
    figure, axes = blank(0.85 + 0.27 * len(done), left=left, right=0.6)
    losses = [trial["validation_loss"] for trial in done]
    rows = range(len(done))
    axes.hlines(rows, min(losses), losses, color=GRID, lw=3)
    for row, trial in zip(rows, done, strict=True):
        face = BLUE if trial["chosen"] else "none"
        axes.plot([trial["validation_loss"]], [row], "o", ms=7, mfc=face, mec=BLUE, mew=1.5)
        axes.annotate(
            f"{trial['validation_accuracy']:.1%}", (1.0, row), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.set_yticks(list(rows), names, fontsize=8.5, color=INK)
    axes.set_ylim(len(done) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    ticks(axes.xaxis, most=5 if left < 2.5 else 3)
    axes.set_xlabel("validation log-loss: less is better")
    axes.annotate("accuracy", (1.0, 1.0), xycoords="axes fraction", xytext=(36, 4), textcoords="offset points",
                  ha="right", fontsize=8.5, color=MUTED)  # fmt: skip
    return figure


def settings_in_short(settings: dict[str, Any]) -> str:
    """The searched settings of a head in a few words."""
    inner = "+".join(map(str, settings["inner"])) or "none"
    views = f", {settings['views']} views" if settings["views"] > 1 else ""
    return f"inner {inner}, drop {settings['dropout']:g}, rate {settings['learning_rate']:g}, L2 {settings['l2']:g}{views}"


def _reliability(bins: Sequence[dict[str, Any]]) -> Figure:
    """How often answers are right against how sure they are, above the counts they rest on."""
    figure, (axes, counts) = blank(
        3.9, nrows=2, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.1}
    )
    full = [one for one in bins if one["n"]]
    width = bins[0]["high"]
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    x = [one["confidence"] for one in full]
    y = [one["accuracy"] for one in full]
    spread = [
        [max(0.0, value - one["interval"][0]) for value, one in zip(y, full, strict=True)],
        [max(0.0, one["interval"][1] - value) for value, one in zip(y, full, strict=True)],
    ]
    axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=BLUE, elinewidth=1, alpha=0.55)
    most = max(one["n"] for one in full)
    axes.scatter(
        x, y, s=[14 + 70 * one["n"] / most for one in full], color=BLUE, zorder=3, clip_on=False
    )
    axes.set_title("How often it is right when it is this sure")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, 1)
    axes.set_ylabel("right")
    percents(axes.yaxis)
    middles = [(one["low"] + one["high"]) / 2 for one in bins]
    counts.bar(middles, [one["n"] for one in bins], width=width * 0.86, color=FILL)
    for middle, one in zip(middles, bins, strict=True):
        if one["n"]:
            counts.annotate(f"{one['n']}", (middle, one["n"]), xytext=(0, 1.5), textcoords="offset points", ha="center",
                            fontsize=7.5, color=MUTED)  # fmt: skip
    counts.margins(y=0.28)
    counts.set_ylabel("photos")
    counts.set_xlabel("probability of the answer")
    counts.grid(visible=False)
    counts.set_yticks([])
    percents(counts.xaxis)
    return figure


def _coverage(
    curve: Sequence[dict[str, float]], scores: dict[str, Any], wanted: float | None
) -> Figure:
    """Accuracy of the answers given when only the surest share is answered; the model's own threshold is marked."""
    figure, axes = blank(3.1)
    x, y = [point["coverage"] for point in curve], [point["accuracy"] for point in curve]
    axes.plot(
        x, y, color=BLUE, drawstyle="steps-post" if len(curve) < 40 else "default", clip_on=False
    )
    low = min(*y, scores["accuracy"])
    bottom = max(0.0, low - 0.35 * (1 - low) - 0.02)
    if wanted is not None and wanted > bottom:
        axes.axhline(wanted, color=MUTED, lw=1, ls="--")
        axes.annotate(f"wanted: {wanted:.0%}", (0.0, wanted), xytext=(3, -10), textcoords="offset points", fontsize=8.5,
                      color=MUTED)  # fmt: skip
    if scores["sure_accuracy"] is not None:
        at, right = scores["coverage"], scores["sure_accuracy"]
        axes.vlines([at], bottom, right, color=ORANGE, lw=1, ls=":")
        axes.plot([at], [right], "D", color=ORANGE, ms=7, zorder=3)
        left = at > 0.45
        axes.annotate(
            f"threshold {scores['threshold']:.2f}: answers {at:.0%},\n{right:.1%} of them right", (at, bottom),
            xytext=(-7 if left else 7, 8), textcoords="offset points", ha="right" if left else "left", fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.set_title("If only the surest are answered")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom, 1.0 + 0.03 * (1 - bottom))
    axes.set_xlabel("share of photos answered")
    axes.set_ylabel("right")
    percents(axes.xaxis)
    percents(axes.yaxis)
    return figure


def percents(axis: Axis) -> None:
    """Shares as percents."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    ticks(axis)


def ticks(axis: Axis, *, most: int = 6, whole: bool = False) -> None:
    """At most about `most` ticks, at round numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(
        MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1 if whole else 2)
    )
