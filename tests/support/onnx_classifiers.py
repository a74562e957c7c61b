"""Small classifiers in ONNX as exporters of several frameworks write them, made without any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
CLASSES = 4
WIDTH = 6


class Writer:
    """Collects the nodes and weights of a graph; weights are random, from a fixed seed."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, values: npt.ArrayLike) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def normal(self, name: str, *shape: int, scale: float = 0.5) -> str:
        return self.weight(name, self.random.normal(0, scale, shape).astype(np.float32))

    def node(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        output = to or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def model(
        self,
        image: Sequence[int | str],
        outputs: dict[str, Sequence[int | str]],
        *,
        opset: int = 17,
        facts: dict[str, str] | None = None,
        source: str = "input",
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [helper.make_tensor_value_info(source, TensorProto.FLOAT, image)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self.weights,
        )
        entries = [helper.make_opsetid("", opset)]
        if any(node.domain for node in self.nodes):
            entries.append(helper.make_opsetid("ai.onnx.ml", 3))
        made = helper.make_model(graph, opset_imports=entries, ir_version=8)
        helper.set_model_props(made, facts or {})
        return made


def trunk(write: Writer, pixels: str = "input") -> str:
    """Append a convolution with ReLU: (N, 3, S, S) to (N, WIDTH, S / 4, S / 4)."""
    kernel = write.normal("conv.weight", WIDTH, 3, 4, 4, scale=0.3)
    bias = write.normal("conv.bias", WIDTH)
    strided = write.node("Conv", pixels, kernel, bias, kernel_shape=[4, 4], strides=[4, 4])
    return write.node("Relu", strided)


def torchvision(*, batch: int | str = "N", softmax: bool = False) -> onnx.ModelProto:
    """As torch.onnx.export writes a ResNet: pooling, flatten, linear; logits."""
    write = Writer()
    pooled = write.node("GlobalAveragePool", trunk(write))
    if batch == "N":
        flat = write.node("Flatten", pooled, axis=1)
    else:  # the batch is part of a constant
        flat = write.node("Reshape", pooled, write.weight("shape", np.array([batch, WIDTH])))
    weight = write.normal("fc.weight", CLASSES, WIDTH)
    bias = write.normal("fc.bias", CLASSES)
    logits = write.node("Gemm", flat, weight, bias, transB=1, to="" if softmax else "logits")
    last = write.node("Softmax", logits, axis=1, to="output0") if softmax else logits
    return write.model([batch, 3, SIDE, SIDE], {last: [batch, CLASSES]})


def ultralytics() -> onnx.ModelProto:
    """As Ultralytics exports a classifier: one image at a time, a softmax, names in metadata."""
    model = torchvision(batch=1, softmax=True)
    helper.set_model_props(
        model,
        {
            "author": "Ultralytics",
            "task": "classify",
            "imgsz": f"[{SIDE}, {SIDE}]",
            "names": "{0: 'ant', 1: 'bee', 2: 'cow', 3: 'dog'}",
        },
    )
    return model


def custom_vision() -> onnx.ModelProto:
    """As Azure Custom Vision exports: a label, and a list of maps from names to probabilities."""
    write = Writer()
    pooled = write.node("GlobalAveragePool", trunk(write, "data"))
    flat = write.node("Reshape", pooled, write.weight("shape", np.array([-1, WIDTH])))
    product = write.node("MatMul", flat, write.normal("w", WIDTH, CLASSES))
    logits = write.node("Add", product, write.normal("b", CLASSES))
    chances = write.node("Softmax", logits, axis=1, to="chances")
    write.node("ArgMax", chances, axis=1, keepdims=0, to="classLabel")
    write.nodes.append(
        helper.make_node(
            "ZipMap",
            [chances],
            ["loss"],
            domain="ai.onnx.ml",
            classlabels_strings=["ant", "bee", "cow", "dog"],
        )
    )
    model = write.model(["N", 3, SIDE, SIDE], {"classLabel": ["N"]}, source="data")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(
            TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
    )
    model.graph.output.append(helper.make_value_info("loss", maps))
    return model


def keras_converted() -> onnx.ModelProto:
    """As tf2onnx writes Keras: channels last outside, a mean over positions, a hidden layer."""
    write = Writer()
    first = write.node("Transpose", "input", perm=[0, 3, 1, 2])
    pooled = write.node("ReduceMean", trunk(write, first), axes=[2, 3], keepdims=0)
    hidden = write.node("MatMul", pooled, write.normal("w1", WIDTH, 5))
    hidden = write.node("Relu", write.node("Add", hidden, write.normal("b1", 5)))
    logits = write.node("MatMul", hidden, write.normal("w2", 5, CLASSES))
    write.node("Softmax", write.node("Add", logits, write.normal("b2", CLASSES)), to="dense_1")
    return write.model(["N", SIDE, SIDE, 3], {"dense_1": ["N", CLASSES]}, opset=13)


def flattened() -> onnx.ModelProto:
    """As torchvision's VGG: the map is flattened, channel by channel."""
    write = Writer()
    flat = write.node("Flatten", trunk(write), axis=1)
    inside = WIDTH * (SIDE // 4) ** 2
    hidden = write.node("Gemm", flat, write.normal("w1", inside, 5, scale=0.1), transB=0)
    hidden = write.node("Relu", hidden)
    logits = write.node("Gemm", hidden, write.normal("w2", 5, CLASSES), to="logits")
    return write.model(["N", 3, SIDE, SIDE], {logits: ["N", CLASSES]})


def binary() -> onnx.ModelProto:
    """One output behind a sigmoid."""
    write = Writer()
    pooled = write.node("Flatten", write.node("GlobalMaxPool", trunk(write)), axis=1)
    score = write.node("Gemm", pooled, write.normal("w", WIDTH, 1))
    return write.model(
        ["N", 3, SIDE, SIDE], {write.node("Sigmoid", score, to="probability"): ["N", 1]}
    )


def normalised_inside() -> onnx.ModelProto:
    """A module that normalises pixels from 0 to 1 by ImageNet's mean and deviation."""
    write = Writer()
    mean = write.weight("mean", np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1)).astype(np.float32))
    std = write.weight("std", np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1)).astype(np.float32))
    pixels = write.node("Div", write.node("Sub", "input", mean), std)
    pooled = write.node("Flatten", write.node("GlobalAveragePool", trunk(write, pixels)), axis=1)
    logits = write.node("Gemm", pooled, write.normal("w", WIDTH, CLASSES), to="logits")
    return write.model(["N", 3, "H", "W"], {logits: ["N", CLASSES]})


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
