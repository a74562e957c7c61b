"""Files, inputs, outputs, operators and settings that cannot become backbones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from support import published_networks as networks
from support.adapting import (
    PLAIN,
    Adapted,
)
from tailorbird.backbone import published
from tailorbird.backbone.adapt import adapt
from tailorbird.backbone.preprocessor import read
from tailorbird.errors import BackboneError


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (
            {"size": {"height": 32, "width": 48}},
            "32 x 48 pixels .height x width.; only square ones",
        ),
        ({"size": {"longest_edge": 48}}, "size = {'longest_edge': 48}"),
        ({"size": 4}, "4 pixels is outside 8 to 2048"),
        ({}, "states no size and the graph fixes none"),
        ({"size": 32, "do_normalize": True}, "does not state image_mean and image_std"),
        ({"size": 32, "image_mean": [0.5], "image_std": [0.5]}, "1 channels; it must have three"),
        ({"size": 32, "image_mean": [0.5] * 3, "image_std": [0.0] * 3}, "must be positive"),
        ({"size": 32, "rescale_factor": "1/255"}, "rescale_factor = '1/255'"),
        (
            {"size": 32, "do_color_quantize": True},
            "unsupported steps: do_color_quantize",
        ),
    ],
)
def test_unsupported_preprocessors_are_refused(processor: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        read(processor)


def test_unsupported_inputs_are_refused(adapted: Adapted) -> None:
    with pytest.raises(BackboneError, match=r"3 inputs.*input_ids int64.*vision-only file"):
        adapted(networks.convolutional(extra_inputs=["input_ids", "attention_mask"]))
    with pytest.raises(BackboneError, match=r"2 inputs.*pixel_mask int64.*one image input"):
        adapted(networks.convolutional(extra_inputs=["pixel_mask"]))
    with pytest.raises(BackboneError, match="32 x 48 pixels; only square"):
        adapted(networks.convolutional(shape=["N", 3, 32, 48]))
    with pytest.raises(BackboneError, match="1 channels"):
        adapted(networks.convolutional(shape=["N", 1, 32, 32]))
    with pytest.raises(BackboneError, match="the input is not an image"):
        adapted(networks.convolutional(shape=["N", 5, 3, 32, 32]))


def test_unsupported_outputs_are_refused(adapted: Adapted) -> None:
    d = networks.Drawing()
    d.add("Conv", "pixel_values", d.weight(5, 3, 3, 3), pads=[1, 1, 1, 1], out="mask")
    with pytest.raises(
        BackboneError,
        match=r"mask is not a feature map of an image of 32 x 32 pixels; "
        r"outputs seen: mask \(3, 5, 32, 32\); supported",
    ):
        adapted(d.model({"mask": ["b", 5, "h", "w"]}))
    d.add("Conv", "pixel_values", d.weight(5, 3, 4, 4), strides=[4, 4], out="boxes")
    with pytest.raises(BackboneError, match="not clear which output holds the features"):
        adapted(d.model({"mask": ["b", 5, "h", "w"], "boxes": ["b", 5, "h", "w"]}))
    d = networks.Drawing()
    x = d.add(
        "Reshape",
        d.add("Conv", "pixel_values", d.weight(6, 3, 3, 3), strides=[5, 4]),
        d.constant(np.array([0, 6, -1], np.int64)),
    )
    d.add("Transpose", x, perm=[0, 2, 1], out="last_hidden_state")
    with pytest.raises(
        BackboneError, match=r"48 tokens, and it is not clear.*patch size is not known"
    ):
        adapted(d.model({"last_hidden_state": ["b", "t", 6]}))


def test_operators_outside_the_standard_are_refused(adapted: Adapted) -> None:
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4])
    d.add("FastGelu", x, out="last_hidden_state", domain="com.microsoft")
    model = d.model(
        {"last_hidden_state": ["b", 6, "h", "w"]}, opsets=[helper.make_opsetid("com.microsoft", 1)]
    )
    with pytest.raises(BackboneError, match=r"com.microsoft: FastGelu.*choose another ONNX file"):
        adapted(model)
    d = networks.Drawing()
    d.add("DynamicQuantizeLinear", "pixel_values", out="last_hidden_state")
    with pytest.raises(BackboneError, match="depend on the photos beside it"):
        adapted(d.model({"last_hidden_state": ["b", 3, "h", "w"]}))


def test_files_that_are_not_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<html>not found</html>", "is not an ONNX file"),
        (b"", "holds no graph|operator set 0"),
        (networks.convolutional().SerializeToString()[:-200], "is not an ONNX file"),
    ):
        path.write_bytes(content)
        with pytest.raises(BackboneError, match=message):
            adapt(path, PLAIN)
    with pytest.raises(BackboneError, match="cannot be read"):
        adapt(tmp_path / "absent.onnx", PLAIN)


def test_oversized_files_are_refused(adapted: Adapted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MOST_BYTES", 1000)
    with pytest.raises(
        BackboneError, match="GB fit into one backbone file; choose a smaller member"
    ):
        adapted(networks.convolutional())


def test_a_network_that_mixes_the_images_of_a_batch_is_refused(adapted: Adapted) -> None:
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4])
    mean = d.add("ReduceMean", x, axes=[0], keepdims=1)
    d.add("Sub", x, mean, out="last_hidden_state")
    with pytest.raises(
        BackboneError,
        match=r"disagrees with itself when images come one by one .*largest difference [0-9.]+ of",
    ):
        adapted(d.model({"last_hidden_state": ["b", 6, "h", "w"]}))


def test_a_batch_of_one_fixed_inside_is_refused(adapted: Adapted) -> None:
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4])
    d.add("Reshape", x, d.constant(np.array([1, 6, 8, 8], np.int64)), out="last_hidden_state")
    with pytest.raises(
        BackboneError,
        match="runs on one image at a time only, a batch of 1 is fixed inside; choose another",
    ):
        adapted(d.model({"last_hidden_state": [1, 6, 8, 8]}))


def test_non_finite_features_are_refused(adapted: Adapted) -> None:
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4])
    d.add("Log", x, out="last_hidden_state")
    with pytest.raises(BackboneError, match="not finite"):
        adapted(d.model({"last_hidden_state": ["b", 6, "h", "w"]}))


def test_a_backbone_is_not_adapted_again(adapted: Adapted, tmp_path: Path) -> None:
    backbone = adapted(networks.convolutional())
    with pytest.raises(BackboneError, match="a tailorbird backbone already"):
        adapt(backbone.path, PLAIN)
