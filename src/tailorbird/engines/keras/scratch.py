"""Build a small convolutional network that is trained from random weights.

    images -> x / 255 -> Conv2D 32 3x3 ReLU -> MaxPooling 2x2 -> Flatten    the backbone
           -> Dense 64 ReLU -> Dense C                                      the head

The features are (N, 32 h w) in the order row, column, channel. Two classes have two logits and a
softmax, which equals a sigmoid of their difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend, description
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.engines.keras.network import KerasNetwork
from tailorbird.errors import SettingsError
from tailorbird.head import Dense, Head

if TYPE_CHECKING:
    import onnx

NAME = "cnn"
SIZE = 150
"""Default side of the input in pixels."""

FILTERS = 32
UNITS = 64
_LARGEST = 512
"""A larger input would give the first dense layer more than 130 million weights."""


def scratch_network(classes: int, *, size: int = SIZE, seed: int = 0) -> tuple[KerasNetwork, Head]:
    """Return the network and the head to attach, with random weights.

    Kernels are uniform after Glorot and Bengio 2010, biases 0; the same seed gives the same weights
    on every backend. The network trains at its own size only, because each weight of the head
    belongs to one position. Raises SettingsError for a size outside 8 to 512, MissingExtra.
    """
    proto = scratch_backbone(size, seed=seed)
    generator = np.random.default_rng((seed, 1))
    width = FILTERS * ((size - 2) // 2) ** 2
    layers = [
        Dense(_glorot((i, o), i, o, generator), np.zeros(o, np.float32))
        for i, o in ((width, UNITS), (UNITS, classes))
    ]
    return KerasNetwork(proto), Head(tuple(layers))


def scratch_backbone(size: int = SIZE, *, seed: int = 0) -> onnx.ModelProto:
    """Return the content of a backbone file with random weights.

    Raises SettingsError for a size outside 8 to 512, MissingExtra.
    """
    if not 8 <= size <= _LARGEST:
        raise SettingsError(
            f"the size of the cnn is {size} pixels; it must be 8 to {_LARGEST}, for example {SIZE}"
        )
    keras = backend.load()
    layers = keras.layers
    images = keras.Input((size, size, 3), name="pixels")
    hidden = layers.Conv2D(FILTERS, 3, activation="relu", name="conv")(images)
    hidden = layers.MaxPooling2D(2, name="pooling")(hidden)
    model = keras.Model(images, layers.Flatten(name="flatten")(hidden), name=NAME)
    kernel = _glorot(
        (3, 3, 3, FILTERS), 3 * 3 * 3, 3 * 3 * FILTERS, np.random.default_rng((seed, 0))
    )
    model.set_weights([kernel, np.zeros(FILTERS, np.float32)])
    about = {
        "name": NAME,
        "source": "tailorbird --backbone cnn",
        "licence": "none: its weights come from your photos alone",
        "trained_on": "nothing before",
        **description.describe(preprocess="unit", model=model),
    }
    return KerasBackbone.of_model(model, "unit", size).to_proto(about)


def _glorot(
    shape: tuple[int, ...], inputs: int, outputs: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    limit = np.sqrt(6.0 / (inputs + outputs))
    return generator.uniform(-limit, limit, shape).astype(np.float32)
