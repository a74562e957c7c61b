from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from support.data import MOBILENET, needs_shared
from support.tiny_backbone import tiny
from tailorbird.backbone import Backbone, at_hand, find, open_backbone
from tailorbird.errors import BackboneError


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "tiny.backbone.onnx"
        onnx.save(model, path)
        return path

    return write


Save = Callable[[onnx.ModelProto], Path]


def test_a_backbone_that_keeps_the_contract(save: Save) -> None:
    backbone = Backbone(save(tiny()))
    info = backbone.info
    assert (info.name, info.size, info.width, info.grid, info.licence) == (
        "tiny",
        16,
        6,
        (4, 4),
        "CC0",
    )
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
    features = backbone.features(images)
    assert features.shape == (5, 6) and features.dtype == np.float32
    assert np.allclose(backbone.features(images[2:3]), features[2:3], rtol=1e-5)
    assert backbone.images_per_second(seconds=0.05) > 0
    assert set(info.as_dict()) >= {
        "name",
        "sha256",
        "licence",
        "source",
        "trained_on",
        "pooling",
        "input_size",
        "features",
    }


def test_without_a_feature_map(save: Save) -> None:
    assert Backbone(save(tiny(with_map=False, pool="GlobalMaxPool"))).info.grid is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_type": TensorProto.FLOAT}, "input images must be uint8; it is float"),
        (
            {"image_shape": ["N", 16, 20, 3]},
            r"input images must have shape \(N, S, S, 3\) with a fixed S of 8 to 2048; "
            r"it has \('N', 16, 20, 3\)",
        ),
        ({"image_shape": ["N", "H", "W", 3]}, "with a fixed S of 8 to 2048"),
        (
            {"image_shape": [1, 16, 16, 3]},
            "the batch axis of images must be symbolic; it is fixed at 1",
        ),
        (
            {"input_name": "pixel_values"},
            "it must have the single input 'images'; it has: pixel_values uint8",
        ),
        (
            {"features_name": "embedding"},
            "it must have an output 'features'; it has: embedding float",
        ),
        (
            {"features_shape": ["N", "K"]},
            r"output features must have shape \(N, K\) with all but N fixed",
        ),
        ({"map_shape": ["N", 7, 4, 4]}, r"features and feature_map disagree on K: \[6\] and \[7\]"),
        ({"pool": "GlobalMaxPool"}, "features are not the average of feature_map"),
        ({"weight": float("nan")}, "weights hold NaN, the first is '"),
        ({"weight": float("inf")}, "features of random images are not finite"),
        ({"opset": 9}, "it is written in operator set 9; at least 11 is needed"),
    ],
)
def test_each_way_to_break_the_contract(
    save: Save, change: dict[str, object], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        Backbone(save(tiny(**change)))  # type: ignore[arg-type]


def test_problems_are_reported_together(save: Save) -> None:
    with pytest.raises(BackboneError, match=r"must be uint8.*must have an output 'features'"):
        Backbone(save(tiny(image_type=TensorProto.FLOAT, features_name="x")))


def test_files_that_are_not_onnx(tmp_path: Path, save: Save) -> None:
    with pytest.raises(BackboneError, match="does not exist; check the path"):
        Backbone(tmp_path / "missing.onnx")
    with pytest.raises(BackboneError, match=r"is a folder; give the \.onnx file itself"):
        Backbone(tmp_path)
    (tmp_path / "words.onnx").write_text("not a graph at all")
    with pytest.raises(BackboneError, match="is not an ONNX file, or it is truncated"):
        Backbone(tmp_path / "words.onnx")
    whole = save(tiny()).read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.onnx").write_bytes(whole[:cut])
        with pytest.raises(BackboneError):
            Backbone(tmp_path / "cut.onnx")


def test_external_weights_and_unknown_operators_are_refused(tmp_path: Path, save: Save) -> None:
    model = tiny()
    onnx.save(
        model,
        tmp_path / "outside.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(
        BackboneError,
        match=r"keeps weights in another file.*only files complete in themselves are opened",
    ):
        Backbone(tmp_path / "outside.onnx")
    model = tiny()
    model.graph.node[3].domain = "com.evil"
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    with pytest.raises(
        BackboneError, match=r"operators outside the ONNX standard: com\.evil::Relu"
    ):
        Backbone(save(model))


def test_the_shipped_backbone_states_its_origin() -> None:
    info = open_backbone("pocket").info
    assert (info.name, info.size, info.width, info.grid, info.licence) == (
        "pocket",
        128,
        512,
        (4, 4),
        "Apache-2.0",
    )
    assert "distilled" in info.source and "CC0" in info.trained_on and info.file_bytes < 2_000_000


def test_finding_backbones(save: Save, own_cache: Path) -> None:
    assert [info.name for info in at_hand()] == ["lite", "pocket"]
    (own_cache / "backbones").mkdir()
    onnx.save(tiny(), own_cache / "backbones" / "tiny.backbone.onnx")
    (own_cache / "backbones" / "broken.backbone.onnx").write_bytes(b"nothing")
    assert [info.name for info in at_hand()] == ["lite", "pocket", "tiny"]
    assert find("tiny") == own_cache / "backbones" / "tiny.backbone.onnx"
    assert find("timm:tiny") == find("keras:tiny") == find("tiny")
    with pytest.raises(BackboneError, match="to install it: tailorbird backbones pull timm:other"):
        find("timm:other")
    with pytest.raises(
        BackboneError,
        match=r"there is no backbone named 'resnet'; available: lite, pocket, broken, tiny; "
        r".*backbones pull",
    ):
        find("resnet")
    with pytest.raises(BackboneError, match="no backbone named"):
        find("../backbones/tiny")


@needs_shared
def test_an_imagenet_backbone_opens() -> None:
    info = Backbone(MOBILENET).info
    assert (info.size, info.width, info.grid, info.trained_on) == (224, 1280, (7, 7), "ImageNet-1k")
