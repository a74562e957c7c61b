"""Backbones side by side, and the mirrored view: exact features, maps that keep the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from support import published_networks as networks
from support.adapting import Adapted
from support.data import SHARED, needs_shared
from support.tiny_backbone import tiny
from tailorbird import onnx_files
from tailorbird.backbone import Backbone, open_backbone
from tailorbird.backbone.combining import combine
from tailorbird.backbone.contract import rule_entry
from tailorbird.errors import BackboneError
from tailorbird.images import ResizeRule, resize

Images = npt.NDArray[np.uint8]
Save = Callable[..., Backbone]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that opens a small backbone; arguments as for `tiny`."""

    def make(name: str = "tiny", **options: object) -> Backbone:
        path = tmp_path / f"{name}.backbone.onnx"
        model = tiny(**{"weight": 0.02, **options})  # type: ignore[arg-type]
        next(entry for entry in model.metadata_props if entry.key == "name").value = name
        onnx.save(model, path)
        return Backbone(path)

    return make


def smooth(size: int, count: int = 5) -> Images:
    """Return random pictures without sharp edges, uint8 (count, size, size, 3)."""
    rough = np.random.default_rng(3).integers(0, 256, (count, 7, 7, 3), np.uint8)
    return np.stack([resize(Image.fromarray(image), ResizeRule(size)) for image in rough])


