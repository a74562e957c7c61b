"""How fine-tuning went, for a report: read from the model file's metadata, which may be anybody's, and drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from tailorbird.model import ModelInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHOLE: Final = ("stage", "size", "epoch")
_KNOWN: Final = ("validation_log_loss", "validation_accuracy")
_PERHAPS: Final = ("loss", "accuracy", "images_per_second", "seconds", "learning_rate")
MOST_EPOCHS: Final = 2_000
"""More are not drawn."""


def tuning(info: ModelInfo) -> dict[str, Any] | None:
    """The fine-tuning of a model: settings, stages (sentences), history, best, start, seconds; None where there was none.

    Only what has the form that training writes is taken.
    """
    said = info.settings.get("finetune")
    if not isinstance(said, dict) or not isinstance(said.get("history"), list):
        return None
    history = [epoch for epoch in map(_epoch, said["history"][:MOST_EPOCHS]) if epoch is not None]
    best, start = said.get("best"), said.get("start")
    if not history or len(history) < len(said["history"][:MOST_EPOCHS]):
        return None
    if not isinstance(best, dict) or not _score(best.get("score")) or not _score(start):
        return None
    settings = said.get("settings")
    stages = said.get("stages")
    return {
        "settings": _shown(settings) if isinstance(settings, dict) else {},
        "stages": [str(stage.get("sentence", "")) for stage in stages if isinstance(stage, dict)]
        if isinstance(stages, list)
        else [],
        "history": history,
        "best": best,
        "start": start,
        "seconds": said["seconds"] if _number(said.get("seconds")) else None,
        "stopped": str(said.get("stopped", "")),
        "from_scratch": "pretrained" not in info.backbone,
    }


def _shown(settings: dict[str, Any]) -> dict[str, str]:
    """Settings in words, those inside others beside them; what was not set is left out."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return {
        str(name).replace("_", " "): f"{value:.3g}" if isinstance(value, float) else str(value)
        for name, value in flat.items()
        if value is not None and value is not False and name != "checkpoint_seconds"
    }


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _score(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _number(value.get("log_loss"))
        and _number(value.get("accuracy"))
    )


def _epoch(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not all(
        _number(value.get(name)) for name in (*_WHOLE, *_KNOWN)
    ):
        return None
    kept = {name: value[name] for name in (*_WHOLE, *_KNOWN)}
    kept |= {name: value[name] if _number(value.get(name)) else None for name in _PERHAPS}
    return {**kept, "cut": str(value.get("cut", "")), "best": value.get("best") is True}


def draw(found: dict[str, Any], what: str, title: str) -> Figure:
    """Training against validation over all stages; what: loss or accuracy. The first mark is the network before fine-tuning."""
    from tailorbird.report import charts

    figure, axes = charts.blank(2.9)
    history = found["history"]
    validation = [
        epoch["validation_log_loss" if what == "loss" else "validation_accuracy"]
        for epoch in history
    ]
    places, trained = list(range(len(history))), [epoch[what] for epoch in history]
    shown = [
        (place, value) for place, value in zip(places, trained, strict=True) if value is not None
    ]
    axes.plot([place for place, _ in shown], [value for _, value in shown], color=charts.ORANGE, ls=(0, (4, 1.6)), marker=".",
              label="training")  # fmt: skip
    axes.plot(places, validation, color=charts.BLUE, marker=".", label="validation")
    kept = max((place for place in places if history[place]["best"]), default=0)
    axes.plot([kept], [validation[kept]], "o", color=charts.BLUE, ms=7)
    for place in places:
        if place and (history[place]["stage"], history[place]["size"]) != (
            history[place - 1]["stage"],
            history[place - 1]["size"],
        ):
            axes.axvline(place - 0.5, color=charts.MUTED, lw=0.9, ls=":")
        if place == 0 or history[place]["stage"] != history[place - 1]["stage"]:
            axes.annotate(f"{history[place]['size']} px", (place, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                          textcoords="offset points", fontsize=8, color=charts.MUTED)  # fmt: skip
    axes.set_title(title, pad=14)
    axes.set_xlabel("epochs of all stages")
    if what == "accuracy":
        charts.percents(axes.yaxis)
    charts.ticks(axes.xaxis, whole=True)
    axes.legend(loc="best", fontsize=8.5)
    return figure
