"""Random weights for Keras networks, and a converted network compared with Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten
from tailorbird.engines.preprocessing import prepare
from tailorbird.errors import BackboneError
from tailorbird.inference import Runner

keras = backend.load()


def numbers(tensor: Any) -> npt.NDArray[np.float32]:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def shake(model: Any, seed: int = 0) -> Any:
    """Give random values to weights that start as zeros or ones, and return the model.

    Mild ones, lest a deep network amplify rounding errors until they are all there is.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.name:
            variable.assign(random.uniform(1.0, 2.0, variable.shape))
        elif "int" not in str(variable.dtype) and len(variable.shape) == 1:
            variable.assign(
                random.normal(1.0 if variable.name == "gamma" else 0.0, 0.1, variable.shape)
            )
        elif variable.name == "alpha":
            variable.assign(random.normal(0.2, 0.3, variable.shape))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def images(size: int, count: int = 2, seed: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def run(proto: onnx.ModelProto, photos: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    onnx.checker.check_model(proto, full_check=True)
    return Runner(proto, "test", BackboneError).run_batch(photos)


def converted(model: Any, size: int, preprocess: str = "unit") -> onnx.ModelProto:
    return convert(
        model, {"out": Output(flatten(model).outputs[0].key)}, preprocess=preprocess, size=size
    )


def assert_agrees(
    model: Any, size: int, preprocess: str = "unit", tolerance: float = 1e-5
) -> onnx.ModelProto:
    """Convert a model and compare it with Keras; images of a batch must be independent."""
    proto, photos = converted(model, size, preprocess), images(size)
    (found,) = run(proto, photos)
    expected = numbers(model(prepare(photos, preprocess), training=False))
    assert found.shape == expected.shape
    scale = max(float(np.abs(expected).max()), 1e-3)
    assert expected.std() > 1e-6, "a constant says nothing"
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=0)
    np.testing.assert_allclose(run(proto, photos[1:])[0], found[1:], atol=tolerance * scale, rtol=0)
    return proto
