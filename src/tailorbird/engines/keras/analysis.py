"""Where a classifier's features are, how they come from a feature map, and the dense layers behind them folded into a Head.

    ... -> feature map -> pooling -> features -> [dropout, batch norm, dense, ReLU] x any -> dense -> softmax | sigmoid | nothing
           (N, h, w, K)              (N, F)

Walked from the output backwards as far as layers can be folded. Where the pooling is reached, the heat maps are exact; where
something stands in the way, the features are what comes out of that, and there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.graph import Graph, Node, Tensor
from tailorbird.errors import ModelFileError
from tailorbird.head import Dense, Head

Pooling = Literal["mean", "max", "flatten", "none"]
Ending = Literal["softmax", "sigmoid", "logits", "unknown"]
Floats = npt.NDArray[np.float64]

MOST_INSERTED = 4096
"""The widest ReLU that is folded as a dense layer of its own, where none stands before it."""

_IDLE = frozenset({"Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
                   "ActivityRegularization", "Identity"})  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing a layer of the head does. scale, shift: weight (I, O) and bias (O,) of a dense step, both (O,) of an affine one."""

    kind: Literal["dense", "affine", "relu", "softmax", "sigmoid"]
    scale: npt.NDArray[Any] | None = None
    shift: Floats | None = None


