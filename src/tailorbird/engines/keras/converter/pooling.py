"""Keras' pooling layers as ONNX nodes, and the padding that convolutions share with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tailorbird.engines.keras.converter.writer import Made, Value, Writer

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | None, ...]


def same_pads(
    sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return the zeros for padding="same" in ONNX' order: all beginnings, then all ends.

    An odd zero comes at the end.
    """
    totals = [
        max((math.ceil(side / stride) - 1) * stride + (taps - 1) * gap + 1 - side, 0)
        for side, taps, stride, gap in zip(sides, kernel, strides, dilation, strict=True)
    ]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def images(w: Writer, layer: Any, x: Value) -> Value:
    """Return the input with the channels second, for any data format of the layer."""
    return w.turn(x, moved=layer.data_format == "channels_last")


def average_pool(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    """Write AveragePooling2D; padding is not part of an average (count_include_pad is 0)."""
    x = images(w, layer, xs[0])
    return w.add("AveragePool", [x.name], **_windows(layer, x)), x.moved


def max_pool(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    """Write MaxPooling2D: a ZeroPadding2D before it adds real zeros, padding="same" does not."""
    x = images(w, layer, xs[0])
    settings = _windows(layer, x)
    pad = _maker(w, x.name)
    if pad is None or pad.op_type != "Pad" or _is_relu(w, pad.input[0]):
        return w.add("MaxPool", [x.name], **settings), x.moved
    # ONNX Runtime (up to 1.31) fuses Pad and MaxPool and then ignores the zeros: a window of
    # negative numbers at the border would give its largest number. So the zeros are a constant,
    # 0 for windows that touch them.
    top, left, bottom, right = _pads(w, pad)
    inside = np.zeros(x.sides[1:], bool)
    inside[top : x.sides[1] - bottom, left : x.sides[2] - right] = True
    same = settings["pads"]
    inside = np.pad(inside, ((same[0], same[2]), (same[1], same[3])), constant_values=True)
    windows = np.lib.stride_tricks.sliding_window_view(inside, settings["kernel_shape"])
    touching = ~windows[:: settings["strides"][0], :: settings["strides"][1]].all(axis=(2, 3))
    floor = np.where(touching, np.float32(0), np.finfo(np.float32).min)[None, None]
    settings["pads"] = [same[0] + top, same[1] + left, same[2] + bottom, same[3] + right]
    if all(
        pads < side
        for pads, side in zip(settings["pads"], [*settings["kernel_shape"]] * 2, strict=True)
    ):
        return w.add(
            "Max", [w.add("MaxPool", [pad.input[0]], **settings), w.constant(floor)]
        ), x.moved
    # MaxPool refuses windows of padding alone: pad with the lowest number instead.
    settings["pads"] = same
    lowest = w.constant(np.finfo(np.float32).min)
    padded = w.add("Pad", [pad.input[0], pad.input[1], lowest])
    return w.add("Max", [w.add("MaxPool", [padded], **settings), w.constant(floor)]), x.moved


def global_pool(operator: str) -> Callable[..., Made]:
    """Return the translation of GlobalAveragePooling2D or GlobalMaxPooling2D, by operator."""

    def pool(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
        x = images(w, layer, xs[0])
        name = w.add(operator, [x.name])
        return (name, x.moved) if layer.keepdims else (w.add("Flatten", [name], axis=1), False)

    return pool


def _windows(layer: Any, x: Value) -> dict[str, Any]:
    """Return the attributes of a pooling operator."""
    kernel, strides = list(layer.pool_size), list(layer.strides)
    pads = (
        same_pads(x.sides[1:], kernel, strides, [1, 1]) if layer.padding == "same" else [0, 0, 0, 0]
    )
    return {"kernel_shape": kernel, "strides": strides, "pads": pads}


def _maker(w: Writer, name: str) -> onnx.NodeProto | None:
    return next((node for node in reversed(w.nodes) if name in node.output), None)


def _is_relu(w: Writer, name: str) -> bool:
    """Return whether a tensor is a ReLU's result: then zeros change no maximum."""
    maker = _maker(w, name)
    return maker is not None and maker.op_type == "Relu"


def _pads(w: Writer, pad: onnx.NodeProto) -> tuple[int, int, int, int]:
    """Return the zeros above, left, below and right that a Pad node adds."""
    from onnx import numpy_helper

    values = next(
        numpy_helper.to_array(tensor) for tensor in w.initialisers if tensor.name == pad.input[1]
    )
    top, left, bottom, right = (int(values[place]) for place in (2, 3, 6, 7))
    return top, left, bottom, right
