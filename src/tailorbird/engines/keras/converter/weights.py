"""Keras' weights inside an ONNX file: their layout there, and how to load them back.

An initialiser that is one of the model's weights is named keras/NNNN/PATH: NNNN is its position in
`model.weights`, PATH Keras' path of the variable. Only the order of axes may differ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BackboneError

if TYPE_CHECKING:
    import onnx

PREFIX = "keras/"

Array = npt.NDArray[np.float32]


def stored(values: Array, layout: str) -> Array:
    """Return a variable with its axes in ONNX' order.

    layout: `convolution`, (h, w, in, out) to (out, in, h, w); `depthwise`, (h, w, in, m) to
        (in * m, 1, h, w); `pointwise`, a dense layer at every position, (in, out) to
        (out, in, 1, 1); `as is`.
    """
    if layout == "convolution":
        return values.transpose(3, 2, 0, 1)
    if layout == "depthwise":
        height, width, inputs, each = values.shape
        return values.transpose(2, 3, 0, 1).reshape(inputs * each, 1, height, width)
    if layout == "pointwise":
        return values.T[:, :, None, None]
    return values


def restored(values: Array, shape: tuple[int, ...], *, depthwise: bool) -> Array | None:
    """Return the inverse of `stored` for a variable of this shape; None if it does not fit.

    depthwise: whether it has a filter bank per input channel.
    """
    result = values
    if values.ndim == 4 and len(shape) == 4:
        if depthwise:
            height, width, inputs, each = shape
            if values.shape != (inputs * each, 1, height, width):
                return None
            result = values.reshape(inputs, each, height, width).transpose(2, 3, 0, 1)
        else:
            result = values.transpose(2, 3, 1, 0)
    elif values.ndim == 4 and len(shape) == 2 and values.shape[2:] == (1, 1):
        result = values[:, :, 0, 0].T
    return result if result.shape == shape else None


def _kind(path: str) -> str:
    """Return what a variable is, such as kernel: the end of its path, without a number."""
    return re.sub(r"_\d+$", "", path.rpartition("/")[2])


def read_weights(proto: onnx.ModelProto, model: Any) -> None:
    """Load the weights of a converted file into a Keras model of the same architecture.

    The input size may differ, and the file may have further initialisers. Raises BackboneError,
    which names it, for a weight that is missing or has another shape; the model may then have been
    changed in part.
    """
    from onnx import numpy_helper

    found = {}
    for tensor in proto.graph.initializer:
        position = tensor.name.removeprefix(PREFIX).partition("/")[0]
        if tensor.name.startswith(PREFIX) and position.isdecimal():
            found[int(position)] = tensor
    if not found and model.weights:
        raise BackboneError(
            "the file holds no Keras weights; only backbones made by the Keras engine can be "
            "rebuilt in Keras: tailorbird backbones pull keras:NAME"
        )
    layers = {
        id(variable): layer
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
    }
    for position, variable in enumerate(model.weights):
        if "int" in str(variable.dtype):
            continue  # counters, on which no result depends
        if position not in found:
            raise BackboneError(
                f"the file lacks the weight {variable.path} (number {position} of "
                f"{len(model.weights)}); it was made from another network"
            )
        kind = type(layers.get(id(variable))).__name__
        depthwise = kind == "DepthwiseConv2D" or variable.name == "depthwise_kernel"
        values = restored(
            numpy_helper.to_array(found[position]), tuple(variable.shape), depthwise=depthwise
        )
        if values is None or _kind(found[position].name) != _kind(variable.name):
            raise BackboneError(
                f"the weight {variable.path} has shape {tuple(variable.shape)} in Keras, and "
                f"{found[position].name} in the file has {tuple(found[position].dims)}; the file "
                "was made from another network"
            )
        variable.assign(values)
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):  # Normalization has a copy of its weights
            layer.finalize_state()
