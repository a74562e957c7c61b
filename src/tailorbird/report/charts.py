"""The report's charts, as SVG.

Charts hold numbers and fixed words; names of classes and files stay in the page's HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tailorbird.report.drawing import (
    BLUE,
    FILL,
    GRID,
    INK,
    MUTED,
    ORANGE,
    WIDTH,
    blank,
    percents,
    style,
    svg,
    ticks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIALS: Final = 40
"""Maximum number of configurations drawn, the best first."""


def charts(numbers: dict[str, Any]) -> dict[str, str]:
    """Return every chart for which there are numbers, {name: SVG element}."""
    with style():
        found: dict[str, str] = {}
        if numbers["search"]:
            members = numbers["search"]["members"]
            found["loss"] = svg(_curve(members, "loss", "Log-loss"), "loss", "Log-loss by epoch")
            found["accuracy"] = svg(
                _curve(members, "accuracy", "Accuracy"), "accuracy", "Accuracy by epoch"
            )
            if len(numbers["search"]["trials"]) > 1:
                found["trials"] = svg(
                    _trials(numbers["search"]["trials"]), "trials", "Configurations tried"
                )
        if numbers["tuning"]:
            found["tuning_loss"] = svg(
                _tuning(numbers["tuning"], "loss", "Log-loss"), "tl", "Log-loss by epoch"
            )
            drawn = _tuning(numbers["tuning"], "accuracy", "Accuracy")
            found["tuning_accuracy"] = svg(drawn, "ta", "Accuracy by epoch")
        if numbers["calibration"]:
            found["reliability"] = svg(
                _reliability(numbers["calibration"]), "reliability", "Reliability diagram"
            )
        if numbers["coverage_curve"]:
            scores = numbers["scores"][numbers["headline"]]
            wanted = numbers["info"]["settings"].get("precision")
            drawn = _coverage(
                numbers["coverage_curve"], scores, wanted if isinstance(wanted, float) else None
            )
            found["coverage"] = svg(drawn, "coverage", "Accuracy by coverage")
        return found


def _curve(members: Sequence[dict[str, Any]], what: str, title: str) -> Figure:
    """Draw training and validation of the best head, and validation of the others as thin lines."""
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
    # Losses fall and accuracies rise, so the text goes to the top or to the bottom.
    height, offset = (1.0, -9) if what == "loss" else (0.0, 4)
    axes.annotate(
        f"best: epoch {at}",
        (at, height),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if near_end else 4, offset),
        textcoords="offset points",
        ha="right" if near_end else "left",
        fontsize=8.5,
        color=INK,
    )
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
    """Draw a row per configuration, best first: settings, validation log-loss, accuracy."""
    done = [trial for trial in trials if trial["validation_loss"] is not None][:TRIALS]
    names = [settings_in_short(trial["settings"]) for trial in done]
    left = min(0.15 + 0.062 * max(map(len, names)), 0.68 * WIDTH)
    figure, axes = blank(0.85 + 0.27 * len(done), left=left, right=0.6)
    losses = [trial["validation_loss"] for trial in done]
    rows = range(len(done))
    axes.hlines(rows, min(losses), losses, color=GRID, lw=3)
    for row, trial in zip(rows, done, strict=True):
        face = BLUE if trial["chosen"] else "none"
        axes.plot([trial["validation_loss"]], [row], "o", ms=7, mfc=face, mec=BLUE, mew=1.5)
        axes.annotate(
            f"{trial['validation_accuracy']:.1%}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(list(rows), names, fontsize=8.5, color=INK)
    axes.set_ylim(len(done) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    ticks(axes.xaxis, most=5 if left < 2.5 else 3)
    axes.set_xlabel("validation log-loss: less is better")
    axes.annotate(
        "accuracy",
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(36, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=MUTED,
    )
    return figure


def settings_in_short(settings: dict[str, Any]) -> str:
    """Return the searched settings of a head in a few words."""
    inner = "+".join(map(str, settings["inner"])) or "none"
    views = f", {settings['views']} views" if settings["views"] > 1 else ""
    return (
        f"inner {inner}, drop {settings['dropout']:g}, rate {settings['learning_rate']:g}, "
        f"L2 {settings['l2']:g}{views}"
    )


def _reliability(bins: Sequence[dict[str, Any]]) -> Figure:
    """Draw accuracy by confidence, above the number of photos in each bin."""
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
    axes.set_title("Accuracy by confidence")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, 1)
    axes.set_ylabel("accuracy")
    percents(axes.yaxis)
    middles = [(one["low"] + one["high"]) / 2 for one in bins]
    counts.bar(middles, [one["n"] for one in bins], width=width * 0.86, color=FILL)
    for middle, one in zip(middles, bins, strict=True):
        if one["n"]:
            counts.annotate(
                f"{one['n']}",
                (middle, one["n"]),
                xytext=(0, 1.5),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=MUTED,
            )
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
    """Draw accuracy by coverage and mark the model's confidence threshold."""
    figure, axes = blank(3.1)
    x, y = [point["coverage"] for point in curve], [point["accuracy"] for point in curve]
    axes.plot(
        x, y, color=BLUE, drawstyle="steps-post" if len(curve) < 40 else "default", clip_on=False
    )
    low = min(*y, scores["accuracy"])
    bottom = max(0.0, low - 0.35 * (1 - low) - 0.02)
    if wanted is not None and wanted > bottom:
        axes.axhline(wanted, color=MUTED, lw=1, ls="--")
        axes.annotate(
            f"target: {wanted:.0%}",
            (0.0, wanted),
            xytext=(3, -10),
            textcoords="offset points",
            fontsize=8.5,
            color=MUTED,
        )
    if scores["sure_accuracy"] is not None:
        at, right = scores["coverage"], scores["sure_accuracy"]
        axes.vlines([at], bottom, right, color=ORANGE, lw=1, ls=":")
        axes.plot([at], [right], "D", color=ORANGE, ms=7, zorder=3)
        left = at > 0.45
        axes.annotate(
            f"threshold {scores['threshold']:.2f}: coverage {at:.0%},\naccuracy {right:.1%}",
            (at, bottom),
            xytext=(-7 if left else 7, 8),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8.5,
            color=INK,
        )
    axes.set_title("Accuracy by coverage")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom, 1.0 + 0.03 * (1 - bottom))
    axes.set_xlabel("coverage: share of photos answered")
    axes.set_ylabel("accuracy")
    percents(axes.xaxis)
    percents(axes.yaxis)
    return figure


