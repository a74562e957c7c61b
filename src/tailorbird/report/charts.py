"""The report's charts, as SVG.

Charts hold numbers and fixed words; names of classes and files stay in the page's HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tailorbird.report.drawing import (
    BLUE,
    FILL,
    GRID,
    MUTED,
    ORANGE,
    WIDTH,
    Axes,
    number,
    padded,
    percent,
    svg,
    ticks,
)

TRIALS: Final = 40
"""Maximum number of configurations drawn, the best first."""

_ROW: Final = 19.5
_LINES: Final = (("training", ORANGE, "--"), ("validation", BLUE, ""))


def charts(numbers: dict[str, Any]) -> dict[str, str]:
    """Return every chart for which there are numbers, {name: SVG element}."""
    found: dict[str, str] = {}
    if search := numbers["search"]:
        found["loss"] = _curve(search["members"], "loss", "Log-loss")
        found["accuracy"] = _curve(search["members"], "accuracy", "Accuracy")
        if len(search["trials"]) > 1:
            found["trials"] = _trials(search["trials"])
    if numbers["tuning"]:
        found["tuning_loss"] = _tuning(numbers["tuning"]["history"], "loss", "Log-loss")
        found["tuning_accuracy"] = _tuning(numbers["tuning"]["history"], "accuracy", "Accuracy")
    if numbers["calibration"]:
        found["reliability"] = _reliability(numbers["calibration"])
    if numbers["coverage_curve"]:
        scores = numbers["scores"][numbers["headline"]]
        wanted = numbers["info"]["settings"].get("precision")
        found["coverage"] = _coverage(
            numbers["coverage_curve"], scores, wanted if isinstance(wanted, float) else None
        )
    return found


def _curve(members: Sequence[dict[str, Any]], what: str, title: str) -> str:
    """Draw training and validation of the best head, and validation of the others as thin lines."""
    height, best = 208.8, members[0]
    histories = [member["history"] for member in members]
    epochs = [epoch["epoch"] for epoch in best["history"]]
    training = [epoch[what] for epoch in best["history"]]
    validation = [[epoch[f"validation_{what}"] for epoch in history] for history in histories]
    across = (0.5, max(epoch["epoch"] for history in histories for epoch in history) + 0.5)
    upward = padded([*training, *(value for line in validation for value in line)])
    axes = Axes(height, across, upward)
    axes.x_ticks(ticks(across, whole=True), number)
    axes.y_ticks(ticks(upward), percent if what == "accuracy" else number)
    axes.frame(title=title, x="epoch")
    for history, line in list(zip(histories, validation, strict=True))[1:]:
        axes.line([epoch["epoch"] for epoch in history], line, BLUE, 0.8, opacity=0.45)
    axes.line(epochs, training, ORANGE, dashes="--")
    axes.line(epochs, validation[0], BLUE)
    at = best["best_epoch"]
    axes.down(at, MUTED, 0.9, dashes=":")
    axes.dot(at, validation[0][at - 1], BLUE)
    near_end = at > 0.6 * across[1]
    # Losses fall and accuracies rise, so the text goes to the top or to the bottom.
    place = (
        axes.x(at) + (-4 if near_end else 4),
        axes.top + 9 if what == "loss" else (axes.bottom - 5),
    )
    axes.text(place, f"best: epoch {at}", anchor="end" if near_end else "start")
    axes.legend(_LINES)
    return svg(f"{title} by epoch", height, axes)


def _trials(trials: Sequence[dict[str, Any]]) -> str:
    """Draw a row per configuration, best first: settings, validation log-loss, accuracy."""
    done = [trial for trial in trials if trial["validation_loss"] is not None][:TRIALS]
    names = [settings_in_short(trial["settings"]) for trial in done]
    left = min(11 + 4.5 * max(map(len, names)), 0.68 * WIDTH)
    height = 61.2 + _ROW * len(done)
    losses = [trial["validation_loss"] for trial in done]
    across = padded(losses, 0.08)
    axes = Axes(height, across, (len(done) - 0.4, -0.6), left=left, right=43.2)
    axes.x_ticks(ticks(across, most=5 if left < 180 else 3), number)
    axes.frame(x="validation log-loss: less is better", left=False)
    for row, (trial, name) in enumerate(zip(done, names, strict=True)):
        loss, middle = trial["validation_loss"], axes.y(row) + 3
        axes.line([min(losses), loss], [row, row], GRID, 3)
        axes.dot(loss, row, BLUE, 3.6, hollow=not trial["chosen"])
        axes.text((left - 7, middle), name, anchor="end")
        axes.text((axes.right + 4, middle), f"{trial['validation_accuracy']:.1%}")
    axes.text((axes.right + 36, axes.top - 4), "accuracy", MUTED, anchor="end")
    return svg("Configurations tried", height, axes)


def settings_in_short(settings: dict[str, Any]) -> str:
    """Return the searched settings of a head in a few words."""
    inner = "+".join(map(str, settings["inner"])) or "none"
    views = f", {settings['views']} views" if settings["views"] > 1 else ""
    return (
        f"inner {inner}, drop {settings['dropout']:g}, rate {settings['learning_rate']:g}, "
        f"L2 {settings['l2']:g}{views}"
    )


def _reliability(bins: Sequence[dict[str, Any]]) -> str:
    """Draw accuracy by confidence, above the number of photos in each bin."""
    height, below = 280.8, 92.0
    axes = Axes(height, (0, 1), (-0.02, 1.02), bottom=below)
    counts = Axes(height, (0, 1), (0, 1.28 * max(one["n"] for one in bins)), top=height - below + 6)
    shares = ticks((0, 1))
    axes.x_ticks([], percent)
    for share in shares:
        axes.down(share, GRID, 0.8)
    axes.y_ticks(shares, percent)
    axes.frame(title="Accuracy by confidence", y="accuracy")
    axes.line((0, 1), (0, 1), MUTED, 1, dashes="--")
    most = max(one["n"] for one in bins)
    for one in bins:
        if not one["n"]:
            continue
        at = one["confidence"]
        axes.line((at, at), one["interval"], BLUE, 1, opacity=0.55)
        # The area of a dot is proportional to the number of photos.
        axes.dot(at, one["accuracy"], BLUE, ((14 + 70 * one["n"] / most) / 3.1416) ** 0.5)
        middle = (one["low"] + one["high"]) / 2
        counts.bar(middle, one["n"], bins[0]["high"] * 0.86, FILL)
        place = counts.x(middle), counts.y(one["n"]) - 1.5
        counts.text(place, str(one["n"]), MUTED, size=7.5, anchor="middle")
    counts.x_ticks(shares, percent, grid=False)
    counts.frame(x="probability of the answer", y="photos")
    return svg("Reliability diagram", height, axes, counts)


def _coverage(
    curve: Sequence[dict[str, float]], scores: dict[str, Any], wanted: float | None
) -> str:
    """Draw accuracy by coverage and mark the model's confidence threshold."""
    height = 223.2
    x, y = [point["coverage"] for point in curve], [point["accuracy"] for point in curve]
    low = min(*y, scores["accuracy"])
    bottom = max(0.0, low - 0.35 * (1 - low) - 0.02)
    upward = (bottom, 1.0 + 0.03 * (1 - bottom))
    axes = Axes(height, (0, 1.02), upward)
    axes.x_ticks(ticks((0, 1.02)), percent)
    axes.y_ticks(ticks(upward), percent)
    axes.frame(title="Accuracy by coverage", x="coverage: share of photos answered", y="accuracy")
    if len(curve) < 40:  # few photos: a step for each
        x = [x[0], *(value for value in x[1:] for _ in range(2))]
        y = [*(value for value in y[:-1] for _ in range(2)), y[-1]]
    axes.line(x, y, BLUE)
    if wanted is not None and wanted > bottom:
        axes.across(wanted, MUTED, 1, dashes="--")
        axes.text((axes.left + 3, axes.y(wanted) + 10), f"target: {wanted:.0%}", MUTED)
    if scores["sure_accuracy"] is not None:
        at, right = scores["coverage"], scores["sure_accuracy"]
        axes.line((at, at), (bottom, right), ORANGE, 1, dashes=":")
        axes.diamond(at, right, ORANGE)
        left = at > 0.45
        place, anchor = axes.x(at) + (-7 if left else 7), "end" if left else "start"
        axes.text(
            (place, axes.bottom - 19),
            f"threshold {scores['threshold']:.2f}: coverage {at:.0%},",
            anchor=anchor,
        )
        axes.text((place, axes.bottom - 8), f"accuracy {right:.1%}", anchor=anchor)
    return svg("Accuracy by coverage", height, axes)


