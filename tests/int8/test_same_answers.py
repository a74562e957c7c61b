"""int8 gives the same answers on processors with and without VNNI, because weights have 7 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.data import draw_dataset
from support.emulation import answers, emulated, needs_qemu
from tailorbird import onnx_files
from tailorbird.backbone import Backbone, find
from tailorbird.dataset import scan, stacked_pixels
from tailorbird.errors import InputError
from tailorbird.int8 import quantise_backbone, quantise_model
from tailorbird.model.self_test import ALLOWED, probe_image
from tailorbird.quantization import LARGEST_WEIGHT, quantise


def largest_weight(path: Path) -> int:
    """The largest absolute value of an int8 weight in a file."""
    tensors = onnx_files.read_audited(path, InputError).graph.initializer
    weights = [numpy_helper.to_array(one) for one in tensors if one.data_type == one.INT8]
    return max(int(np.abs(one.astype(int)).max()) for one in weights)


def test_weights_have_7_bits(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """What VNNI's absence needs: two products of 255 and a weight fit into 16 bits."""
    quantise_backbone("pocket", shapes, tmp_path / "backbone.onnx")
    quantise_model(trained, shapes, tmp_path / "model.onnx")
    for file in (find("lite"), tmp_path / "backbone.onnx", tmp_path / "model.onnx"):
        assert largest_weight(file) == LARGEST_WEIGHT
    assert 2 * 255 * LARGEST_WEIGHT <= 32_767


@needs_qemu
@pytest.mark.slow
def test_a_processor_without_vnni_gives_the_same_answers(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    quantise_backbone("pocket", shapes, tmp_path / "backbone.onnx")
    quantise_model(trained, shapes, tmp_path / "model.onnx")
    drawn = scan(draw_dataset(tmp_path / "new", count=2, seed=9)).samples
    images = stacked_pixels(drawn[:4], Backbone(find("pocket")).info.rule)
    lite = Backbone(find("lite")).info
    given = {
        str(find("lite")): stacked_pixels(drawn[:2], lite.rule),
        str(tmp_path / "backbone.onnx"): images,
        str(tmp_path / "model.onnx"): np.concatenate([probe_image(128), images]),
        str(find("pocket")): images,
        str(trained): probe_image(128),
    }
    here, there = answers(given), emulated(given)
    for name in (find("lite"), tmp_path / "backbone.onnx", tmp_path / "model.onnx"):
        assert np.array_equal(here[str(name)], there[str(name)]), name
    for name in (find("pocket"), trained):
        assert np.abs(here[str(name)] - there[str(name)]).max() < 1e-5 < ALLOWED, name


def adding() -> onnx.ModelProto:
    """A network whose second convolution adds 32 channels that are bright where the image is."""
    weights = {
        "first": np.full((32, 3, 4, 4), 1 / 48, np.float32),
        "second": np.full((8, 32, 1, 1), 1 / 32, np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "first"], ["one"], strides=[4, 4]),
        helper.make_node("Relu", ["one"], ["positive"]),
        helper.make_node("Conv", ["positive", "second"], ["two"]),
        helper.make_node("Relu", ["two"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    shapes: dict[str, list[str | int | None]] = {
        "features": ["N", 8],
        "feature_map": ["N", 8, 4, 4],
    }
    graph = helper.make_graph(
        nodes,
        "adding",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@needs_qemu
@pytest.mark.slow
def test_weights_of_8_bits_saturate_on_a_processor_without_vnni(tmp_path: Path) -> None:
    bright = np.random.default_rng(0).integers(200, 256, (4, 16, 16, 3), np.uint8)
    bits: Literal[7, 8]
    files = {number: tmp_path / f"{number}.onnx" for number in (7, 8)}
    for bits in (7, 8):
        graph = quantise(adding(), bright, lambda pixels: pixels, weight_bits=bits)
        files[bits].write_bytes(graph.SerializeToString())
    found = emulated({str(file): bright for file in files.values()})
    expected = bright.mean(axis=(1, 2, 3))[:, None]
    seven, eight = (np.abs(found[str(files[number])] / expected - 1).max() for number in (7, 8))
    assert seven < 0.01 and eight > 0.2
