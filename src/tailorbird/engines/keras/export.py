"""Write a model file as a Keras model of standard layers.

    images (N, S, S, 3) RGB, 0 to 255 -> preprocess -> backbone -> head -> / temperature -> softmax

The file opens with `keras.saving.load_model` in safe mode, without tailorbird. The backbone's
layers keep their names; to train them on with the statistics of batch normalisation unchanged, set
`trainable = False` on those layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.head import Head

if TYPE_CHECKING:
    import onnx


def save_model(
    model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
) -> None:
    """Write a model file's network as a `.keras` file; arguments as for `Engine.save_model`."""
    assemble(model, head, size=size, temperature=temperature).save(path)


def assemble(model: onnx.ModelProto, head: Head, *, size: int, temperature: float) -> Any:
    """Return the Keras model from images to calibrated probabilities."""
    keras = backend.load()
    layers = keras.layers
    backbone = KerasBackbone.from_proto(model, size)
    # Keras casts uint8 pixels to the input's float32.
    images = keras.Input((size, size, 3), name=backbone.free_name("images"))
    hidden = backbone.whole(images)
    dense = []
    for number, layer in enumerate(head.layers):
        activation = "relu" if number + 1 < len(head.layers) else None
        name = backbone.free_name(f"head_dense{number}")
        dense.append(layers.Dense(layer.weight.shape[1], activation, name=name))
        hidden = dense[-1](hidden)
    hidden = layers.Rescaling(1.0 / temperature, name=backbone.free_name("temperature"))(hidden)
    probabilities = layers.Softmax(name=backbone.free_name("probabilities"))(hidden)
    made = keras.Model(images, probabilities, name="tailorbird")
    for keras_layer, layer in zip(dense, head.layers, strict=True):
        keras_layer.set_weights([layer.weight, layer.bias])
    return made


def run_saved(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Open a `.keras` file in safe mode and return its outputs for uint8 images."""
    loaded = backend.load().saving.load_model(path, compile=False, safe_mode=True)
    return np.asarray(loaded.predict_on_batch(images), np.float32)
