"""What the scripts of the peers share: arguments, the weights, lines of results.

Each script is run by finetune_vs_peers.py in its own environment:

    python with_NAME.py PHOTOS WEIGHTS SECONDS

PHOTOS has the folders train, validation and test; WEIGHTS are MobileNetV2's of Keras, as timm's
safetensors (for Keras itself .h5); the schedule of the peer should end after SECONDS. It prints a
line of JSON after every epoch, and one at the end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

NETWORK = "mobilenetv2_100"
SIZE = 224
ARGUMENTS: dict[str, Any] = {"pad_type": "same", "bn_eps": 1e-3}
"""How the network that the weights were trained in differs from timm's."""
MEAN = STD = (0.5, 0.5, 0.5)


def given() -> tuple[Path, Path, float]:
    """Return photos, weights, and the seconds that are left for training."""
    photos, weights, seconds = sys.argv[1:4]
    return Path(photos), Path(weights), float(seconds)


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def left(seconds: float) -> float:
    """Return how much of the time is left."""
    return seconds - (time.perf_counter() - STARTED)


def measured(step: Callable[[], object], times: int = 2) -> float:
    """Return the seconds of one training step, after one that is not counted."""
    step()
    start = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - start) / times


def loaded(classes: int, **more: Any) -> Any:
    """Return timm's network with the weights and a new classifier."""
    import timm

    weights = given()[1]
    overlay = {"file": str(weights), "mean": MEAN, "std": STD}
    return timm.create_model(
        NETWORK, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes,
        **ARGUMENTS, **more,
    )  # fmt: skip
