"""Analyse a classifier in ONNX: its features, how they are pooled, and its head.

    ... -> feature map (N, K, h, w) -> pooling -> features (N, F)
        -> [batch norm, dense, ReLU] x any -> dense -> softmax | sigmoid | nothing

The graph is walked from the scores backwards as far as operators can be folded into a Head, as for
Keras. Shapes are measured in a run, because the shapes declared in a file may be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.engines.heads import HeadStep, can_fold, fold
from tailorbird.head import Head

if TYPE_CHECKING:
    import onnx

Pooling = Literal["mean", "max", "flatten", "none"]
Layout = Literal["first", "last", "tokens"]
Shape = tuple[int, ...]
Array = npt.NDArray[Any]

MOST_STEPS = 64
_IDLE = frozenset({"Identity", "Dropout", "Cast", "LogSoftmax"})
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean", "AveragePool"})
_MAXIMA = frozenset({"GlobalMaxPool", "ReduceMax", "MaxPool"})
_POSITIONS: Mapping[tuple[int, ...], Layout] = {(2, 3): "first", (1, 2): "last"}


@dataclass(frozen=True)
class Structure:
    """Structure of a classifier.

    Attributes:
        features: the head's input, (N, F) or (N, F, 1, 1).
        width: F.
        feature_map: the tensor that the features are pooled from; None where there can be no heat
            maps.
        layout: order of its axes: (N, K, h, w), (N, h, w, K) or (N, h * w, K).
        pooling: how the features are pooled from it.
        head: layers from features to logits (N, C); None where the scores end in an operator that
            is not supported, and the features are the scores themselves.
        ending: what is applied to the logits in the file.
        logits: the tensor before that.
        outputs: scores per image.
        why: reason for a missing feature map; empty if there is one.
    """

    features: str
    width: int
    feature_map: str | None
    layout: Layout
    pooling: Pooling
    head: Head | None
    ending: Literal["softmax", "sigmoid", "logits", "unknown"]
    logits: str
    outputs: int
    why: str


class Weights:
    """The constant tensors of a graph: weights, also behind operators that only reorder them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}

    def array(self, name: str) -> Array | None:
        """Return a constant tensor as an array; None for a tensor that depends on the images."""
        from onnx import numpy_helper

        if name in self._tensors:
            return np.asarray(numpy_helper.to_array(self._tensors[name]))
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            attribute = node.attribute[0]
            return numpy_helper.to_array(attribute.t) if attribute.HasField("t") else None
        inner = self.array(node.input[0]) if node.op_type in _REORDERS and node.input else None
        if inner is None or node.op_type in ("Identity", "Cast"):
            return inner
        order = attributes(node).get("perm")
        return inner.transpose(order) if order is None or len(order) == inner.ndim else None


_REORDERS = frozenset({"Identity", "Cast", "Transpose"})


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def walked(graph: onnx.GraphProto, scores: str) -> list[str]:
    """Return the tensors on the way back from the scores, up to where two paths join."""
    weights, makers = Weights(graph), {name: node for node in graph.node for name in node.output}
    found, here = [scores], scores
    while (node := makers.get(here)) is not None and len(found) < MOST_STEPS:
        moving = [name for name in node.input if name and weights.array(name) is None]
        if len(moving) != 1:
            break
        here = moving[0]
        found.append(here)
    return found


def analyse(graph: onnx.GraphProto, scores: str, shapes: Mapping[str, Shape]) -> Structure:
    """Analyse a classifier.

    shapes: of the tensors of `walked`, measured for some number of images.
    """
    weights, makers = Weights(graph), {name: node for node in graph.node for name in node.output}
    steps: list[HeadStep] = []
    here, logits, pooling = scores, scores, None
    behind = [scores]
    why = "it has no pooling of a feature map"
    while (node := makers.get(here)) is not None:
        moving = [name for name in node.input if name and weights.array(name) is None]
        source = moving[0] if len(moving) == 1 and moving[0] in shapes else None
        pooling = _pooling(node, source, here, weights, shapes) if source else None
        if pooling is not None:
            break
        found = _steps(node, source, here, weights, shapes) if source else None
        if source is None or found is None or (steps and any(one.ends for one in found)):
            why = (
                f"{node.op_type} ({node.name or here}) between pooling and scores is not an "
                "operator through which Grad-CAM can be computed"
            )
            break
        candidate = [*found, *steps]
        if not can_fold(candidate, _width(shapes[source])):
            why = f"{node.op_type} ({node.name or here}) does not fit dense layers with ReLU"
            break
        if not steps and found and found[-1].ends:
            logits = source
        steps, here = candidate, source
        behind.append(here)
    stuck = here == scores and pooling is None
    ending: Any = "unknown" if stuck else "logits"
    if steps and steps[-1].ends:
        ending = steps.pop().kind
    width, outputs = _width(shapes[here]), _width(shapes[scores])
    head = None if stuck or not can_fold(steps, width) else fold(steps, width)
    if head is None and ending != "unknown":  # a softmax behind something that cannot be folded
        here, width = logits, _width(shapes[logits])
    if pooling is None or head is None:
        return Structure(here, width, None, "first", "none", head, ending, logits, outputs, why)
    kind, layout, feature_map = pooling
    return Structure(here, width, feature_map, layout, kind, head, ending, logits, outputs, "")


def _width(shape: Shape) -> int:
    """Return F of (N, F), (N, F, 1, 1) or (N, 1, 1, F)."""
    return math.prod(shape[1:])


