"""Adapted networks as int8: transformers, residual networks, float16 weights, old forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from support import published_networks as networks
from support.adapting import Adapted
from support.data import draw_dataset
from tailorbird.backbone import Backbone
from tailorbird.dataset import scan, stacked_pixels
from tailorbird.quantization import LARGEST_WEIGHT, quantise

NETWORKS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "transformer": (networks.transformer, {"registers": 2}, 3),
    "transformer with interpolated positions": (networks.transformer, {"interpolated": True}, 3),
    "transformer in float16": (networks.transformer, {"half": True}, 3),
    "image tower": (networks.transformer, {"head": "image_embeds"}, 4),
    "residual network": (networks.convolutional, {}, 1),
    "residual network in float16": (networks.convolutional, {"half": True}, 1),
    "pyramid": (networks.pyramid, {}, 1),
}
"""Name -> the function that draws it, its options, and the least number of int8 weights."""


@pytest.mark.parametrize("name", NETWORKS)
def test_adapted_networks_are_quantised(name: str, adapted: Adapted, tmp_path: Path) -> None:
    draw, options, least = NETWORKS[name]
    backbone = adapted(draw(**options))
    photos = scan(draw_dataset(tmp_path / "photos", count=8)).samples
    images = stacked_pixels(photos, backbone.info.rule)
    graph = quantise(backbone.proto, images, lambda pixels: pixels, name)
    (tmp_path / "q.onnx").write_bytes(graph.SerializeToString())
    int8 = Backbone(tmp_path / "q.onnx")  # the contract: features are the mean of feature_map
    assert int8.info.grid == backbone.info.grid and int8.info.width == backbone.info.width
    tensors = [one for one in graph.graph.initializer if one.data_type == one.INT8]
    weights = [numpy_helper.to_array(one).astype(int) for one in tensors if len(one.dims) >= 2]
    assert len(weights) >= least
    assert all(np.abs(value).max() <= LARGEST_WEIGHT for value in weights)
    expected, found = backbone.features(images), int8.features(images)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
