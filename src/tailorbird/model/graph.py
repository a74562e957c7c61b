"""The model's graph: backbone, head, calibrated softmax and exact Grad-CAM in one ONNX graph.

    input   images         uint8    (N, S, S, 3)   RGB, 0 to 255
    output  probabilities  float32  (N, C)         rows sum to 1, calibrated
    output  heatmaps       float32  (N, T, h, w)   Grad-CAM of the T = min(3, C) most probable classes, most probable first;
                                                   0 or more; only where the backbone graph has a feature map

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the feature map A by the gradient of a class's logit and keeps what is
positive: relu(sum_k alpha_k A_k), alpha_k = mean over the h w positions of d logit / d A_k. With g = d logit / d features, which
behind dense layers with ReLU is a product of their weight matrices with the rows of inactive units struck out:

- average pooling: every position has the gradient g_k / (h w), and so has their mean.
- maximum over positions: the position that holds the maximum has the gradient g_k, the others none: the mean is g_k / (h w) again.
  Where several positions share the maximum the derivative is not unique; every framework's choice (all to one of them, or shared
  equally) has the sum g_k, so alpha does not depend on it.
- flattened, in Keras' order (row, column, channel): each position has a gradient of its own, and alpha_k is the mean of the g at
  the h w places of channel k. The mean over positions is linear, so it is taken of the first layer's weights, once and for all.

So the gradient is a few small products in the graph itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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

    def node(
        self,
        operator: str,
        *inputs: str,
        outputs: int = 1,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node; the name of its last output."""
        from onnx import helper

        names = [f"{PREFIX}{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        if name:
            names[-1] = name
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[-1]


@dataclass(frozen=True)
class BackboneGraph:
    """Backbone graph with its feature-map shape and pooling.

    proto: input `images` uint8 (N, S, S, 3); output `features` float32 (N, width) and, where feature_map is not None, `feature_map`
    float32 (N, K, h, w). feature_map: its (K, h, w). pooling: how the features come from the map: their mean or max over the
    positions (width = K), or flatten, the map in the order row, column, channel (width = h w K); none: in no such way, no heat maps.
    """

    proto: onnx.ModelProto
    width: int
    feature_map: tuple[int, int, int] | None
    pooling: Literal["mean", "max", "flatten", "none"]

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit each other."""
        if (self.feature_map is None) != (self.pooling == "none"):
            raise ValueError(
                f"pooling is {self.pooling!r} and the feature map {self.feature_map}: one says that there is no map"
            )
        if self.feature_map is not None:
            channels, height, width = self.feature_map
            expected = channels * height * width if self.pooling == "flatten" else channels
            if self.width != expected:
                raise ValueError(
                    f"{self.pooling} of a map {self.feature_map} gives {expected} features, not {self.width}"
                )

    @classmethod
    def of(cls, backbone: Backbone) -> BackboneGraph:
        """A backbone, whose features are the mean of its feature map where it has one."""
        width, grid = backbone.info.width, backbone.info.grid
        if grid is None:
            return cls(backbone.proto, width, None, "none")
        return cls(backbone.proto, width, (width, *grid), "mean")


def build(backbone: Backbone | BackboneGraph, head: Head, temperature: float) -> onnx.ModelProto:
    """Join a backbone, or a backbone graph, and a head trained on its features into the model's graph, without metadata.

    temperature: the logits are divided by it before the softmax. The result passes the ONNX checker.
    """
    import onnx
    from onnx import TensorProto, helper

    backbone_graph = backbone if isinstance(backbone, BackboneGraph) else BackboneGraph.of(backbone)
    model = onnx.ModelProto()
    model.CopyFrom(backbone_graph.proto)
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
    model.graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])
    )
    if backbone_graph.feature_map:
        _grad_cam(add, head, hidden, classes, backbone_graph)
        shape: list[str | int | None] = ["N", min(TOP, classes), *backbone_graph.feature_map[1:]]
        model.graph.output.append(
            helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape)
        )
    model.graph.node.extend(add.nodes)
    model.graph.initializer.extend(add.constants)
    del model.metadata_props[:]
    model.producer_name, model.graph.name = "tailorbird", "tailorbird"
    onnx.checker.check_model(model, full_check=True)
    return model


def _grad_cam(
    add: _Builder, head: Head, hidden: list[str], classes: int, backbone_graph: BackboneGraph
) -> None:
    """Append the heat maps of the most probable classes, from the logits' gradients by the features."""
    from onnx import TensorProto

    assert backbone_graph.feature_map is not None
    channels, *grid = backbone_graph.feature_map
    positions = grid[0] * grid[1]
    weights = [f"{PREFIX}weight{number}" for number in range(len(head.layers))]
    share = 1.0 / positions
    if backbone_graph.pooling == "flatten":
        first = head.layers[0].weight.reshape(positions, channels, -1)
        weights[0] = add.constant(
            "weight0_mean", first.mean(axis=0, dtype=np.float64).astype(np.float32)
        )
        share = 1.0
    top = min(TOP, classes)
    ranked = add.node(
        "TopK",
        "probabilities",
        add.constant("top", np.array([top], np.int64)),
        outputs=2,
        axis=1,
        largest=1,
        sorted=1,
    )
    # (classes, inputs of the last layer) gathered by (N, top) gives one row of gradient per image and class.
    # Transposing a constant costs nothing at run time: the runtime does it once when it opens the file.
    rows = add.node("Transpose", weights[-1], perm=[1, 0])
    gradient = add.node("Gather", rows, ranked, axis=0)
    for number in range(len(head.layers) - 2, -1, -1):
        layer = head.layers[number]
        zero = add.constant(f"zero{number}", np.float32(0))
        active = add.node("Cast", add.node("Greater", hidden[number], zero), to=TensorProto.FLOAT)
        units = add.constant(f"units{number}", np.array([-1, 1, layer.weight.shape[1]], np.int64))
        struck = add.node("Mul", gradient, add.node("Reshape", active, units))
        gradient = add.node("MatMul", struck, add.node("Transpose", weights[number], perm=[1, 0]))
    flat = add.node(
        "Reshape",
        "feature_map",
        add.constant("flat", np.array([-1, channels, positions], np.int64)),
    )
    weighed = add.node("MatMul", gradient, flat)
    mean = add.node("Mul", weighed, add.constant("per_position", np.float32(share)))
    positive = add.node("Relu", mean)
    add.node(
        "Reshape",
        positive,
        add.constant("maps", np.array([-1, top, *grid], np.int64)),
        name="heatmaps",
    )
