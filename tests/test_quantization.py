"""Quantising backbones: 7-bit weights, features, feature map and metadata that stay right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from support.tiny_backbone import tiny
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.backbone.catalogue import shipped
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
    assert len(weights(quantised)) == 30
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


def test_refusals() -> None:
    quantised = quantise(tiny(), pictures(2, 16), same)
    with pytest.raises(BackboneError, match="is quantised already"):
        quantise(quantised, pictures(2, 16), same)
    with pytest.raises(BackboneError, match="no photo"):
        quantise(tiny(), [], same)
    broken = tiny(weight=np.inf)
    with pytest.raises(BackboneError, match="NaN or infinite"):
        quantise(broken, pictures(2, 16), same)
