"""Analyse a Keras classifier: its features, how they are pooled, and its head.

    ... -> feature map (N, h, w, K) -> pooling -> features (N, F)
        -> [dropout, batch norm, dense, ReLU] x any -> dense -> softmax | sigmoid | nothing

The graph is walked from the output backwards as far as layers can be folded into a Head. If the
pooling is reached, heat maps are exact; if another layer stands in the way, its outputs are the
features, and there are no heat maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.engines.graphs import Graph, Node, Tensor
from tailorbird.engines.heads import HeadStep, can_fold, fold
from tailorbird.engines.keras import backend
from tailorbird.errors import ModelFileError
from tailorbird.head import Head

Pooling = Literal["mean", "max", "flatten", "none"]
Ending = Literal["softmax", "sigmoid", "logits", "unknown"]
Floats = npt.NDArray[np.float64]

_IDLE = frozenset({
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Identity",
})  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """Structure of a classifier.

    Attributes:
        graph: graph of the whole model.
        features: the head's input, (N, F) or (N, 1, 1, F).
        feature_map: the tensor (N, h, w, K) that the features are pooled from; None where there can
            be no heat maps.
        pooling: how the features are pooled from the feature map.
        head: layers from features to logits (N, C); None where the model ends in a layer that is
            not supported, and the features are the model's own outputs.
        ending: activation after the logits in the model.
        activation: the layer of that activation.
        why: reason for a missing feature map; empty if there is one.
    """

    graph: Graph
    features: Tensor
    feature_map: Tensor | None
    pooling: Pooling
    head: Head | None
    ending: Ending
    activation: Node | None
    why: str

    @property
    def outputs(self) -> int:
        """Return the number of outputs per image."""
        return int(self.graph.outputs[0].shape[-1] or 0)


def analyse(graph: Graph) -> Structure:
    """Analyse a classifier. Raises ModelFileError unless it gives one row of scores per image."""
    output = _output(graph)
    makers = {tensor.key: node for node in graph.nodes for tensor in node.outputs}
    steps: list[HeadStep] = []
    activation: Node | None = None
    here, behind = output, [output]
    pooling: Pooling | None = None
    why = "it has no pooling of a feature map"
    while (node := makers.get(here.key)) is not None:
        pooling = _pooling(node)
        if pooling is not None:
            break
        found = _steps(node)
        if found is None or len(node.inputs) != 1 or (steps and any(one.ends for one in found)):
            why = (
                f"{node.path} ({_shown(node)}) between pooling and output is not a layer through "
                "which Grad-CAM can be computed"
            )
            break
        candidate = [*found, *steps]
        if not can_fold(candidate, _width(node.inputs[0])):
            why = f"{node.path} ({_shown(node)}) does not fit a stack of dense layers with ReLU"
            break
        if not steps and found and found[-1].ends:
            activation = node
        steps, here = candidate, node.inputs[0]
        behind.append(here)
    stuck = here is output and pooling is None
    ending: Ending = "unknown" if stuck else "logits"
    if steps and steps[-1].ends:
        ending = "softmax" if steps.pop().kind == "softmax" else "sigmoid"
    width = _width(here)
    head = None if stuck or not can_fold(steps, width) else fold(steps, width)
    if pooling is None or head is None:
        return Structure(graph, here, None, "none", head, ending, activation, why)
    node = makers[here.key]
    (feature_map,) = node.inputs
    if feature_map.shape[1:3] == (1, 1):
        why = f"its feature map in front of {node.path} has a single position"
        return Structure(graph, here, None, "none", head, ending, activation, why)
    flat = [one for one in behind if len(one.shape) == 2 and _same(here, one, makers)]
    features = flat[-1] if flat else here
    return Structure(graph, features, feature_map, pooling, head, ending, activation, "")


def _output(graph: Graph) -> Tensor:
    """Return the only output, (N, classes). Raises ModelFileError."""
    if len(graph.outputs) != 1:
        keys = ", ".join(tensor.key for tensor in graph.outputs)
        raise ModelFileError(
            f"the model has {len(graph.outputs)} outputs ({keys}); a classifier has one, "
            "(N, classes)"
        )
    output = graph.outputs[0]
    if len(output.shape) != 2 or not output.shape[1]:
        raise ModelFileError(
            f"the model's output has shape {output.shape}; a classifier's is (N, classes): it was "
            "made for another task"
        )
    return output


def _same(start: Tensor, end: Tensor, makers: dict[str, Node]) -> bool:
    """Return whether only layers that do nothing or drop axes of 1 are between two tensors."""
    here = end
    while here.key != start.key:
        node = makers[here.key]
        if _steps(node) != []:
            return False
        here = node.inputs[0]
    return True


def _shown(node: Node) -> str:
    activation = getattr(node.operation, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"{node.kind}, {name}" if activation is not None and name != "linear" else node.kind


def _width(tensor: Tensor) -> int:
    return int(tensor.shape[-1] or 0)


def _pooling(node: Node) -> Pooling | None:
    """Return how a node pools a feature map (N, h, w, K) into features; None if it does not."""
    layer = node.operation
    if (
        len(node.inputs) != 1
        or len(node.inputs[0].shape) != 4
        or getattr(layer, "data_format", None) == "channels_first"
    ):
        return None
    sides = node.inputs[0].shape[1:3]
    if node.kind == "GlobalAveragePooling2D":
        return "mean"
    if node.kind == "GlobalMaxPooling2D":
        return "max"
    if node.kind in ("Mean", "Max") and set(_axes(layer)) == {
        1,
        2,
    }:  # keras.ops.mean(x, axis=(1, 2))
        return "mean" if node.kind == "Mean" else "max"
    if (
        node.kind in ("AveragePooling2D", "MaxPooling2D")
        and tuple(layer.pool_size) == sides
        and layer.padding == "valid"
    ):
        return "mean" if node.kind == "AveragePooling2D" else "max"
    if node.kind in ("Flatten", "Reshape") and sides != (1, 1) and len(node.outputs[0].shape) == 2:
        return "flatten"
    return None


def _axes(operation: Any) -> tuple[int, ...]:
    axis = getattr(operation, "axis", None)
    if axis is None:
        return ()
    return tuple(one % 4 for one in ((axis,) if isinstance(axis, int) else axis))


def _steps(node: Node) -> list[HeadStep] | None:
    """Return what a node of the head does to (N, F) or (N, 1, 1, F); None if not supported."""
    keras = backend.load()
    layer = node.operation
    if (
        len(node.inputs) != 1
        or not _pointlike(node.inputs[0])
        or not _pointlike(node.outputs[0])
        or node.kwargs.get("training")
    ):
        return None
    if node.kind in _IDLE or node.kind in ("Flatten", "Reshape"):
        return []
    if node.kind in ("Dense", "Conv2D"):
        return _dense(layer, node)
    if node.kind == "BatchNormalization":
        return _batch_norm(layer)
    if node.kind == "Rescaling":
        width = _width(node.inputs[0])
        scale, offset = (
            np.broadcast_to(np.asarray(value, np.float64), (width,))
            for value in (layer.scale, layer.offset)
        )
        return [HeadStep("affine", scale, offset)]
    if node.kind == "Activation":
        return _activation(layer.activation)
    if node.kind == "ReLU" and isinstance(layer, keras.layers.ReLU):
        plain = layer.max_value is None and not layer.negative_slope and not layer.threshold
        return [HeadStep("relu")] if plain else None
    if node.kind == "Softmax":  # a layer, or keras.ops.softmax
        return (
            [HeadStep("softmax")]
            if getattr(layer, "axis", None) in (-1, 1) and len(node.inputs[0].shape) == 2
            else None
        )
    if node.kind in ("Relu", "Sigmoid"):  # keras.ops
        return [HeadStep("relu" if node.kind == "Relu" else "sigmoid")]
    return None


def _pointlike(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 or (len(tensor.shape) == 4 and tensor.shape[1:3] == (1, 1))


def _activation(function: Any) -> list[HeadStep] | None:
    keras = backend.load()
    known: dict[str, list[HeadStep]] = {
        "linear": [],
        "relu": [HeadStep("relu")],
        "softmax": [HeadStep("softmax")],
        "sigmoid": [HeadStep("sigmoid")],
    }
    return next(
        (steps for name, steps in known.items() if function is getattr(keras.activations, name)),
        None,
    )


def _dense(layer: Any, node: Node) -> list[HeadStep] | None:
    """Return the steps of a dense layer, or of a 1x1 convolution of one position."""
    weights = layer.get_weights()
    convolution = node.kind == "Conv2D"
    if convolution and (
        len(node.inputs[0].shape) != 4 or tuple(layer.kernel_size) != (1, 1) or layer.groups != 1
    ):
        return None
    if len(weights) != 1 + bool(layer.use_bias) or weights[0].ndim != (4 if convolution else 2):
        return None  # quantised, or with low-rank additions
    kernel = weights[0][0, 0] if convolution else weights[0]
    bias = np.asarray(weights[1], np.float64) if layer.use_bias else np.zeros(kernel.shape[1])
    after = _activation(layer.activation)
    return None if after is None else [HeadStep("dense", kernel, bias), *after]


def _batch_norm(layer: Any) -> list[HeadStep]:
    """Return batch normalisation in inference: gamma * (x - mean) / sqrt(variance + eps) + beta."""
    keras = backend.load()

    def values(variable: Any) -> Floats:
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)

    factor = 1.0 / np.sqrt(values(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor = factor * values(layer.gamma)
    shift = -values(layer.moving_mean) * factor
    if layer.center:
        shift = shift + values(layer.beta)
    return [HeadStep("affine", factor, shift)]
