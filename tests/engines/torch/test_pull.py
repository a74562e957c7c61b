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
from tailorbird.engines.torch import backend, description
from tailorbird.engines.torch.exporting import backbone_module
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.images import resize
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
