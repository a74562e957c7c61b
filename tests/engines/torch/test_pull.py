"""Networks of timm become backbone files that agree with PyTorch, and can be rebuilt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.data import CLOTHING, SHARED, needs_shared
from support.timm_networks import CNN, CONVNEXT, SIDE, VIT, network, save_weights
from tailorbird.backbone import Backbone
from tailorbird.engines.pulling import pull_backbone
from tailorbird.engines.torch import backend, description, networks
from tailorbird.engines.torch.exporting import backbone_module
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.images import ResizeRule, from_array, resize
from tailorbird.rendering.probes import probe_images


def features_of(model: Any, images: Any, mean: Any, std: Any) -> Any:
    """Return timm's own features: NumPy normalises, timm pools."""
    torch, _ = backend.load()
    pixels = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        found = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return model.forward_head(model.forward_features(found), pre_logits=True).numpy()


@pytest.mark.parametrize(
    ("name", "has_map"), [(CNN, True), (VIT, False), (CONVNEXT, False)], ids=[CNN, VIT, CONVNEXT]
)
def test_a_pulled_network_has_the_features_of_timm(
    name: str, has_map: bool, tmp_path: Path
) -> None:
    torch, timm = backend.load()
    model = network(name)
    weights = save_weights(model, tmp_path / "w.safetensors")
    size = 160  # of the position embeddings
    path = pull_backbone(f"timm:{name}", weights=weights, size=size)
    backbone, images = Backbone(path), probe_images(size, 5)
    cfg = timm.get_pretrained_cfg(name)
    expected = features_of(model, images, cfg.mean, cfg.std)
    assert np.abs(backbone.features(images) - expected).max() < 1e-4 * np.abs(expected).max()
    assert (backbone.info.grid is not None) == has_map
    again, architecture = description.rebuild(backbone.proto, size)
    with torch.no_grad():
        rebuilt = backbone_module(again, architecture)(torch.from_numpy(images)).numpy()
    assert np.abs(rebuilt - expected).max() < 1e-5 * np.abs(expected).max()
    kept = {key: value for key, value in model.state_dict().items() if key in again.state_dict()}
    assert kept and all(torch.equal(value, again.state_dict()[key]) for key, value in kept.items())


def test_a_mean_of_patch_tokens_has_heat_maps(tmp_path: Path) -> None:
    """As in DINOv3: the class token is no part of the features, and no norm follows the mean."""
    _, timm = backend.load()
    arguments: dict[str, Any] = {"global_pool": "avg", "fc_norm": False}
    model = network(VIT, **arguments)
    weights = save_weights(model, tmp_path / "w.safetensors")
    path = pull_backbone(f"timm:{VIT}", weights=weights, size=160, arguments=arguments)
    backbone, images = Backbone(path), probe_images(160, 4)
    cfg = timm.get_pretrained_cfg(VIT)
    expected = features_of(model, images, cfg.mean, cfg.std)
    features, found = backbone.runner.run_batch(images, ["features", "feature_map"])
    assert backbone.info.grid == (10, 10) and backbone.info.pooling == "mean"
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(found.mean(axis=(2, 3)) - features).max() < 1e-5 * np.abs(expected).max()


