"""Parts of small model files: heads, metadata, pixels, outputs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tailorbird.errors import (
    ModelFileError,
)
from tailorbird.head import Dense, Head
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model import ModelInfo

CLASSES = ("disc", "box", "cross", "star")


def head(sizes: tuple[int, ...], seed: int = 0) -> Head:
    random = np.random.default_rng(seed)
    return Head(
        tuple(
            Dense(
                (random.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32),
                random.normal(size=b).astype(np.float32) * 0.3,
            )
            for a, b in pairwise(sizes)
        )
    )


def info(classes: tuple[str, ...] = CLASSES, **changes: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "classes": classes,
        "resize": ResizeRule(16),
        "threshold": 0.4,
        "temperature": 1.7,
        "scores": {},
        "backbone": {"name": "tiny"},
        "settings": {},
        "seed": 0,
        "data": {},
        "versions": {},
        "created": "2026-01-01T00:00:00+00:00",
    }
    return ModelInfo(**{**values, **changes})


def images(n: int = 6) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 16, 16, 3), np.uint8)


def with_other_answers(model: Path, target: Path, *, by: float = 50.0) -> Path:
    """Write a model file whose graph gives other probabilities than its self-test says."""
    proto = onnx.load(model)
    bias = next(t for t in proto.graph.initializer if t.name.startswith("tailorbird/bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += by
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, target)
    return target


def outputs_of(model: onnx.ModelProto, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
    return Runner(model, "test", ModelFileError).run(pixels, outputs)


Write = Callable[..., Path]
