"""Read the record of fine-tuning from a model file's metadata, which is untrusted input."""

from __future__ import annotations

import math
from typing import Any, Final

from tailorbird.model import ModelInfo

_WHOLE: Final = ("stage", "size", "epoch")
_KNOWN: Final = ("validation_log_loss", "validation_accuracy")
_PERHAPS: Final = ("loss", "accuracy", "images_per_second", "seconds", "learning_rate")
MOST_EPOCHS: Final = 2_000
"""Most epochs that are drawn."""


def tuning(info: ModelInfo) -> dict[str, Any] | None:
    """Return the fine-tuning of a model, or None where there was none.

    settings, stages (sentences), history, best, start, seconds, stopped, from_scratch. Only values
    of the form that training writes are used.
    """
    stored = info.settings.get("finetune")
    if not isinstance(stored, dict) or not isinstance(stored.get("history"), list):
        return None
    history = [epoch for epoch in map(_epoch, stored["history"][:MOST_EPOCHS]) if epoch is not None]
    best, start = stored.get("best"), stored.get("start")
    if not history or len(history) < len(stored["history"][:MOST_EPOCHS]):
        return None
    if not isinstance(best, dict) or not _score(best.get("score")) or not _score(start):
        return None
    settings = stored.get("settings")
    stages = stored.get("stages")
    return {
        "settings": _shown(settings) if isinstance(settings, dict) else {},
        "stages": [str(stage.get("sentence", "")) for stage in stages if isinstance(stage, dict)]
        if isinstance(stages, list)
        else [],
        "history": history,
        "best": best,
        "start": start,
        "seconds": stored["seconds"] if _number(stored.get("seconds")) else None,
        "stopped": str(stored.get("stopped", "")),
        "from_scratch": "pretrained" not in info.backbone,
    }


def _shown(settings: dict[str, Any]) -> dict[str, str]:
    """Return the settings as text, nested ones flattened, without those that are not set."""
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
