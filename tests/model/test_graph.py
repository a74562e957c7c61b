"""The graph of a model: exact probabilities and Grad-CAM, standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import helper

from support.small_models import (
    Write,
    head,
    images,
    outputs_of,
)
from support.tiny_backbone import tiny
from tailorbird.backbone import Backbone
from tailorbird.head import Head
from tailorbird.metrics.calibration import softmax
from tailorbird.model.graph import BackboneGraph, build


def reference_grad_cam(
    backbone: Backbone, layers: Head, pixels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, and heat maps with gradients from finite differences in float64."""
    feature_map = outputs_of(backbone.proto, pixels, "feature_map")[0].astype(np.float64)

    def logits(maps: np.ndarray) -> np.ndarray:
        x = maps.mean(axis=(2, 3))
        for number, layer in enumerate(layers.layers):
            x = x @ layer.weight.astype(np.float64) + layer.bias
            x = np.maximum(x, 0) if number + 1 < len(layers.layers) else x
        return np.asarray(x)

    probabilities = softmax(logits(feature_map) / temperature)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : min(3, probabilities.shape[1])]
    n, channels, height, width = feature_map.shape
    gradient = np.zeros((n, probabilities.shape[1], channels))
    step = 1e-4
    for channel in range(channels):
        for y, x in np.ndindex(height, width):
            up, down = feature_map.copy(), feature_map.copy()
            up[:, channel, y, x] += step
            down[:, channel, y, x] -= step
            # Grad-CAM's alpha: the gradient averaged over positions.
            gradient[:, :, channel] += (logits(up) - logits(down)) / (2 * step) / (height * width)
    chosen = np.take_along_axis(gradient, top[:, :, None], axis=1)
    return probabilities, np.maximum(np.einsum("ntk,nkhw->nthw", chosen, feature_map), 0)


@pytest.mark.parametrize("sizes", [(6, 4), (6, 9, 4), (6, 9, 5, 4), (6, 2), (6, 7, 3)])
def test_probabilities_and_grad_cam_in_the_graph_are_exact(
    backbone: Backbone, sizes: tuple[int, ...]
) -> None:
    layers, pixels = head(sizes), images()
    found = outputs_of(build(backbone, layers, 1.7), pixels, "probabilities", "heatmaps")
    probabilities, heatmaps = reference_grad_cam(backbone, layers, pixels, 1.7)
    assert found[0].shape == (6, sizes[-1]) and np.abs(found[0] - probabilities).max() < 1e-6
    assert np.allclose(found[0].sum(axis=1), 1, atol=1e-6)
    assert found[1].shape == (6, min(3, sizes[-1]), 4, 4) and heatmaps.max() > 0
    assert np.abs(found[1] - heatmaps).max() < 1e-5 * max(1.0, float(heatmaps.max()))


def test_the_graph_passes_the_checker_with_standard_operators_only(backbone: Backbone) -> None:
    model = build(backbone, head((6, 9, 4)), 1.0)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [value.name for value in model.graph.output] == ["probabilities", "heatmaps"]


def test_a_backbone_without_a_feature_map_gives_no_heat_maps(tmp_path: Path) -> None:
    onnx.save(tiny(with_map=False, pool="GlobalMaxPool"), tmp_path / "max.onnx")
    opened = Backbone(tmp_path / "max.onnx")
    model = build(opened, head((6, 4)), 1.0)
    assert [value.name for value in model.graph.output] == ["probabilities"]


def pooled(maps: np.ndarray, pooling: str) -> np.ndarray:
    """Pool or flatten feature maps (N, K, h, w) as Keras does (row, column, channel)."""
    if pooling == "flatten":
        return maps.transpose(0, 2, 3, 1).reshape(len(maps), -1)
    return np.asarray(maps.max(axis=(2, 3)) if pooling == "max" else maps.mean(axis=(2, 3)))