def _tuning(found: dict[str, Any], what: str, title: str) -> Figure:
    """Draw training and validation over all stages; what: loss or accuracy.

    The first point is the network before fine-tuning.
    """
    figure, axes = blank(2.9)
    history = found["history"]
    validation = [
        epoch["validation_log_loss" if what == "loss" else "validation_accuracy"]
        for epoch in history
    ]
    places, trained = list(range(len(history))), [epoch[what] for epoch in history]
    shown = [
        (place, value) for place, value in zip(places, trained, strict=True) if value is not None
    ]
    axes.plot(
        [place for place, _ in shown],
        [value for _, value in shown],
        color=ORANGE,
        ls=(0, (4, 1.6)),
        marker=".",
        label="training",
    )
    axes.plot(places, validation, color=BLUE, marker=".", label="validation")
    kept = max((place for place in places if history[place]["best"]), default=0)
    axes.plot([kept], [validation[kept]], "o", color=BLUE, ms=7)
    for place in places:
        if place and (history[place]["stage"], history[place]["size"]) != (
            history[place - 1]["stage"],
            history[place - 1]["size"],
        ):
            axes.axvline(place - 0.5, color=MUTED, lw=0.9, ls=":")
        if place == 0 or history[place]["stage"] != history[place - 1]["stage"]:
            axes.annotate(
                f"{history[place]['size']} px",
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
            )
    axes.set_title(title, pad=14)
    axes.set_xlabel("epochs of all stages")
    if what == "accuracy":
        percents(axes.yaxis)
    ticks(axes.xaxis, whole=True)
    axes.legend(loc="best", fontsize=8.5)
    return figure
