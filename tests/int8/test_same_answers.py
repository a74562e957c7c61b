"""int8 gives the same answers on processors with and without VNNI, because weights have 7 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

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
    pocket = Backbone(find("pocket"))
    images = stacked_pixels(drawn[:4], pocket.info.rule)
    eight = quantise(pocket.proto, images, lambda pixels: pixels, weight_bits=8)
    (tmp_path / "eight.onnx").write_bytes(eight.SerializeToString())
    lite = Backbone(find("lite")).info
    given = {
        str(find("lite")): stacked_pixels(drawn[:2], lite.rule),
        str(tmp_path / "backbone.onnx"): images,
        str(tmp_path / "model.onnx"): np.concatenate([probe_image(128), images]),
        str(find("pocket")): images,
        str(trained): probe_image(128),
    }
    here, there = answers(given), emulated({**given, str(tmp_path / "eight.onnx"): images})
    for name in (find("lite"), tmp_path / "backbone.onnx", tmp_path / "model.onnx"):
        assert np.array_equal(here[str(name)], there[str(name)]), name
    for name in (find("pocket"), trained):
        assert np.abs(here[str(name)] - there[str(name)]).max() < 1e-5 < ALLOWED, name
    # Measured against float32, so that the processor that runs this test does not matter.
    exact = here[str(find("pocket"))]
    seven, saturated = (
        np.linalg.norm(there[str(tmp_path / file)] - exact) / np.linalg.norm(exact)
        for file in ("backbone.onnx", "eight.onnx")
    )
    assert saturated > 1.5 * seven, "weights of 8 bits saturate"
