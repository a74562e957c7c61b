"""The model's graph: backbone, head, calibrated softmax and exact Grad-CAM in one ONNX graph.

    input   images         uint8    (N, S, S, 3)   RGB, 0 to 255
    output  probabilities  float32  (N, C)         rows sum to 1, calibrated
    output  heatmaps       float32  (N, T, h, w)   Grad-CAM of the T = min(3, C) most probable classes, most probable first;
                                                   0 or more; only where the backbone has a feature map

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the feature map A by the gradient of a class's logit and keeps what is
positive: relu(sum_k alpha_k A_k), alpha_k = mean over positions of d logit / d A_k. Behind average pooling every position
has the same gradient, (d logit / d features_k) / (h w), and d logit / d features of dense layers with ReLU is a product
of their weight matrices with the rows of inactive units struck out. So the gradient is a few small products in the graph itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import Backbone
from tailorbird.head import Head

if TYPE_CHECKING:
    import onnx

TOP = 3
PREFIX = "tailorbird/"


class _Builder:
    """Appends nodes and constants whose names no backbone uses."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), PREFIX + name))
        return PREFIX + name

    def node(self, operator: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> str:
        """Append a node; the name of its last output."""
        from onnx import helper

        names = [f"{PREFIX}{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        if name:
            names[-1] = name
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[-1]


def build(backbone: Backbone, head: Head, temperature: float) -> onnx.ModelProto:
    """Join a backbone and a head trained on its features into the model's graph, without metadata.

    temperature: the logits are divided by it before the softmax. The result passes the ONNX checker.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(backbone.proto)
    add = _Builder()
    classes = head.layers[-1].weight.shape[1]

    hidden: list[str] = []
    x = "features"
    for number, layer in enumerate(head.layers):
        weight = add.constant(f"weight{number}", layer.weight.astype(np.float32))
        bias = add.constant(f"bias{number}", layer.bias.astype(np.float32))
        x = add.node("Gemm", x, weight, bias)
        if number + 1 < len(head.layers):
            x = add.node("Relu", x)
            hidden.append(x)
    scaled = add.node("Mul", x, add.constant("inverse_temperature", np.float32(1.0 / temperature)))
    add.node("Softmax", scaled, name="probabilities", axis=1)

    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]))
    if backbone.info.grid:
        _grad_cam(add, head, hidden, classes, backbone.info.width, backbone.info.grid)
        shape = ["N", min(TOP, classes), *backbone.info.grid]
        model.graph.output.append(helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape))
    model.graph.node.extend(add.nodes)
    model.graph.initializer.extend(add.constants)
    del model.metadata_props[:]
    model.producer_name, model.graph.name = "tailorbird", "tailorbird"
    onnx.checker.check_model(model, full_check=True)
    return model


def _grad_cam(add: _Builder, head: Head, hidden: list[str], classes: int, width: int, grid: tuple[int, int]) -> None:
    """Append the heat maps of the most probable classes, from the logits' gradients by the features."""
    from onnx import TensorProto

    top = min(TOP, classes)
    ranked = add.node(
        "TopK", "probabilities", add.constant("top", np.array([top], np.int64)), outputs=2, axis=1, largest=1, sorted=1
    )
    # (classes, inputs of the last layer) gathered by (N, top) gives one row of gradient per image and class.
    # Transposing a constant costs nothing at run time: the runtime does it once when it opens the file.
    rows = add.node("Transpose", f"{PREFIX}weight{len(head.layers) - 1}", perm=[1, 0])
    gradient = add.node("Gather", rows, ranked, axis=0)
    for number in range(len(head.layers) - 2, -1, -1):
        layer = head.layers[number]
        zero = add.constant(f"zero{number}", np.float32(0))
        active = add.node("Cast", add.node("Greater", hidden[number], zero), to=TensorProto.FLOAT)
        units = add.constant(f"units{number}", np.array([-1, 1, layer.weight.shape[1]], np.int64))
        struck = add.node("Mul", gradient, add.node("Reshape", active, units))
        gradient = add.node("MatMul", struck, add.node("Transpose", f"{PREFIX}weight{number}", perm=[1, 0]))
    positions = grid[0] * grid[1]
    flat = add.node("Reshape", "feature_map", add.constant("flat", np.array([-1, width, positions], np.int64)))
    weighed = add.node("MatMul", gradient, flat)
    mean = add.node("Mul", weighed, add.constant("per_position", np.float32(1.0 / positions)))
    positive = add.node("Relu", mean)
    add.node("Reshape", positive, add.constant("maps", np.array([-1, top, *grid], np.int64)), name="heatmaps")
