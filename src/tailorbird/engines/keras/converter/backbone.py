"""A Keras base as a backbone: `features`, `feature_map` where they are its mean, and a check against Keras on photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten
from tailorbird.engines.preprocessing import prepare
from tailorbird.errors import BackboneError
from tailorbird.inference import Runner

if TYPE_CHECKING:
    import onnx

CONVERTER = 1
"""Raised when converting the same network would give another result; older files are then made anew."""

AGREEMENT = 1e-3
"""Largest difference from Keras, relative to the largest feature."""


def export(model: Any, *, preprocess: str, size: int, about: Mapping[str, str]) -> onnx.ModelProto:
    """The backbone a base with pooled output (N, K) makes at an input size, not yet checked; `about` goes into its metadata.

    The initialisers are numbered by the position of Keras' weights in `model.weights`. Raises BackboneError for a base that is not
    understood, or whose output has another shape.
    """
    graph = flatten(model)
    last = graph.outputs[0]
    if len(graph.outputs) != 1 or len(last.shape) != 2:
        said = "; ".join(str(tensor.shape) for tensor in graph.outputs)
        raise BackboneError(
            f"{model.name} gives {said}; a base must end in one row of features for each image, (N, K)"
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
    """Run the file and Keras on the same photos; the largest difference, relative to the largest feature.

    Raises BackboneError when ONNX's own checker refuses the file, features are not finite, or the two disagree by more than
    AGREEMENT.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as problem:  # ValidationError and InferenceError share no base class
        raise BackboneError(
            f"the file made from {model.name} does not pass ONNX's checker: {problem}"
        ) from None
    runner = Runner(proto, model.name, BackboneError)
    outputs = dict(zip(runner.outputs, runner.run(images), strict=True))
    keras = backend.load()
    expected = keras.ops.convert_to_numpy(model(prepare(images, preprocess), training=False))
    if not np.isfinite(expected).all():
        raise BackboneError(
            f"{model.name} gives features that are not finite; the weights are damaged"
        )
    unit = max(float(np.abs(expected).max()), 1e-6)
    gap = float(np.abs(outputs["features"] - expected).max()) / unit
    if "feature_map" in outputs:
        gap = max(
            gap, float(np.abs(outputs["feature_map"].mean(axis=(2, 3)) - expected).max()) / unit
        )
    if not gap <= AGREEMENT:
        raise BackboneError(
            f"the backbone made from {model.name} disagrees with Keras {keras.__version__} on {keras.backend.backend()}: largest "
            f"difference {gap:.3g} of the largest feature; {AGREEMENT:g} is allowed"
        )
    return gap
