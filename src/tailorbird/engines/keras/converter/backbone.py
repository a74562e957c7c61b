"""Convert a Keras backbone to the content of a backbone file, and compare the file with Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.agreement import check_agreement
from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten
from tailorbird.engines.preprocessing import prepare
from tailorbird.errors import BackboneError

if TYPE_CHECKING:
    import onnx

CONVERTER = 1
"""Version of the conversion; increase it when results change, so that older files are rewritten."""


def export(model: Any, *, preprocess: str, size: int, about: Mapping[str, str]) -> onnx.ModelProto:
    """Return the content of a backbone file for a model with features (N, K), not yet compared.

    Initialisers are numbered by the positions of Keras' weights in `model.weights`.

    Args:
        model: Keras model from images (N, S, S, 3) to features (N, K).
        preprocess: a key of PREPROCESS.
        size: S in pixels.
        about: further metadata.

    Raises BackboneError for a model that is not supported, or with other outputs.
    """
    graph = flatten(model)
    last = graph.outputs[0]
    if len(graph.outputs) != 1 or len(last.shape) != 2:
        shapes = "; ".join(str(tensor.shape) for tensor in graph.outputs)
        raise BackboneError(
            f"{model.name} gives {shapes}; a backbone must give one row of features per image, "
            "(N, K)"
        )
    outputs = {"features": Output(last.key)}
    maker = next(node for node in graph.nodes if last in node.outputs)
    pooled = maker.kind == "GlobalAveragePooling2D"
    if pooled:
        outputs["feature_map"] = Output(maker.inputs[0].key, "channels_first")
    proto = convert(graph, outputs, preprocess=preprocess, size=size, weights=model.weights)
    facts = {
        "pooling": "mean" if pooled else f"the network's own ({maker.kind} last)",
        "input": f"uint8 RGB (N,{size},{size},3)",
        "resize": f"squashed to {size} x {size} by tailorbird's resize rule",
        "converter": str(CONVERTER),
    }
    onnx_files.set_metadata(proto, {**facts, **about})
    return proto


def verify(
    proto: onnx.ModelProto, model: Any, preprocess: str, images: npt.NDArray[np.uint8]
) -> float:
    """Compare a backbone file with Keras; see `agreement.check_agreement`."""
    keras = backend.load()
    expected = keras.ops.convert_to_numpy(model(prepare(images, preprocess), training=False))
    framework = f"Keras {keras.__version__} on {keras.backend.backend()}"
    return check_agreement(proto, images, expected, name=model.name, framework=framework)
