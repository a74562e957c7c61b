"""Build EfficientNet-Lite2 as an ONNX graph from its tensors, batch normalisation folded in.

Shapes: images uint8 (N, S, S, 3); inside, float32 (N, C, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]

STAGES = ((1, 3, 1), (3, 3, 2), (3, 5, 2), (4, 3, 2), (4, 5, 1), (5, 5, 2), (1, 3, 1))
"""Blocks, kernel and stride of the first block of each stage."""

EPSILON = 1e-3
"""Batch normalisation's constant, as in TensorFlow's network."""

OPSET = 17


def build(tensors: Mapping[str, Array], size: int) -> onnx.ModelProto:
    """Return the backbone, float32, without metadata.

    Args:
        tensors: The checkpoint's tensors by name.
        size: S, the side of the input in pixels.
    """
    return _Builder(tensors, size).model()


class _Builder:
    """The graph so far: its nodes and weights, and the current tensor and its side."""

    def __init__(self, tensors: Mapping[str, Array], size: int) -> None:
        self._tensors = tensors
        self._size = self._side = size
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        for name, value in (("zero", 0.0), ("six", 6.0), ("mean", 127.0), ("scale", 1 / 128)):
            self._weight(name, np.array(value, np.float32))
        last = self._node("Transpose", "channels_first", ["images"], perm=[0, 3, 1, 2])
        last = self._node("Cast", "float", [last], to=TensorProto.FLOAT)
        last = self._node("Sub", "centred", [last, "mean"])
        last = self._node("Mul", "normalised", [last, "scale"])
        last = self._conv("_conv_stem", "_bn0", last, stride=2)
        number = 0
        for blocks, kernel, stride in STAGES:
            for index in range(blocks):
                last = self._block(number, last, kernel, 1 if index else stride)
                number += 1
        last = self._conv("_conv_head", "_bn1", last, output="feature_map")
        average = self._node("GlobalAveragePool", "average", [last])
        self._node("Flatten", "features", [average], axis=1)
        return self._finished()

    def _block(self, number: int, source: str, kernel: int, stride: int) -> str:
        """Add an inverted bottleneck: expand (not in the first block), depthwise, project."""
        name = f"_blocks.{number}."
        last = source
        if name + "_expand_conv.weight" in self._tensors:
            last = self._conv(name + "_expand_conv", name + "_bn0", last)
        last = self._conv(name + "_depthwise_conv", name + "_bn1", last, stride=stride)
        last = self._conv(name + "_project_conv", name + "_bn2", last, clip=False)
        weight = self._tensors[name + "_project_conv.weight"]
        first = self._tensors.get(name + "_expand_conv.weight")
        if stride == 1 and first is not None and first.shape[1] == weight.shape[0]:
            last = self._node("Add", name + "sum", [source, last])
        return last

    def _conv(
        self,
        name: str,
        norm: str,
        source: str,
        *,
        stride: int = 1,
        clip: bool = True,
        output: str | None = None,
    ) -> str:
        """Add a convolution with its batch normalisation, and ReLU6 where `clip`."""
        weight, bias = self._folded(name, norm)
        self._weight(name + ".weight", weight)
        self._weight(name + ".bias", bias)
        kernel = weight.shape[2]
        made = self._node(
            "Conv",
            name if clip else output or name,
            [source, name + ".weight", name + ".bias"],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=self._pads(kernel, stride),
            group=weight.shape[0] if "depthwise" in name else 1,
        )
        if not clip:
            return made
        return self._node("Clip", output or name + ".relu6", [made, "zero", "six"])

    def _folded(self, name: str, norm: str) -> tuple[Array, Array]:
        """Return weight and bias of a convolution followed by its batch normalisation."""
        gamma, beta, mean, variance = (
            self._tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        weight = self._tensors[name + ".weight"] * scale[:, None, None, None]
        return weight.astype(np.float32), (beta - mean * scale).astype(np.float32)

    def _pads(self, kernel: int, stride: int) -> list[int]:
        """Return TensorFlow's "same" padding, the odd pixel at the end, and go to the new side."""
        after = math.ceil(self._side / stride)
        total = max((after - 1) * stride + kernel - self._side, 0)
        self._side = after
        return [total // 2] * 2 + [total - total // 2] * 2

    def _node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, name: str, value: npt.NDArray[np.generic]) -> None:
        self._weights.append(numpy_helper.from_array(value, name))

    def _finished(self) -> onnx.ModelProto:
        width = self._tensors["_conv_head.weight"].shape[0]
        size, side = self._size, self._side
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])
        grid = helper.make_tensor_value_info(
            "feature_map", TensorProto.FLOAT, ["N", width, side, side]
        )
        graph = helper.make_graph(
            self._nodes, "lite", [images], [features, grid], initializer=self._weights
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
            producer_name="tailorbird",
        )
        onnx.checker.check_model(model, full_check=True)
        return model