def _tuning(history: Sequence[dict[str, Any]], what: str, title: str) -> str:
    """Draw training and validation over all stages; what: loss or accuracy.

    The first point is the network before fine-tuning.
    """
    height, kind = 216.0, "validation_log_loss" if what == "loss" else "validation_accuracy"
    validation = [epoch[kind] for epoch in history]
    shown = [(place, epoch[what]) for place, epoch in enumerate(history) if epoch[what] is not None]
    across = padded([0, max(1, len(history) - 1)])
    upward = padded([*validation, *(value for _, value in shown)])
    axes = Axes(height, across, upward, top=34)
    axes.x_ticks(ticks(across, whole=True), number)
    axes.y_ticks(ticks(upward), percent if what == "accuracy" else number)
    axes.frame(title=title, x="epochs of all stages")
    for points, colour, dashes in (
        (shown, ORANGE, "--"),
        (list(enumerate(validation)), BLUE, ""),
    ):
        axes.line([x for x, _ in points], [y for _, y in points], colour, dashes=dashes)
        for x, y in points:
            axes.dot(x, y, colour, 2)
    kept = max((place for place, epoch in enumerate(history) if epoch["best"]), default=0)
    axes.dot(kept, validation[kept], BLUE, 3.6)
    before: tuple[Any, Any] = (None, None)
    for place, epoch in enumerate(history):
        now = epoch["stage"], epoch["size"]
        if place and now != before:
            axes.down(place - 0.5, MUTED, 0.9, dashes=":")
        if now[0] != before[0]:
            axes.text((axes.x(place), axes.top - 3), f"{epoch['size']} px", MUTED, size=8)
        before = now
    axes.legend(_LINES)
    return svg(f"{title} by epoch", height, axes)
