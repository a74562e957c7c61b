"""A small Keras network with every kind of layer that fine-tuning and export must handle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tailorbird.engines.keras import backend, description
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.errors import BackboneError
from tailorbird.head import Dense, Head
from tailorbird.inference import Runner

SIZE = 32
CLASSES = 3
SEED = 7


def small_model(size: int = SIZE) -> Any:
    """Return a network with residual, depthwise and batch-norm layers, and 12 features."""
    keras = backend.load()
    layers, random = keras.layers, np.random.default_rng(SEED)
    images = keras.Input((size, size, 3), name="pixels")
    hidden = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(images)
    hidden = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_norm")(hidden))
    inner = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(hidden)
    inner = layers.Activation("relu", name="deep_relu")(
        layers.BatchNormalization(name="deep_norm")(inner)
    )
    hidden = layers.Add(name="sum")([hidden, layers.Dropout(0.5, name="idle", seed=1)(inner)])
    hidden = layers.Conv2D(12, 3, strides=2, padding="same", name="wide")(hidden)
    hidden = layers.Activation("relu", name="wide_relu")(
        layers.BatchNormalization(name="wide_norm")(hidden)
    )
    model = keras.Model(images, layers.GlobalAveragePooling2D(name="mean")(hidden), name="small")
    # The same numbers on every backend; statistics that are neither 0 nor 1.
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(random.normal(0, 0.35, variable.shape))
        elif variable.path.endswith("variance"):
            variable.assign(random.uniform(0.3, 1.2, variable.shape))
        else:
            variable.assign(random.normal(float("gamma" in variable.path), 0.2, variable.shape))
    return model


def small_backbone(size: int = SIZE) -> onnx.ModelProto:
    model = small_model(size)
    about = {
        "name": "small",
        "source": "a test",
        "licence": "MIT",
        "trained_on": "chance",
        **description.describe(preprocess="torch", model=model),
    }
    return KerasBackbone.of_model(model, "torch", size).to_proto(about)


def small_head(inner: tuple[int, ...] = (6,), classes: int = CLASSES, width: int = 12) -> Head:
    random = np.random.default_rng(SEED)
    sizes = (width, *inner, classes)
    return Head(
        tuple(
            Dense(
                random.normal(0, 0.7 / i**0.5, (i, o)).astype(np.float32),
                random.normal(0, 0.1, o).astype(np.float32),
            )
            for i, o in itertools.pairwise(sizes)
        )
    )


def photos(count: int, size: int = SIZE, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return images of coloured fields, coarse to fine, which a network answers differently."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        fields = (2, 4, 8, 16)[number % 4]
        coarse = random.integers(0, 256, (fields, fields, 3), np.uint8)
        index = np.arange(size) * fields // size
        images.append(coarse[index][:, index])
    return np.stack(images)


def run(
    proto: onnx.ModelProto | Path, images: npt.NDArray[np.uint8], output: str = "features"
) -> npt.NDArray[np.float32]:
    content = proto.read_bytes() if isinstance(proto, Path) else proto
    return np.asarray(Runner(content, "test", BackboneError).run_batch(images, [output])[0])


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def same(one: Mapping[str, npt.NDArray[Any]], other: Mapping[str, npt.NDArray[Any]]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)
