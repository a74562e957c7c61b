"""What a report says of photos that the model takes for none of its classes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tailorbird.dataset import printable
from tailorbird.metrics.distributions import wilson_interval
from tailorbird.report.content import Content

SHOWN: Final = 36
"""Maximum number of refused photos shown, the most unfamiliar first."""

_KEPT: Final = ("threshold", "wanted", "expected", "reached", "photos", "crossfitted")


def unfamiliar(content: Content) -> dict[str, Any] | None:
    """Return the threshold, what it costs and what it notices; None where the model cannot tell.

    cost: of the scored photos n, how many are refused, how many of those it would have answered
    rightly and surely, and `shown`, the most unfamiliar of them. strangers: as in the metadata.
    measured: AUROC and shares on photos given for that.
    """
    stored, limit = content.info.unfamiliarity, content.info.unfamiliar_above
    if limit is None:
        return None
    return {
        **{name: stored.get(name) for name in _KEPT},
        "none_of_these": stored.get("none_of_these") or 0,
        "cost": _cost(content, limit),
        "strangers": stored.get("strangers") or [],
        "measured": content.strangers.as_dict() if content.strangers else None,
    }


def _cost(content: Content, limit: float) -> dict[str, Any] | None:
    answers, info = content.answers, content.info
    if answers is None or answers.unfamiliarity is None:
        return None
    refused = answers.unfamiliarity > limit
    best = answers.probabilities.argmax(axis=1)
    sure = answers.probabilities.max(axis=1) >= info.threshold
    lost = refused & sure & (best == answers.labels)
    order = np.argsort(-answers.unfamiliarity, kind="stable")
    shown = [int(i) for i in order[:SHOWN] if refused[i]]
    return {
        "n": len(answers),
        "refused": int(refused.sum()),
        "share": float(refused.mean()),
        "interval": list(wilson_interval(int(refused.sum()), len(answers))),
        "sure_and_right": int(lost.sum()),
        "shown": [
            {
                "photo": i,
                "path": printable(answers.names[i]),
                "label": info.classes[int(answers.labels[i])],
                "predicted": info.classes[int(best[i])],
                "unfamiliarity": float(answers.unfamiliarity[i]),
            }
            for i in shown
        ],
    }
