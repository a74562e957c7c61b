"""Published networks of each kind become backbones with the same features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from support import published_networks as networks
from support.adapting import (
    PLAIN,
    Adapted,
    both,
    imagenet_values,
    original_output,
    random_pixels,
)
from tailorbird import onnx_files
from tailorbird.backbone import published
from tailorbird.backbone.adapt import adapt
from tailorbird.backbone.contract import Backbone
from tailorbird.backbone.preprocessor import read
from tailorbird.errors import BackboneError, SettingsError


def test_a_convolutional_network(adapted: Adapted) -> None:
    model, images = networks.convolutional(), random_pixels(32)
    backbone = adapted(
        model, about={"name": "tiny", "licence": "MIT", "source": "hf:a/b", "trained_on": "birds"}
    )
    info = backbone.info
    assert (info.size, info.width, info.grid, info.pooling, info.name, info.licence) == (
        32,
        6,
        (8, 8),
        "mean",
        "tiny",
        "MIT",
    )
    features, feature_map = both(backbone, images)
    expected = original_output(model, imagenet_values(images), "last_hidden_state")
    np.testing.assert_allclose(feature_map, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features, expected.mean(axis=(2, 3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        features,
        original_output(model, imagenet_values(images), "pooler_output")[:, :, 0, 0],
        rtol=1e-4,
        atol=1e-4,
    )
    said = onnx_files.metadata(backbone.proto)
    assert json.loads(said["preprocessor"]) == PLAIN
    assert said["resize"].startswith("squashed to 32 x 32 by tailorbird's resize rule")
    assert said["features_from"] == "last_hidden_state (map)"


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vision_transformer(adapted: Adapted, registers: int) -> None:
    model, images = networks.transformer(registers=registers), random_pixels(32)
    backbone = adapted(model)
    assert backbone.info.grid == (4, 4) and backbone.info.width == 12
    features, feature_map = both(backbone, images)
    tokens = original_output(model, imagenet_values(images), "last_hidden_state")[
        :, 1 + registers :
    ]
    np.testing.assert_allclose(features, tokens.mean(axis=1), rtol=1e-4, atol=1e-4)
    # The map's third row, second column is the patch token number 9.
    np.testing.assert_allclose(feature_map[:, :, 2, 1], tokens[:, 9], rtol=1e-4, atol=1e-4)


def test_feature_map_positions_match_image_positions(adapted: Adapted) -> None:
    images = np.full((2, 32, 32, 3), 90, np.uint8)
    images[1, 16:24, 8:16] = 255  # the patch in row 2, column 1
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 8, 8), strides=[8, 8])
    x = d.add("Reshape", x, d.constant(np.array([0, 6, -1], np.int64)))
    d.add("Transpose", x, perm=[0, 2, 1], out="last_hidden_state")
    _, feature_map = both(adapted(d.model({"last_hidden_state": ["b", "t", 6]})), images)
    changed = np.abs(feature_map[1] - feature_map[0]).max(axis=0) > 1e-3
    assert np.argwhere(changed).tolist() == [[2, 1]]


def test_a_pyramid_of_tokens_and_one_with_channels_last(adapted: Adapted) -> None:
    images = random_pixels(32)
    tokens = adapted(networks.pyramid(), config={"patch_size": 4})
    last = adapted(networks.pyramid(channels_last=True))
    assert tokens.info.grid == last.info.grid == (4, 4)
    for one, other in zip(both(tokens, images), both(last, images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision(adapted: Adapted) -> None:
    for model in (
        networks.convolutional(half=True),
        networks.transformer(half=True),
        networks.transformer(half=True, head="image_embeds"),
    ):
        backbone, images = adapted(model), random_pixels(32)
        assert backbone.features(images).dtype == np.float32
    expected = original_output(
        networks.convolutional(half=True),
        imagenet_values(images).astype(np.float16),
        "last_hidden_state",
    )
    features, _ = both(adapted(networks.convolutional(half=True)), images)
    np.testing.assert_allclose(
        features, expected.astype(np.float32).mean(axis=(2, 3)), rtol=2e-2, atol=2e-2
    )


def test_pooled_outputs_have_no_feature_map(adapted: Adapted) -> None:
    images = random_pixels(32)
    model = networks.transformer(head="image_embeds")
    clip = adapted(model)
    assert (clip.info.grid, clip.info.width, clip.info.pooling) == (None, 5, "projection")
    np.testing.assert_allclose(
        clip.features(images),
        original_output(model, imagenet_values(images), "image_embeds"),
        rtol=1e-4,
        atol=1e-4,
    )

    d = networks.Drawing()
    d.add(
        "GlobalAveragePool",
        d.add("Conv", "pixel_values", d.weight(6, 3, 3, 3)),
        out="pooler_output",
    )
    pooled = adapted(d.model({"pooler_output": ["b", 6, 1, 1]}))
    assert pooled.info.grid is None and pooled.info.width == 6

    siglip = networks.convolutional()  # the family decides, not the shape
    assert adapted(siglip, config={"model_type": "siglip_vision_model"}).info.pooling == "attention"


def test_the_features_of_a_classifier_are_the_inputs_of_its_last_layer(adapted: Adapted) -> None:
    images, model = random_pixels(32), networks.convolutional(logits=9)
    backbone = adapted(model, config={"id2label": {str(n): "x" for n in range(9)}})
    assert backbone.info.grid == (8, 8) and backbone.info.width == 6
    without = both(adapted(networks.convolutional(logits=0)), images)[0]
    assert not any(node.op_type == "Gemm" for node in backbone.proto.graph.node)
    assert sum(len(w.raw_data) for w in backbone.proto.graph.initializer) < sum(
        len(w.raw_data) for w in model.graph.initializer
    )
    np.testing.assert_allclose(
        backbone.features(images), without, rtol=1e-4, atol=1e-4
    )  # drawn with the same seed

    assert adapted(networks.transformer(head="logits")).info.grid is None

    # timm's form: average over positions, then MatMul and a bias, then softmax, other names.
    d = networks.Drawing()
    x = d.add("Relu", d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4]))
    x = d.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    d.add("Softmax", d.add("Add", d.add("MatMul", x, d.weight(6, 7)), d.weight(7)), out="output")
    softmax = d.model({"output": ["b", 7]})
    assert adapted(softmax, config={"num_classes": 7, "num_features": 6}).info.grid == (8, 8)
    with pytest.raises(BackboneError, match="not made by one linear layer"):
        d.nodes[-1] = helper.make_node("Mul", ["t3", "t3"], ["output"])
        d.nodes[3:-1] = []
        d.nodes[2] = helper.make_node("ReduceMean", ["t1"], ["t3"], axes=[2, 3], keepdims=0)
        adapted(d.model({"output": ["b", 6]}), config={"num_classes": 6})


PROCESSORS: list[
    tuple[dict[str, Any], Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]
] = [
    ({"size": 32}, lambda x: x / 255),
    ({"size": 32, "do_rescale": False}, lambda x: x),
    ({"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, lambda x: x / 127.5 - 1),
    (
        {"size": 32, "image_mean": 0.5, "image_std": 0.25, "do_normalize": True},
        lambda x: (x / 255 - 0.5) / 0.25,
    ),
    (
        {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": False},
        lambda x: x / 255,
    ),
    ({"size": 32, "rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda x: x / 127.5 - 1),
    ({"size": 32, "do_flip_channel_order": True}, lambda x: x[..., ::-1] / 255),
    (
        {
            "size": 32,
            "do_flip_channels": True,
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [1.0, 2.0, 4.0],
        },
        lambda x: ((x / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4])[..., ::-1],
    ),
    (
        {
            "size": 32,
            "image_processor_type": "EfficientNetImageProcessor",
            "image_mean": [0.5] * 3,
            "image_std": [0.4] * 3,
        },
        lambda x: (x / 255 - 0.5) / 0.16,
    ),
    (
        {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3}},
        lambda x: (x / 255 - [0.5, 0.4, 0.3]) / 0.2,
    ),
    ({"image_processor": {"size": {"height": 32, "width": 32}, "do_rescale": False}}, lambda x: x),
]


@pytest.mark.parametrize(
    ("processor", "prepare"), PROCESSORS, ids=[" ".join(sorted(p)) for p, _ in PROCESSORS]
)
def test_pixels_are_prepared_as_published(
    adapted: Adapted, processor: dict[str, Any], prepare: Callable[..., npt.NDArray[np.float64]]
) -> None:
    images, model = random_pixels(32), networks.convolutional()
    expected = original_output(
        model,
        prepare(images.astype(np.float64)).transpose(0, 3, 1, 2).astype(np.float32),
        "last_hidden_state",
    ).mean(axis=(2, 3))
    np.testing.assert_allclose(
        adapted(model, processor).features(images),
        expected,
        rtol=1e-4,
        atol=1e-4 * np.abs(expected).max(),
    )


@pytest.mark.parametrize(
    ("processor", "config", "side"),
    [
        ({"size": 48}, {}, 48),
        ({"size": [48, 48]}, {}, 48),
        ({"size": {"shortest_edge": 48}, "crop_pct": 0.875}, {}, 48),
        (
            {
                "size": {"shortest_edge": 56},
                "crop_size": {"height": 48, "width": 48},
                "do_center_crop": True,
            },
            {},
            48,
        ),
        ({"size": {"shortest_edge": 56}, "crop_size": 48}, {}, 48),
        ({"size": {"shortest_edge": 56}, "crop_size": 48, "do_center_crop": False}, {}, 56),
        ({"size": 48.0}, {}, 48),
        ({}, {"image_size": 48}, 48),
        ({}, {"vision_config": {"image_size": 48}}, 48),
    ],
)
def test_every_published_size_format_is_read(
    processor: dict[str, Any], config: dict[str, Any], side: int
) -> None:
    assert read(processor, config).side == side
    assert read(processor, config, size=64).side == 64
    assert read(processor, config, fixed=(40, 40)).side == 40


def test_given_size_and_size_of_the_graph(adapted: Adapted) -> None:
    assert adapted(networks.convolutional(), size=48).info.grid == (12, 12)
    assert adapted(networks.transformer(side=None), size=48).info.grid == (6, 6)
    dino, images = networks.transformer(interpolated=True), random_pixels(56)
    np.testing.assert_allclose(
        adapted(dino, size=56).features(images),
        original_output(dino, imagenet_values(images), "last_hidden_state")[:, 1:].mean(axis=1),
        rtol=1e-4,
        atol=1e-4,
    )
    fixed = networks.convolutional(
        shape=[1, 3, 32, 32]
    )  # a batch of one is announced too, but nothing inside depends on it
    assert adapted(fixed, {"size": 224}).info.size == 32
    with pytest.raises(SettingsError, match="runs at 32 x 32 only"):
        adapted(fixed, size=48)
    with pytest.raises(SettingsError, match="patches of 8 pixels: give 40 or 48"):
        adapted(networks.transformer(), size=44)
    with pytest.raises(SettingsError, match="8 to 2048"):
        adapted(networks.convolutional(), size=5000)
    # The position embedding is for 32 pixels.
    with pytest.raises(
        BackboneError,
        match=r"fails on an input of shape \(3, 3, 48, 48\): Add: .*by a dimension other than 1",
    ):
        adapted(networks.transformer(), size=48)


def test_functions_of_the_file_are_inlined(adapted: Adapted) -> None:
    body = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]
    function = helper.make_function(
        "own", "NegativeRelu", ["x"], ["y"], body, [helper.make_opsetid("", 17)]
    )
    d = networks.Drawing()
    d.add(
        "NegativeRelu",
        d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4]),
        out="last_hidden_state",
        domain="own",
    )
    model = d.model(
        {"last_hidden_state": ["b", 6, "h", "w"]}, opsets=[helper.make_opsetid("own", 1)]
    )
    model.functions.append(function)
    backbone = adapted(model)
    assert (backbone.features(random_pixels(32)) <= 0).all() and not backbone.proto.functions


def test_tensor_names_that_clash_with_those_of_a_backbone(adapted: Adapted) -> None:
    images = random_pixels(32)
    expected = both(adapted(networks.convolutional()), images)
    model = networks.convolutional(name="images")
    renamed = {"w0": "tailorbird/scale", "w2": "feature_map", "t0": "features"}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for weight in model.graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    for one, other in zip(both(adapted(model), images), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_branches_keep_the_tensors_they_use(adapted: Adapted) -> None:
    """An If whose branches use tensors of the outer graph, one of them named like ours."""
    d = networks.Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4), strides=[4, 4], out="features")
    d.weights.append(numpy_helper.from_array(np.array(3, np.float32), "outer"))
    condition = d.constant(np.array(True))
    branches = []
    for kind in ("Mul", "Add"):
        made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
        branches.append(
            helper.make_graph([helper.make_node(kind, [x, "outer"], ["made"])], kind, [], [made])
        )
    d.add(
        "If", condition, out="last_hidden_state", then_branch=branches[0], else_branch=branches[1]
    )
    model, images = d.model({"last_hidden_state": ["b", 6, "h", "w"]}), random_pixels(32)
    expected = original_output(model, imagenet_values(images), "last_hidden_state").mean(
        axis=(2, 3)
    )
    np.testing.assert_allclose(adapted(model).features(images), expected, rtol=1e-4, atol=1e-4)


def test_channels_last_input(adapted: Adapted) -> None:
    d = networks.Drawing()
    x = d.add("Transpose", "pixel_values", perm=[0, 3, 1, 2])
    x = d.add("Conv", x, d.weight(6, 3, 4, 4), strides=[4, 4])
    d.add("Transpose", x, perm=[0, 2, 3, 1], out="last_hidden_state")
    model, images = (
        d.model({"last_hidden_state": ["b", "h", "w", 6]}, shape=["N", "h", "w", 3]),
        random_pixels(32),
    )
    expected = original_output(
        model, imagenet_values(images).transpose(0, 2, 3, 1), "last_hidden_state"
    ).mean(axis=(1, 2))
    np.testing.assert_allclose(adapted(model).features(images), expected, rtol=1e-4, atol=1e-4)


def test_weights_in_a_second_file(tmp_path: Path) -> None:
    images, model = random_pixels(32), networks.transformer()
    path = networks.with_external_data(model, tmp_path)
    assert published.external_files(path) == ["model.onnx_data"]
    made = tmp_path / "made.backbone.onnx"
    # A link, as in the download cache, whose files are all links.
    (tmp_path / "linked").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / name)
    made.write_bytes(adapt(tmp_path / "linked" / "model.onnx", PLAIN).SerializeToString())
    tokens = original_output(networks.transformer(), imagenet_values(images), "last_hidden_state")[
        :, 1:
    ]
    np.testing.assert_allclose(
        Backbone(made).features(images), tokens.mean(axis=1), rtol=1e-4, atol=1e-4
    )

    data = tmp_path / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BackboneError, match=r"model\.onnx_data is truncated"):
        adapt(path, PLAIN)
    data.unlink()
    with pytest.raises(
        BackboneError, match=r"keeps weights in model\.onnx_data, which is not beside it"
    ):
        adapt(path, PLAIN)

    outside = onnx.load(path, load_external_data=False)
    for weight in outside.graph.initializer:
        next(
            entry for entry in weight.external_data if entry.key == "location"
        ).value = "../../etc/passwd"
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(BackboneError, match="outside its own folder"):
        adapt(path, PLAIN)


def test_opset_and_ir_versions(adapted: Adapted, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="operator set 9; at least 11"):
        adapted(networks.convolutional(opset=9))
    with pytest.raises(BackboneError, match="pip install --upgrade onnxruntime onnx"):
        adapted(networks.convolutional(opset=99))
    new = networks.convolutional()
    new.ir_version = 99
    with pytest.raises(BackboneError, match="pip install --upgrade"):
        adapted(new)
    too_new = BackboneError("model.onnx cannot be run by ONNX Runtime 1.2: ValidateOpsetForDomain")
    with (
        monkeypatch.context() as patched,
        pytest.raises(
            BackboneError, match="ValidateOpsetForDomain; pip install --upgrade onnxruntime"
        ),
    ):
        patched.setattr("tailorbird.backbone.adapt.Runner", Mock(side_effect=too_new))
        adapted(networks.convolutional())
    old = networks.convolutional(opset=11)
    old.ir_version = 3  # weights are inputs as well
    for weight in old.graph.initializer:
        old.graph.input.append(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
    assert adapted(old).info.width == 6