def turned(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


def outputs(backbone: Backbone, images: Images) -> tuple[npt.NDArray[np.float32], ...]:
    names = ["features", "feature_map"] if backbone.info.grid else ["features"]
    return tuple(backbone.runner.run_batch(images, names))


def assert_contract(backbone: Backbone) -> None:
    """Check the graph with ONNX's checker, its shapes, and that features are the map's mean."""
    onnx.checker.check_model(backbone.proto, full_check=True)
    info = backbone.info
    features, *maps = outputs(backbone, smooth(info.size))
    assert features.shape == (5, info.width)
    if maps:
        assert maps[0].shape == (5, info.width, *(info.grid or ()))
        assert np.allclose(maps[0].mean(axis=(2, 3)), features, atol=1e-5)
    alone = outputs(backbone, smooth(info.size)[2:3])[0]
    assert np.allclose(alone, features[2:3], atol=1e-5), "no image depends on its batch"


def test_one_backbone_without_the_mirror_is_itself(save: Save) -> None:
    backbone = save()
    assert combine([backbone], mirror=False) is backbone and backbone.parts == (backbone,)


def test_the_mirror_averages_features_and_turns_the_map_back(save: Save) -> None:
    backbone, images = save(), smooth(16)
    both = combine([backbone], mirror=True)
    assert_contract(both)
    (plain, plain_map), (other, other_map) = (
        outputs(backbone, view) for view in (images, turned(images))
    )
    features, feature_map = outputs(both, images)
    assert np.abs(plain - other).max() > 0.01, "the views differ"
    assert np.allclose(features, (plain + other) / 2, atol=1e-6)
    assert np.allclose(feature_map, (plain_map + other_map[..., ::-1]) / 2, atol=1e-6)
    again, again_map = outputs(both, turned(images))
    assert np.allclose(again, features, atol=1e-6), "the mirrored photo has the same features"
    assert np.allclose(again_map, feature_map[..., ::-1], atol=1e-6)
    assert both.info.mirror and both.info.name == "tiny + mirror"
    assert both.info.sha256 != backbone.info.sha256


def test_features_stand_side_by_side_in_the_order_given(save: Save) -> None:
    one, two, images = save("one"), save("two", weight=0.03), smooth(16)
    joined = combine([one, two], mirror=False)
    assert_contract(joined)
    features, feature_map = outputs(joined, images)
    for position, alone in enumerate((one, two)):
        mine, my_map = outputs(alone, images)
        place = slice(6 * position, 6 * position + 6)
        assert np.allclose(features[:, place], mine, atol=1e-6)
        assert np.allclose(feature_map[:, place], my_map, atol=1e-6)
    info = joined.info
    assert (info.name, info.width, info.grid, info.licence) == ("one,two", 12, (4, 4), "CC0")
    assert info.sha256 != combine([two, one], mirror=False).info.sha256
    assert [part["name"] for part in info.as_dict()["parts"]] == ["one", "two"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mirror", [False, True])
def test_smaller_backbones_see_the_image_reduced_by_the_resize_rule(
    save: Save, mirror: bool
) -> None:
    large, small = save("large", size=44), save("small", size=16)
    joined = combine([small, large], mirror=mirror)
    assert_contract(joined)
    assert joined.info.size == 44 and joined.info.grid == (11, 11), "the finest grid"
    images = smooth(44)
    reduced = np.stack([resize(Image.fromarray(image), ResizeRule(16)) for image in images])
    joint = outputs(joined, images)[0][:, :6]
    views = [small.features(reduced), small.features(turned(reduced))]
    expected = np.mean(views[: 1 + mirror], axis=0)
    # Pillow rounds once more than the graph: at most one grey level, here 0.02 x 48 weights of it.
    assert np.abs(joint - expected).max() < 0.02 * np.abs(expected).max()


def test_a_coarse_map_keeps_its_place_on_the_finer_grid(save: Save) -> None:
    joined = combine([save("large", size=40), save("small", size=16)], mirror=False)
    images = smooth(40)
    feature_map = outputs(joined, images)[1][:, 6:]
    coarse = outputs(joined.parts[1], images)[1]
    # Cell 0 of 10 lies in cell 0 of 4; cell 2 is half in cell 0 and half in cell 1.
    assert np.allclose(feature_map[:, :, 0, 9], coarse[:, :, 0, 3], atol=1e-4)
    between = (coarse[:, :, 0, 0] + coarse[:, :, 1, 0]) / 2
    assert np.allclose(feature_map[:, :, 2, 0], between, atol=1e-4)


def test_parts_give_the_features_of_the_whole(save: Save) -> None:
    joined = combine([save("a", size=24), save("b", size=16, weight=0.03)], mirror=False)
    images = smooth(24)
    parts = np.concatenate([part.features(images) for part in joined.parts], axis=1)
    assert np.allclose(parts, joined.features(images), atol=1e-6)
    again = combine([save("b", size=16, weight=0.03), save("c", size=24, weight=0.01)], mirror=True)
    assert again.parts[0].info.sha256 == joined.parts[1].info.sha256, "so the cache serves both"


def test_backbones_of_different_operator_sets(save: Save) -> None:
    old, new = save("old", opset=13), save("new", opset=18, weight=0.03)
    joined = combine([old, new], mirror=True)
    assert_contract(joined)
    images = smooth(16)
    mean = (old.features(images) + old.features(turned(images))) / 2
    assert np.allclose(outputs(joined, images)[0][:, :6], mean, atol=1e-5)


def test_published_networks_with_tokens_and_with_branches(adapted: Adapted) -> None:
    """A vision transformer beside a network whose If uses tensors of the outer graph."""
    drawing = networks.Drawing()
    x = drawing.add("Conv", "pixel_values", drawing.weight(6, 3, 4, 4), strides=[4, 4])
    drawing.weights.append(numpy_helper.from_array(np.array(3, np.float32), "outer"))
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    branches = {
        branch: helper.make_graph(
            [helper.make_node(kind, [x, "outer"], ["made"])], branch, [], [made]
        )
        for branch, kind in (("then_branch", "Mul"), ("else_branch", "Add"))
    }
    condition = drawing.constant(np.array(True))
    drawing.add("If", condition, out="last_hidden_state", **branches)
    tokens = adapted(networks.transformer(registers=4))
    branched = adapted(drawing.model({"last_hidden_state": ["b", 6, "h", "w"]}))
    joined = combine([tokens, branched], mirror=True)
    assert_contract(joined)
    images = smooth(32)
    expected = np.concatenate(
        [(one.features(images) + one.features(turned(images))) / 2 for one in (tokens, branched)],
        axis=1,
    )
    assert np.allclose(joined.features(images), expected, atol=1e-4)


def test_one_backbone_without_a_feature_map_leaves_no_heat_maps(save: Save) -> None:
    joined = combine([save("a"), save("b", with_map=False, pool="GlobalMaxPool")], mirror=True)
    assert_contract(joined)
    assert joined.info.grid is None


def test_one_network_given_twice_is_refused(save: Save) -> None:
    backbone = save()
    with pytest.raises(BackboneError, match="tiny, tiny contain one network twice; give each once"):
        combine([backbone, backbone], mirror=False)


def test_names_separated_by_commas_and_files_with_a_comma(tmp_path: Path, save: Save) -> None:
    path = save("small").path
    joined = open_backbone(f"pocket, {path}")
    assert joined.info.name == "pocket,small" and joined.info.width == 518
    comma = tmp_path / "a,b.backbone.onnx"
    comma.write_bytes(path.read_bytes())
    assert open_backbone(comma).info.width == 6
    with pytest.raises(BackboneError, match="there is no backbone named 'nosuch'; available"):
        open_backbone("pocket,nosuch")
    with pytest.raises(BackboneError, match="there is no backbone named ''"):
        open_backbone("pocket,")


@needs_shared
def test_real_backbones_of_three_sizes() -> None:
    weights = SHARED / "weights"
    files = [
        weights / "efficientnet_lite2_imagenet.backbone.onnx",
        weights / "mobilenetv2_imagenet.backbone.onnx",
        weights / "pocket.onnx",
    ]
    joined = combine([Backbone(file) for file in files], mirror=True)
    assert (joined.info.size, joined.info.width, joined.info.grid) == (260, 3072, (9, 9))
    assert_contract(joined)


def with_rule(backbone: Backbone, rule: ResizeRule) -> Backbone:
    """Return a backbone whose file states another resize rule."""
    model = onnx.load(backbone.path)
    onnx_files.set_metadata(model, {**onnx_files.metadata(model), **rule_entry(rule)})
    path = backbone.path.with_name(f"other-{backbone.path.name}")
    onnx.save(model, path)
    return Backbone(path)


def test_joined_backbones_see_photos_by_one_rule(save: Save) -> None:
    crop = ResizeRule(16, keep_aspect=True, share=0.875, filter="bicubic")
    one, two = with_rule(save("one"), crop), with_rule(save("two", size=32), crop.at(32))
    assert one.info.rule == crop and one.info.size == 16
    assert one.info.as_dict()["resize"] == crop.as_dict()
    joined = combine([one, two], mirror=True)
    assert joined.info.rule == crop.at(32) and joined.info.size == 32
    assert combine([one], mirror=True).info.rule == crop
    with pytest.raises(BackboneError, match=r"one: the shorter .*three: squashed .*same --resize"):
        combine([one, save("three")], mirror=False)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("{", "cannot be used"),
        ('{"mode": "squash", "size": 99999}', "must be between 8 and 2048"),
        ('{"mode": "squash", "size": 24}', "makes them of 24 px"),
        ("[" * 100_000, "cannot be used"),
    ],
    ids=["no JSON", "too large", "other size", "deep"],
)
def test_a_backbone_with_a_damaged_resize_rule_is_refused(
    save: Save, stated: str, words: str
) -> None:
    path = save().path
    model = onnx.load(path)
    onnx_files.set_metadata(model, {**onnx_files.metadata(model), "resize_rule": stated})
    onnx.save(model, path)
    with pytest.raises(BackboneError, match=words):
        Backbone(path)
