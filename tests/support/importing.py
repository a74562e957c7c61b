"""Helpers of the tests of importing: photos, probabilities from Keras, imported models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from support.keras_classifiers import (
    SIDE,
    keras,
)
from tailorbird.demo import draw
from tailorbird.images import ResizeRule, resize
from tailorbird.importing import import_model
from tailorbird.metrics.calibration import softmax
from tailorbird.model import Classifier

NAMES = ("ant", "bee", "cow", "dog", "eel")


def drawn_pixels(count: int = 6, side: int = SIDE) -> npt.NDArray[np.uint8]:
    rule = ResizeRule(side)
    return np.stack(
        [resize(draw("dress" if n % 2 else "shoes", n).image, rule) for n in range(count)]
    )


def save(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def probabilities(model: Any, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the probabilities that Keras computes: (N, C)."""
    rows = keras().ops.convert_to_numpy(model(pixels, training=False)).astype(np.float64)
    if rows.shape[1] == 1:
        return np.concatenate([1 - rows, rows], axis=1)
    return (
        rows if np.allclose(rows.sum(axis=1), 1, atol=5e-3) and (rows >= 0).all() else softmax(rows)
    )


def import_and_open(
    model: Any, tmp_path: Path, suffix: str = ".keras", **options: Any
) -> tuple[Any, Classifier]:
    path = save(model, tmp_path / f"model{suffix}")
    outputs = model.outputs[0].shape[-1]
    options = {"classes": list(NAMES[: max(2, outputs)]), "preprocess": "tf", **options}
    result = import_model(path, tmp_path / "model.onnx", **options)
    return result, Classifier(tmp_path / "model.onnx")


def pooled_classifier(
    shape: tuple[int | None, ...], units: int = 3, activation: str = "softmax"
) -> Any:
    image = keras().Input(shape)
    x = keras().layers.GlobalAveragePooling2D()(keras().layers.Conv2D(4, 3)(image))
    return keras().Model(image, keras().layers.Dense(units, activation=activation)(x))
