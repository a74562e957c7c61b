"""Build a model's graph: backbone, head, calibrated softmax and exact Grad-CAM in one ONNX graph.

    input   images         uint8    (N, S, S, 3)   RGB, 0 to 255
    output  probabilities  float32  (N, C)         rows sum to 1, calibrated
    output  heatmaps       float32  (N, T, h, w)   Grad-CAM of the T = min(3, C) most probable
                                                   classes, most probable first; 0 or more; only if
                                                   the backbone graph has a feature map
    output  unfamiliarity  float32  (N)            how unlike the training photos, large for
                                                   unfamiliar ones; see `unfamiliarity.py`

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the feature map A by the gradient of a class's logit
and keeps what is positive: relu(sum_k alpha_k A_k), alpha_k = mean over the h w positions of
d logit / d A_k. Let g = d logit / d features: behind dense layers with ReLU, a product of their
weight matrices without the rows of inactive units. Then alpha_k follows from the pooling:

- mean: every position has the gradient g_k / (h w), which is also their mean.
- max: the position of the maximum has the gradient g_k, the others 0, so that the mean is
  g_k / (h w) again. If several positions share the maximum, the derivative is not unique; the
  choice of every framework (all to one of them, or shared equally) has the sum g_k, so that
  alpha_k does not depend on it.
- flatten, in Keras' order (row, column, channel): each position has a gradient of its own, and
  alpha_k is the mean of g at the h w places of channel k. This mean is linear, so that it can be
  taken of the first layer's weights in advance.

Hence the gradient is a few small products in the graph itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.errors import ModelFileError, TrainingError
from tailorbird.head import Dense, Head
from tailorbird.model.unfamiliarity import MOST_FEATURES, Unfamiliarity
from tailorbird.onnx_files import NodeBuilder

if TYPE_CHECKING:
    import onnx

TOP = 3
"""Maximum number of heat maps per image."""

PREFIX = "tailorbird/"
"""Prefix of the names of all nodes and constants that are added to a backbone."""


@dataclass(frozen=True)
class BackboneGraph:
    """Backbone graph with its feature-map shape and pooling.

    Attributes:
        proto: Input `images` uint8 (N, S, S, 3); output `features` float32 (N, width) and, if
            feature_map is not None, `feature_map` float32 (N, K, h, w).
        width: Features per image.
        feature_map: Its (K, h, w).
        pooling: How features come from the feature map: mean or max over the positions
            (width = K), flatten in the order row, column, channel (width = h w K), or none (in no
            such way, so that there are no heat maps).
    """

    proto: onnx.ModelProto
    width: int
    feature_map: tuple[int, int, int] | None
    pooling: Literal["mean", "max", "flatten", "none"]

    def __post_init__(self) -> None:
        """Refuse shapes that contradict each other."""
        if (self.feature_map is None) != (self.pooling == "none"):
            raise ValueError(
                f"pooling {self.pooling!r} contradicts the feature map {self.feature_map}: "
                "pooling is 'none' if and only if there is no feature map"
            )
        if self.feature_map is not None:
            channels, height, width = self.feature_map
            expected = channels * height * width if self.pooling == "flatten" else channels
            if self.width != expected:
                raise ValueError(
                    f"{self.pooling} of a feature map {self.feature_map} gives {expected} "
                    f"features, not {self.width}"
                )

    @classmethod
    def of(cls, backbone: Backbone) -> BackboneGraph:
        """Return a backbone's graph; its features are the mean of its feature map, if any."""
        width, grid = backbone.info.width, backbone.info.grid
        if grid is None:
            return cls(backbone.proto, width, None, "none")
        return cls(backbone.proto, width, (width, *grid), "mean")

    @property
    def compared(self) -> int:
        """Number of features that unfamiliarity compares: of flattened maps, their means."""
        if self.pooling == "flatten" and self.feature_map is not None:
            return self.feature_map[0]
        return self.width

    def to_compare(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what unfamiliarity compares, float32 (N, compared), of features (N, width)."""
        if self.compared == self.width:
            return features
        shape = (len(features), -1, self.compared)  # Keras' order: row, column, channel
        means: npt.NDArray[np.float32] = features.reshape(shape).mean(axis=1, dtype=np.float32)
        return means

    @property
    def can_compare(self) -> bool:
        """Whether a model can tell unfamiliar photos: not by too many features."""
        return self.compared <= MOST_FEATURES


def build(
    backbone: Backbone | BackboneGraph,
    head: Head,
    temperature: float,
    unfamiliarity: Unfamiliarity | None = None,
) -> onnx.ModelProto:
    """Join a backbone and a head into the model's graph, without metadata.

    Args:
        backbone: The backbone or its graph.
        head: Dense layers trained on its features.
        temperature: The logits are divided by it before the softmax.
        unfamiliarity: The score of unfamiliar photos; None: the model has none.

    Returns:
        A graph that passes the ONNX checker.

    Raises:
        TrainingError: A weight of the head is NaN or infinite.
    """
    import onnx
    from onnx import TensorProto, helper

    backbone_graph = backbone if isinstance(backbone, BackboneGraph) else BackboneGraph.of(backbone)
    model = onnx.ModelProto()
    model.CopyFrom(backbone_graph.proto)
    add = NodeBuilder(PREFIX)
    classes = head.layers[-1].weight.shape[1]

    hidden: list[str] = []
    x = "features"
    for number, layer in enumerate(head.layers):
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise TrainingError(
                f"layer {number + 1} of the head has weights that are NaN or infinite; "
                "lower the learning rate"
            )
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
    if unfamiliarity is not None:
        compared = "features"
        if backbone_graph.compared != backbone_graph.width:
            compared = add.node("Flatten", add.node("GlobalAveragePool", "feature_map"), axis=1)
        unfamiliarity.nodes(add, compared)
        model.graph.output.append(
            helper.make_tensor_value_info("unfamiliarity", TensorProto.FLOAT, ["N"])
        )
    model.graph.node.extend(add.nodes)
    model.graph.initializer.extend(add.constants)
    del model.metadata_props[:]
    model.producer_name, model.graph.name = "tailorbird", "tailorbird"
    onnx.checker.check_model(model, full_check=True)
    return model


def take_apart(
    model: onnx.ModelProto, name: str
) -> tuple[BackboneGraph, Head, Unfamiliarity | None]:
    """Return the backbone graph, head and unfamiliarity that `build` joined to a model's graph.

    Args:
        model: An audited model file whose metadata agree with its graph (`info_from`).
        name: What messages call it.

    Raises:
        ModelFileError: The graph was not made by `build`.
    """
    import onnx
    from onnx import TensorProto, helper

    head = head_in(model, name)
    width = head.layers[0].weight.shape[0]
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in model.graph.output
    }
    feature_map = None
    pooling: Literal["mean", "flatten", "none"] = "none"
    wanted = {"features": ["N", width]}
    if "heatmaps" in shapes:
        # Behind a maximum the heat maps are the same as behind a mean.
        flat = any(one.name == f"{PREFIX}weight0_mean" for one in model.graph.initializer)
        height, columns = shapes["heatmaps"][2:]
        channels = width // (height * columns) if flat else width
        feature_map, pooling = (channels, height, columns), "flatten" if flat else "mean"
        wanted["feature_map"] = ["N", *feature_map]
    made = {output for node in model.graph.node for output in node.output}
    if not wanted.keys() <= made:
        raise ModelFileError(
            f"{name} has no {' or '.join(sorted(wanted.keys() - made))}; models made by "
            "`tailorbird train` do"
        )
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    del proto.graph.output[:], proto.metadata_props[:]
    proto.graph.output.extend(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        for output, shape in wanted.items()
    )
    onnx_files.remove_unused(proto)
    graph = BackboneGraph(proto, width, feature_map, pooling)
    return graph, head, Unfamiliarity.within(_own_constants(model), graph.compared, name)


def head_in(proto: onnx.ModelProto, name: str) -> Head:
    """Return the head inside a model file's graph. Raises ModelFileError when it has none."""
    tensors = _own_constants(proto)
    layers: list[Dense] = []
    while {f"weight{len(layers)}", f"bias{len(layers)}"} <= set(tensors):
        weight, bias = (tensors[f"{kind}{len(layers)}"] for kind in ("weight", "bias"))
        layers.append(Dense(np.asarray(weight, np.float32), np.asarray(bias, np.float32)))
    if not layers:
        raise ModelFileError(
            f"{name} holds no head of dense layers; models made by `tailorbird train` do"
        )
    return Head(tuple(layers))


def _own_constants(proto: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Return the constants that `build` added to a backbone, by their names without the prefix."""
    from onnx import numpy_helper

    return {
        tensor.name.removeprefix(PREFIX): numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.name.startswith(PREFIX)
    }


def _grad_cam(
    add: NodeBuilder, head: Head, hidden: list[str], classes: int, backbone_graph: BackboneGraph
) -> None:
    """Append the heat maps of the most probable classes; see the module's docstring."""
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
    # (classes, inputs of the last layer) gathered by (N, top): one row of gradient per image and
    # class. The runtime transposes a constant only once, when it opens the file.
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