def _pointlike(shape: Shape) -> bool:
    """Return whether a tensor has one row of numbers per image, whatever its axes."""
    return len(shape) >= 2 and sum(side > 1 for side in shape[1:]) <= 1


def _pooling(
    node: onnx.NodeProto, source: str, result: str, weights: Weights, shapes: Mapping[str, Shape]
) -> tuple[Pooling, Layout, str] | None:
    """Return how a node pools a feature map into one row per image: kind, layout and map."""
    shape = shapes[source]
    if not _pointlike(shapes[result]) or _pointlike(shape):
        return None
    if node.op_type in _RESHAPES and len(shape) == 4 and len(shapes[result]) == 2:
        return "flatten", "first", source
    kind: Pooling | None = None
    if node.op_type in _MEANS:
        kind = "mean"
    elif node.op_type in _MAXIMA:
        kind = "max"
    if kind is None:
        return None
    if node.op_type.startswith("Reduce"):
        axes = _axes(node, weights, len(shape))
        if len(shape) == 4 and axes in _POSITIONS:
            return kind, _POSITIONS[axes], source
        side = math.isqrt(shape[1]) if len(shape) == 3 else 0
        if axes == (1,) and side > 1 and side * side == shape[1] and shape[2] > 1:
            return kind, "tokens", source
        return None
    values = attributes(node)
    whole = "kernel_shape" not in values or (
        tuple(values["kernel_shape"]) == shape[2:] and not any(values.get("pads", ()))
    )
    return (kind, "first", source) if whole and len(shape) == 4 else None


def _axes(node: onnx.NodeProto, weights: Weights, rank: int) -> tuple[int, ...]:
    """Return a reduction's axes: an attribute before operator set 18, then an input."""
    found = attributes(node).get("axes")
    if found is None and len(node.input) > 1:
        array = weights.array(node.input[1])
        found = None if array is None else array.ravel().tolist()
    return tuple(sorted(int(axis) % rank for axis in found)) if found is not None else ()


def _steps(
    node: onnx.NodeProto, source: str, result: str, weights: Weights, shapes: Mapping[str, Shape]
) -> list[HeadStep] | None:
    """Return what a node of the head does to one row per image; None if it is not supported."""
    shape = shapes[source]
    if not _pointlike(shape) or not _pointlike(shapes[result]):
        return None
    operator = node.op_type
    if operator in _IDLE or operator in _RESHAPES:
        return []
    if operator == "Transpose":
        return [] if _width(shape) == _width(shapes[result]) else None
    if operator in ("Relu", "Sigmoid"):
        return [HeadStep("relu" if operator == "Relu" else "sigmoid")]
    if operator == "Softmax":
        rank = len(shape)
        axis = int(attributes(node).get("axis", -1)) % rank
        return [HeadStep("softmax")] if shape[axis] == _width(shape) else None
    values = [weights.array(name) if name else None for name in node.input]
    if operator in ("Gemm", "MatMul", "Conv"):
        return _dense(node, values, shape)
    if operator == "BatchNormalization":
        return _batch_norm(node, values)
    if operator in ("Add", "Sub", "Mul", "Div"):
        return _affine(node, values, _width(shape))
    return None


def _dense(node: onnx.NodeProto, values: list[Array | None], shape: Shape) -> list[HeadStep] | None:
    """Return the step of a linear layer with constant weights."""
    stated = attributes(node)
    kernel = values[1]
    if values[0] is not None or kernel is None:
        return None
    kernel = kernel.astype(np.float64)
    if node.op_type == "Conv":
        if kernel.shape[2:] != (1, 1) or stated.get("group", 1) != 1 or any(stated.get("pads", ())):
            return None
        kernel = kernel[:, :, 0, 0].T
    elif node.op_type == "Gemm":
        if stated.get("transA", 0):
            return None
        kernel = (kernel.T if stated.get("transB", 0) else kernel) * stated.get("alpha", 1.0)
    if kernel.ndim != 2 or kernel.shape[0] != _width(shape):
        return None
    bias = values[2] if len(values) > 2 else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return None
    shift = np.zeros(kernel.shape[1]) if bias is None else bias.astype(np.float64).ravel()
    if node.op_type == "Gemm":
        shift = shift * stated.get("beta", 1.0)
    return [HeadStep("dense", kernel, np.broadcast_to(shift, (kernel.shape[1],)).copy())]


def _batch_norm(node: onnx.NodeProto, values: list[Array | None]) -> list[HeadStep] | None:
    """Return batch normalisation in inference: gamma * (x - mean) / sqrt(var + eps) + beta."""
    found = [value.astype(np.float64) for value in values[1:] if value is not None]
    if len(found) != 4:
        return None
    gamma, beta, mean, variance = found
    factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return [HeadStep("affine", factor, beta - mean * factor)]


def _affine(node: onnx.NodeProto, values: list[Array | None], width: int) -> list[HeadStep] | None:
    """Return the step of an operation with a constant."""
    constant = next((value for value in values if value is not None), None)
    if constant is None or len(values) != 2 or constant.size not in (1, width):
        return None
    numbers = np.broadcast_to(constant.astype(np.float64).ravel(), (width,)).copy()
    ones, zeros = np.ones(width), np.zeros(width)
    first = values[0] is not None
    if node.op_type == "Add":
        return [HeadStep("affine", ones, numbers)]
    if node.op_type == "Sub":
        return [HeadStep("affine", -ones if first else ones, numbers if first else -numbers)]
    if node.op_type == "Mul":
        return [HeadStep("affine", numbers, zeros)]
    return None if first else [HeadStep("affine", 1 / numbers, zeros)]
