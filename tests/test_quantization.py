"""Quantising backbones: 7-bit weights, features, feature map and metadata that stay right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.tiny_backbone import tiny
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.backbone.catalogue import shipped
from tailorbird.backbone.combining import mirrored
from tailorbird.errors import BackboneError
from tailorbird.quantization import LARGEST_WEIGHT, quantise


def pictures(count: int, size: int) -> np.ndarray:
    """Smooth coloured pictures with some noise, uint8 (N, S, S, 3)."""
    random = np.random.default_rng(3)
    y, x = np.indices((size, size)) / size
    waves = [
        np.sin(2 * np.pi * (x[..., None] * a + y[..., None] * b)) * 90 + c
        for a, b, c in zip(
            random.uniform(0, 3, (count, 3)),
            random.uniform(0, 3, (count, 3)),
            random.uniform(60, 190, (count, 3)),
            strict=True,
        )
    ]
    noisy = np.stack(waves) + random.normal(0, 6, (count, size, size, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The int8 weights of a quantised graph."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and "zero_point" not in tensor.name
    }


def same(pixels: np.ndarray) -> np.ndarray:
    return pixels


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Backbone]:
    """Write a graph and open it as a backbone, which checks the whole contract."""

    def write(model: onnx.ModelProto) -> Backbone:
        path = tmp_path / "q.onnx"
        path.write_bytes(model.SerializeToString())
        return Backbone(path)

    return write


def test_features_stay_close_and_weights_have_7_bits(
    saved: Callable[[onnx.ModelProto], Backbone],
) -> None:
    pocket = Backbone(shipped("pocket"))
    images = pictures(24, pocket.info.size)
    before = pocket.proto.SerializeToString()
    quantised = quantise(pocket.proto, images[:16], same)
    assert pocket.proto.SerializeToString() == before, "the input must not change"
    found = saved(quantised)
    expected, features = pocket.features(images[16:]), found.features(images[16:])
    cosines = (expected * features).sum(1) / (
        np.linalg.norm(expected, axis=1) * np.linalg.norm(features, axis=1)
    )
    assert cosines.min() > 0.98
    assert len(weights(quantised)) == 29, "all but the first convolution"
    assert all(np.abs(value).max() <= LARGEST_WEIGHT for value in weights(quantised).values())
    assert quantised.ByteSize() < 0.6 * shipped("pocket").stat().st_size


def test_the_metadata_stay_and_only_the_standard_operators_are_imported() -> None:
    model = tiny()
    quantised = quantise(model, pictures(4, 16), same)
    assert onnx_files.metadata(quantised) == onnx_files.metadata(model)
    assert [entry.domain for entry in quantised.opset_import] == [""]
    onnx_files.parse_audited(quantised.SerializeToString(), "quantised", BackboneError)


def test_an_old_operator_set_is_raised(saved: Callable[[onnx.ModelProto], Backbone]) -> None:
    found = saved(quantise(tiny(opset=11), pictures(4, 16), same))
    assert found.info.grid == (4, 4)


def test_pooling_stays_in_float(saved: Callable[[onnx.ModelProto], Backbone]) -> None:
    quantised = quantise(tiny(), pictures(8, 16), same)
    (pool,) = [node for node in quantised.graph.node if node.op_type == "GlobalAveragePool"]
    assert pool.input[0] == "feature_map"
    saved(quantised)  # refuses features that are not the mean of feature_map


def test_the_same_photos_give_the_same_file() -> None:
    first, second = (quantise(tiny(), pictures(8, 16), same) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def products(images: np.ndarray, *, transposed: bool) -> onnx.ModelProto:
    """A network of matrix products: patches of 4 x 4 pixels, MatMul + Add, Relu, Gemm."""
    random = np.random.default_rng(1)
    constants: dict[str, np.ndarray] = {
        "patches": np.array([0, 16, 48], np.int64),
        "first": random.normal(size=(48, 40)).astype(np.float32) / 800,
        "added": random.normal(size=40).astype(np.float32),
        "second": random.normal(size=(640, 12)).astype(np.float32) / 25,
        "bias": random.normal(size=12).astype(np.float32),
    }
    if transposed:
        constants["second"] = np.ascontiguousarray(constants["second"].T)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "patches"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "first"], ["product"]),
        helper.make_node("Add", ["added", "product"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "second", "bias"], ["features"], transB=int(transposed)),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 12])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products(saved: Callable[[onnx.ModelProto], Backbone], transposed: bool) -> None:
    images = pictures(64, 16)
    model = products(images, transposed=transposed)
    expected = saved(model).features(images)
    quantised = quantise(model, images, same)
    assert len(weights(quantised)) == 2
    assert all(np.abs(value).max() == LARGEST_WEIGHT for value in weights(quantised).values())
    gap = saved(quantised).features(images) - expected
    spread = expected.std()
    assert np.abs(gap).max() < 0.25 * spread
    assert np.abs(gap.mean(axis=0)).max() < 0.02 * spread, "the mean is corrected"


def test_the_mean_of_features_is_corrected_for_the_rounding_of_weights(
    saved: Callable[[onnx.ModelProto], Backbone],
) -> None:
    images = pictures(32, 16)
    model = tiny()
    expected = saved(model).features(images).mean(axis=0)
    found = saved(quantise(model, images, same)).features(images).mean(axis=0)
    assert np.abs(found - expected).max() < 0.01 * expected.std()


def test_sizes_that_an_exporter_computes_become_constants(
    saved: Callable[[onnx.ModelProto], Backbone],
) -> None:
    """A padding computed from the input's shape, and a reshape that keeps the batch."""
    model = tiny(with_map=False)
    nodes = list(model.graph.node)
    zeros = numpy_helper.from_array(np.zeros(2, np.int64), "zeros")
    four = numpy_helper.from_array(np.array([16], np.int64), "sixteen")
    axes = [
        numpy_helper.from_array(np.array([place], np.int64), f"place{place}") for place in (0, 2)
    ]
    width = numpy_helper.from_array(np.array([6], np.int64), "width")
    added = [
        helper.make_node("Shape", ["float"], ["shape"]),
        helper.make_node("Gather", ["shape", "place2"], ["side"]),
        helper.make_node("Sub", ["side", "sixteen"], ["none"]),
        helper.make_node("Concat", ["zeros", "none", "none", "zeros", "none", "none"], ["pads"],
                         axis=0),
        helper.make_node("Pad", ["float", "pads"], ["padded"]),
        helper.make_node("Gather", ["shape", "place0"], ["count"]),
        helper.make_node("Concat", ["count", "width"], ["flat_shape"], axis=0),
    ]  # fmt: skip
    nodes[2].input[0] = "padded"
    last = helper.make_node("Reshape", ["pooled", "flat_shape"], ["features"])
    kept = [*nodes[:2], *added, *nodes[2:5], last]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend([zeros, four, width, *axes])
    images = pictures(8, 16)
    expected = saved(model).features(images)
    quantised = quantise(model, images, same)
    assert "Pad" not in {node.op_type for node in quantised.graph.node}, "pads of 0 are removed"
    found = saved(quantised).features(images)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_graph_that_runs_each_image_twice(
    saved: Callable[[onnx.ModelProto], Backbone],
) -> None:
    """The mirrored view is a second image in the same batch."""
    images = pictures(16, 16)
    model = mirrored(tiny())
    expected = saved(model).features(images)
    found = saved(quantise(model, images, same)).features(images)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_refusals() -> None:
    quantised = quantise(tiny(), pictures(2, 16), same)
    with pytest.raises(BackboneError, match="is quantised already"):
        quantise(quantised, pictures(2, 16), same)
    with pytest.raises(BackboneError, match="no photo"):
        quantise(tiny(), [], same)
    broken = tiny(weight=np.inf)
    with pytest.raises(BackboneError, match="NaN or infinite"):
        quantise(broken, pictures(2, 16), same)