@dataclass(frozen=True)
class Structure:
    """What `analyse` found.

    features: the tensor the head sits on, (N, F) or (N, 1, 1, F). feature_map: the tensor (N, h, w, K) the features are pooled from, None
    where there can be no heat maps; `why` then says why. head: from the features to logits of C classes; None where it ends with a
    layer that is not understood, and the features are the model's own outputs. ending: what follows the logits in the model, and
    activation: the layer that does it.
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
        """Numbers the model gives for an image."""
        return int(self.graph.outputs[0].shape[-1] or 0)


def analyse(graph: Graph) -> Structure:
    """Take a classifier apart. Raises ModelFileError for a network that does not give one row of class scores for each image."""
    if len(graph.outputs) != 1:
        raise ModelFileError(
            f"the model has {len(graph.outputs)} outputs ({', '.join(tensor.key for tensor in graph.outputs)}); a classifier has one, (N, classes)"
        )
    output = graph.outputs[0]
    if len(output.shape) != 2 or not output.shape[1]:
        raise ModelFileError(
            f"the model's output has shape {output.shape}; a classifier's is (N, classes): it was made for another task"
        )
    makers = {tensor.key: node for node in graph.nodes for tensor in node.outputs}
    steps: list[Step] = []
    activation: Node | None = None
    here, behind = output, [output]
    pooling: Pooling | None = None
    why = "it has no pooling of a feature map"
    while (node := makers.get(here.key)) is not None:
        pooling = _pooling(node)
        if pooling is not None:
            break
        found = _steps(node)
        if (
            found is None
            or len(node.inputs) != 1
            or (steps and any(step.kind in ("softmax", "sigmoid") for step in found))
        ):
            why = f"between pooling and output stands {node.path} ({_shown(node)}), behind which Grad-CAM is no product of matrices"
            break
        candidate = [*found, *steps]
        if not _folds(candidate, _width(node.inputs[0])):
            why = f"{node.path} ({_shown(node)}) does not fit a stack of dense layers with ReLU"
            break
        if not steps and found and found[-1].kind in ("softmax", "sigmoid"):
            activation = node
        steps, here = candidate, node.inputs[0]
        behind.append(here)
    stuck = here is output and pooling is None
    ending: Ending = "unknown" if stuck else "logits"
    if steps and steps[-1].kind in ("softmax", "sigmoid"):
        ending = "softmax" if steps.pop().kind == "softmax" else "sigmoid"
    head = None if stuck or not _folds(steps, _width(here)) else _fold(steps, _width(here))
    if pooling is None or head is None:
        return Structure(graph, here, None, "none", head, ending, activation, why)
    node = makers[here.key]
    (feature_map,) = node.inputs
    if feature_map.shape[1:3] == (1, 1):
        return Structure(
            graph,
            here,
            None,
            "none",
            head,
            ending,
            activation,
            f"its feature map in front of {node.path} has a single position",
        )
    flat = next(
        (
            tensor
            for tensor in reversed(behind)
            if len(tensor.shape) == 2 and _same(here, tensor, makers)
        ),
        here,
    )
    return Structure(graph, flat, feature_map, pooling, head, ending, activation, "")


def _same(start: Tensor, end: Tensor, makers: dict[str, Node]) -> bool:
    """Whether only layers that do nothing, or take axes of one away, lie between two tensors."""
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
    """How a node makes features of a feature map (N, h, w, K), None where it does not."""
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


def _steps(node: Node) -> list[Step] | None:
    """What a node of the head does, None where that is not understood. Its input is (N, F) or (N, 1, 1, F)."""
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
        return [Step("affine", scale, offset)]
    if node.kind == "Activation":
        return _activation(layer.activation)
    if node.kind == "ReLU" and isinstance(layer, keras.layers.ReLU):
        plain = layer.max_value is None and not layer.negative_slope and not layer.threshold
        return [Step("relu")] if plain else None
    if node.kind == "Softmax":  # a layer, or keras.ops.softmax
        return (
            [Step("softmax")]
            if getattr(layer, "axis", None) in (-1, 1) and len(node.inputs[0].shape) == 2
            else None
        )
    if node.kind in ("Relu", "Sigmoid"):  # keras.ops
        return [Step("relu" if node.kind == "Relu" else "sigmoid")]
    return None


def _pointlike(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 or (len(tensor.shape) == 4 and tensor.shape[1:3] == (1, 1))


def _activation(function: Any) -> list[Step] | None:
    keras = backend.load()
    known: dict[str, list[Step]] = {
        "linear": [],
        "relu": [Step("relu")],
        "softmax": [Step("softmax")],
        "sigmoid": [Step("sigmoid")],
    }
    return next(
        (steps for name, steps in known.items() if function is getattr(keras.activations, name)),
        None,
    )


def _dense(layer: Any, node: Node) -> list[Step] | None:
    """A dense layer, or a convolution of one position by one position."""
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
    return None if after is None else [Step("dense", kernel, bias), *after]


def _batch_norm(layer: Any) -> list[Step]:
    """Batch normalisation in inference mode: scale * (x - mean) / sqrt(variance + epsilon) + centre."""
    keras = backend.load()

    def values(variable: Any) -> Floats:
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)

    factor = 1.0 / np.sqrt(values(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor = factor * values(layer.gamma)
    shift = -values(layer.moving_mean) * factor
    if layer.center:
        shift = shift + values(layer.beta)
    return [Step("affine", factor, shift)]


def _folds(steps: list[Step], width: int) -> bool:
    """Whether `_fold` can do it, with a softmax or sigmoid at the end or without. width: of what goes in."""
    inner = steps[:-1] if steps and steps[-1].kind in ("softmax", "sigmoid") else steps
    is_open = False
    for number, step in enumerate(inner):
        if step.kind in ("softmax", "sigmoid") or (
            step.kind == "relu" and number + 1 == len(inner)
        ):
            return False
        if step.kind == "relu" and not is_open and width > MOST_INSERTED:
            return False
        if step.kind == "dense":
            assert step.scale is not None
            width = step.scale.shape[1]
        is_open = step.kind == "dense" or (is_open and step.kind == "affine")
    return is_open or width <= MOST_INSERTED


def _fold(steps: list[Step], width: int) -> Head:
    """The steps, without a softmax or sigmoid at the end, as dense layers with ReLU between them.

    What is affine is multiplied into the dense layer before it, or, behind a ReLU and on the features, into the next one.
    """
    layers: list[tuple[npt.NDArray[Any], Floats]] = []
    is_open = False  # the last layer's outputs are still to pass a ReLU
    scale, shift = (
        np.ones(width),
        np.zeros(width),
    )  # what happens before the next layer, where there is none open
    for step in steps:
        idle = bool((scale == 1).all() and not shift.any())
        if step.kind == "relu":
            # On the features, or on what an affine step made of them, it needs a layer of its own; behind another ReLU it does nothing.
            if not is_open and not (layers and idle):
                layers.append((np.diag(scale), shift))
                scale, shift = np.ones(len(scale)), np.zeros(len(scale))
            is_open = False
            continue
        assert step.scale is not None and step.shift is not None
        if is_open:
            weight, bias = layers.pop()
            if step.kind == "dense":
                layers.append(
                    (weight.astype(np.float64) @ step.scale, bias @ step.scale + step.shift)
                )
            else:
                layers.append((weight * step.scale, bias * step.scale + step.shift))
        elif step.kind == "dense":
            # Untouched where there is nothing to fold in: the first layer behind a flattened map can be half a gigabyte.
            layers.append(
                (step.scale, step.shift)
                if idle
                else (scale[:, None] * step.scale, shift @ step.scale + step.shift)
            )
            is_open = True
        else:
            scale, shift = scale * step.scale, shift * step.scale + step.shift
        if step.kind == "dense":
            scale, shift = np.ones(step.scale.shape[1]), np.zeros(step.scale.shape[1])
    if not is_open:
        layers.append((np.diag(scale), shift))
    return Head(
        tuple(
            Dense(weight.astype(np.float32, copy=False), bias.astype(np.float32))
            for weight, bias in layers
        )
    )
