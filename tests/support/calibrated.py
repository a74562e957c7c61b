"""Labels drawn from the model's own probabilities: a calibrated classifier by construction."""

from __future__ import annotations

import numpy as np

from tailorbird.metrics.calibration import softmax


def random_scores(
    n: int = 400, seed: int = 0, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from softmax(logits): perfectly calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 4)) * sharpness
    labels = np.array([random.choice(4, p=row) for row in softmax(logits)])
    return labels, logits