def test_weights_of_another_network_and_unknown_names_are_refused(tmp_path: Path) -> None:
    weights = save_weights(network(VIT), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"the weights are not those of test_efficientnet: "):
        pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE)
    with pytest.raises(SettingsError, match=r"has no network 'test_efficientnot'; did you mean"):
        pull_backbone("timm:test_efficientnot", weights=weights)
    with pytest.raises(SettingsError, match="is not a valid reference to a network of timm"):
        pull_backbone("timm:a/b", weights=weights)


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "arguments"),
    [
        (
            "tf_efficientnet_lite2",
            "efficientnet_lite2_imagenet",
            {"mean": 127 / 255, "std": 128 / 255},
        ),
        (
            "mobilenetv2_100",
            "mobilenetv2_imagenet",
            {"pad_type": "same", "bn_eps": 0.001, "mean": 0.5, "std": 0.5},
        ),
    ],
)
def test_published_weights_give_the_reference_features_on_photos(
    name: str, file: str, arguments: dict[str, Any]
) -> None:
    folder = SHARED / "weights"
    path = pull_backbone(
        f"timm:{name}", weights=folder / f"{file}.timm.safetensors", arguments=arguments
    )
    reference, found = Backbone(folder / f"{file}.backbone.onnx"), Backbone(path)
    photos = sorted((CLOTHING / "test").rglob("*.jpg"))[::40]
    rule = reference.info.rule
    images = np.stack([resize(Image.open(photo).convert("RGB"), rule) for photo in photos])
    assert len(images) >= 8 and found.info.rule == reference.info.rule
    expected = reference.features(images)
    assert np.abs(found.features(images) - expected).max() < 1e-4 * np.abs(expected).max()
    assert found.info.grid == reference.info.grid


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a picture without sharp edges."""
    rough = np.random.default_rng(2).integers(0, 256, (11, 11, 3), np.uint8)
    return from_array(rough).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2_100.ra_in1k", ResizeRule(224, True, 0.875, "bicubic")),
        ("cspdarknet53.ra_in1k", ResizeRule(256, True, 0.887, "bilinear")),
        ("vit_base_patch16_siglip_224.webli", ResizeRule(224, True, 0.9, "bicubic")),
        ("dm_nfnet_f0.dm_in1k", ResizeRule(192, False, 0.9, "bicubic")),
        ("coat_lite_medium_384.in1k", ResizeRule(384, False, 1.0, "bicubic")),
    ],
)
def test_the_published_resize_rule_gives_the_pixels_of_timm(
    name: str, expected: ResizeRule
) -> None:
    _, timm = backend.load()
    rule, cfg = networks.find(name).rule, timm.get_pretrained_cfg(name).to_dict()
    assert rule == expected
    transform = timm.data.create_transform(
        input_size=cfg["input_size"],
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg["crop_mode"],
        interpolation=cfg["interpolation"],
        mean=(0, 0, 0),
        std=(1, 1, 1),
        is_training=False,
    )
    for size in ((500, 400), (300, 512), (224, 224), (90, 50)):
        theirs = transform(photo(size)).numpy().transpose(1, 2, 0) * 255
        gap = np.abs(resize(photo(size), rule) - theirs)
        # Pillow rounds between columns and rows, and may take them in another order.
        assert gap.max() <= 2.01 and gap.mean() < 0.1


def test_a_network_is_pulled_with_timms_resize_rule_on_request(tmp_path: Path) -> None:
    weights = save_weights(network(CNN), tmp_path / "w.safetensors")
    squashed = Backbone(pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE))
    path = pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE, resize="published")
    published = Backbone(path)
    assert squashed.info.rule == ResizeRule(SIDE)
    rule = networks.find(CNN).rule
    assert rule is not None and rule.keep_aspect and published.info.rule == rule.at(SIDE)
    assert path.name == f"{CNN}-{SIDE}-published.backbone.onnx" and path != squashed.path
    images = probe_images(SIDE, 3)
    assert np.array_equal(published.features(images), squashed.features(images))
    assert pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE, resize="published") == path
    with pytest.raises(SettingsError, match="resize is 'crop'; it must be squash or published"):
        pull_backbone(f"timm:{CNN}", weights=weights, resize="crop")
    with pytest.raises(SettingsError, match="--resize are for keras:NAME, timm:NAME"):
        pull_backbone("hf:owner/repo", resize="published")
    with pytest.raises(SettingsError, match="Keras squashes photos; leave --resize out"):
        pull_backbone("keras:MobileNetV2", resize="published")


def test_a_network_whose_photos_timm_pads_is_squashed_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {"crop_mode": "border", "crop_pct": 1.0, "interpolation": "bicubic"}
    assert networks.published_rule(stated, 224) is None
    monkeypatch.setattr(networks, "published_rule", lambda *_: None)
    weights = save_weights(network(CNN), tmp_path / "w.safetensors")
    with pytest.raises(SettingsError, match="timm pads photos to a square for test_efficientnet"):
        pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE, resize="published")
    assert Backbone(pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE)).info.rule.squashes