def backbone_graph_of(
    backbone: Backbone, pooling: Literal["mean", "max", "flatten"]
) -> BackboneGraph:
    """Return the backbone `tiny` with another pooling of its feature map."""
    proto = onnx.ModelProto()
    proto.CopyFrom(backbone.proto)
    del proto.graph.node[-2:]
    if pooling == "flatten":
        proto.graph.node.append(
            helper.make_node("Transpose", ["feature_map"], ["pooled"], perm=[0, 2, 3, 1])
        )
    else:
        operator = "GlobalMaxPool" if pooling == "max" else "GlobalAveragePool"
        proto.graph.node.append(helper.make_node(operator, ["feature_map"], ["pooled"]))
    proto.graph.node.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    width = 6 * 16 if pooling == "flatten" else 6
    del proto.graph.output[0]
    proto.graph.output.append(
        helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", width])
    )
    return BackboneGraph(proto, width, (6, 4, 4), pooling)


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten"])
@pytest.mark.parametrize("inner", [(), (9,), (9, 5)])
def test_grad_cam_is_exact_behind_every_pooling(
    backbone: Backbone, pooling: Literal["mean", "max", "flatten"], inner: tuple[int, ...]
) -> None:
    backbone_graph, pixels = backbone_graph_of(backbone, pooling), images()
    layers = head((backbone_graph.width, *inner, 4))
    probabilities, heatmaps = outputs_of(
        build(backbone_graph, layers, 1.7), pixels, "probabilities", "heatmaps"
    )
    maps = outputs_of(backbone.proto, pixels, "feature_map")[0].astype(np.float64)

    def logits(values: np.ndarray) -> np.ndarray:
        x = pooled(values, pooling)
        for number, layer in enumerate(layers.layers):
            x = x @ layer.weight.astype(np.float64) + layer.bias
            x = np.maximum(x, 0) if number + 1 < len(layers.layers) else x
        return np.asarray(x)

    assert np.abs(probabilities - softmax(logits(maps) / 1.7)).max() < 1e-6
    step, positions = 1e-5, 16
    alpha = np.zeros((len(pixels), 4, 6))
    for channel in range(6):
        for y, x in np.ndindex(4, 4):
            up, down = maps.copy(), maps.copy()
            up[:, channel, y, x] += step
            down[:, channel, y, x] -= step
            alpha[:, :, channel] += (logits(up) - logits(down)) / (2 * step) / positions
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    chosen = np.take_along_axis(alpha, top[:, :, None], axis=1)
    expected = np.maximum(np.einsum("ntk,nkhw->nthw", chosen, maps), 0)
    assert expected.max() > 0 and np.abs(heatmaps - expected).max() < 1e-4 * max(
        1.0, float(expected.max())
    )


def test_grad_cam_is_exact_when_positions_share_the_maximum(backbone: Backbone) -> None:
    """All inner positions of a uniform image are equal; their shares add up to the gradient."""
    flat = np.full((1, 16, 16, 3), 90, np.uint8)
    maps = outputs_of(backbone.proto, flat, "feature_map")[0]
    assert np.ptp(maps, axis=(2, 3)).max() < 1e-5 and maps.max() > 0
    layers = head((6, 4))
    graph = build(backbone_graph_of(backbone, "max"), layers, 1.0)
    probabilities, found = outputs_of(graph, flat, "probabilities", "heatmaps")
    top = np.argsort(-probabilities[0])[:3]
    expected = np.maximum(
        np.einsum("kt,khw->thw", layers.layers[0].weight[:, top] / 16, maps[0]), 0
    )
    assert np.abs(found[0] - expected).max() < 1e-5


def test_a_backbone_graph_refuses_contradictory_shapes(backbone: Backbone) -> None:
    assert BackboneGraph.of(backbone) == BackboneGraph(backbone.proto, 6, (6, 4, 4), "mean")
    with pytest.raises(
        ValueError, match="pooling is 'none' if and only if there is no feature map"
    ):
        BackboneGraph(backbone.proto, 6, None, "max")
    with pytest.raises(
        ValueError, match=r"flatten of a feature map \(6, 4, 4\) gives 96 features, not 6"
    ):
        BackboneGraph(backbone.proto, 6, (6, 4, 4), "flatten")


def test_the_reference_runtime_gives_the_same_probabilities(write_model: Write) -> None:
    """The reference evaluator of onnx is an independent implementation of the standard."""
    from onnx.reference import ReferenceEvaluator

    path = write_model()
    pixels = images(2)
    other: Any = ReferenceEvaluator(onnx.load(path)).run(
        ["probabilities", "heatmaps"], {"images": pixels}
    )
    own = outputs_of(onnx.load(path), pixels, "probabilities", "heatmaps")
    assert (
        np.abs(np.asarray(other[0]) - own[0]).max() < 1e-5
        and np.abs(np.asarray(other[1]) - own[1]).max() < 1e-4
    )
