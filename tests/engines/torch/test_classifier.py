"""Classifiers of timm become model files: published ones, and weights files with --arch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from support.data import picture
from support.timm_networks import CNN, CONVNEXT, SIDE, VIT, network, save_weights
from tailorbird import onnx_files
from tailorbird.engines.torch import backend, description
from tailorbird.errors import ModelFileError, SettingsError
from tailorbird.images import ResizeRule
from tailorbird.importing import import_application, import_model
from tailorbird.inference import Runner
from tailorbird.model import load
from tailorbird.rendering.probes import probe_images

NAMES = ("ant", "bee", "cow", "dog", "eel")


def chances(model: Any, images: Any, mean: Any, std: Any) -> Any:
    """Return the probabilities that PyTorch computes."""
    torch, _ = backend.load()
    pixels = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        found = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
        return torch.softmax(found.double(), dim=1).numpy()


def imported(path: Path, images: Any) -> Any:
    return Runner(onnx.load(path), "out", ModelFileError).run(images, ["probabilities"])[0]


@pytest.mark.parametrize(
    ("name", "side", "maps"), [(CNN, SIDE, True), (CONVNEXT, SIDE, False), (VIT, 160, False)]
)
def test_weights_with_classes_become_a_model_file(
    name: str, side: int, maps: bool, tmp_path: Path
) -> None:
    _, timm = backend.load()
    model = network(name)
    path = save_weights(model, tmp_path / "mine.safetensors")
    result = import_model(path, tmp_path / "out.onnx", classes=NAMES, arch=name, size=side)
    assert result.heatmaps == maps and result.agreement < 1e-5 and result.preprocess == "none"
    images, cfg = probe_images(side, 5), timm.get_pretrained_cfg(name)
    gap = imported(tmp_path / "out.onnx", images) - chances(model, images, cfg.mean, cfg.std)
    assert np.abs(gap).max() < 1e-5
    # The network below the head can be rebuilt from the model file.
    proto = onnx.load(tmp_path / "out.onnx")
    again, _ = description.rebuild(proto, side)
    state = model.state_dict()
    assert all(bool((value == state[key]).all()) for key, value in again.state_dict().items())


def test_a_config_beside_the_weights_states_network_names_and_normalisation(
    tmp_path: Path,
) -> None:
    model = network(CNN)
    path = save_weights(model, tmp_path / "model.safetensors")
    mean, std = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    config = {
        "architecture": CNN,
        "pretrained_cfg": {
            "mean": mean, "std": std, "input_size": [3, SIDE, SIDE], "label_names": list(NAMES),
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = import_model(path, tmp_path / "out.onnx")
    assert result.info.classes == NAMES and result.info.resize.size == SIDE
    images = probe_images(SIDE, 5)
    gap = imported(tmp_path / "out.onnx", images) - chances(model, images, mean, std)
    assert np.abs(gap).max() < 1e-5


def test_weights_that_cannot_be_imported_say_what_to_do(tmp_path: Path) -> None:
    path = save_weights(network(CNN), tmp_path / "mine.safetensors")

    def refused(error: type[Exception], source: Path = path, **options: Any) -> str:
        with pytest.raises(error) as found:
            import_model(source, tmp_path / "out.onnx", **{"classes": NAMES, **options})
        return str(found.value)

    assert "name their network with --arch" in refused(SettingsError)
    assert "has no network 'resnet51'; did you mean" in refused(SettingsError, arch="resnet51")
    assert "does not name its 5 classes" in refused(SettingsError, arch=CNN, classes=(), size=SIDE)
    assert "holds no classifier of test_vit" in refused(ModelFileError, arch=VIT)
    other = save_weights(network("test_resnet"), tmp_path / "other.safetensors")
    assert "not those of resnet10t" in refused(ModelFileError, other, arch="resnet10t")
    bare = save_weights(network(CNN, classes=0), tmp_path / "bare.safetensors")
    assert "holds no classifier" in refused(ModelFileError, bare, arch=CNN)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    broken = tmp_path / "broken.safetensors"
    assert "is not a weights file of PyTorch" in refused(ModelFileError, broken, arch=CNN)
    assert not (tmp_path / "out.onnx").exists()


def test_the_published_classifier_has_timms_class_names(tmp_path: Path) -> None:
    model = network(CNN, classes=1000)
    weights = save_weights(model, tmp_path / "w.pth")
    result = import_application(f"timm:{CNN}", tmp_path / "out.onnx", weights=weights, size=SIDE)
    assert len(result.info.classes) == 1000
    assert result.info.classes[0] == "tench" and result.info.classes[999] == "toilet tissue"
    assert result.info.backbone["licence"].startswith("not stated (apache-2.0 where")
    assert onnx_files.metadata(onnx.load(tmp_path / "out.onnx"))["timm"]


def test_photos_are_resized_as_timm_resizes_them_for_its_classifiers(tmp_path: Path) -> None:
    """From a photo's file to probabilities, against timm's transform and PyTorch."""
    torch, timm = backend.load()
    model = network(CNN, classes=1000)
    weights = save_weights(model, tmp_path / "w.safetensors")
    result = import_application(f"timm:{CNN}", tmp_path / "out.onnx", weights=weights, size=SIDE)
    data = timm.data.resolve_model_data_config(model)
    assert data["crop_mode"] == "center" and data["crop_pct"] < 1
    assert result.info.resize == ResizeRule(SIDE, True, data["crop_pct"], data["interpolation"])
    data["input_size"] = (3, SIDE, SIDE)
    transform = timm.data.create_transform(**data, is_training=False)
    ours = load(tmp_path / "out.onnx")
    for seed, size in enumerate([(300, 120), (120, 300), (90, 90)]):
        image = picture("disc", seed, size)
        with torch.no_grad():
            expected = torch.softmax(model(transform(image)[None]), dim=1)[0].numpy()
        answer = ours.predict(image, top=1000)
        found = np.array([dict(answer.top)[name] for name in result.info.classes])
        assert np.abs(found - expected).max() < 0.02 * expected.max()


def test_the_resize_rule_in_a_config_is_used(tmp_path: Path) -> None:
    path = save_weights(network(CNN), tmp_path / "model.safetensors")
    stated = {"input_size": [3, SIDE, SIDE], "label_names": list(NAMES)}
    for crop, expected in (
        ({"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}, ResizeRule(SIDE)),
        (
            {"crop_mode": "center", "crop_pct": 0.9, "interpolation": "bicubic"},
            ResizeRule(SIDE, keep_aspect=True, share=0.9, filter="bicubic"),
        ),
        ({"crop_mode": "border"}, ResizeRule(SIDE)),
    ):
        config = {"architecture": CNN, "pretrained_cfg": {**stated, **crop}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert import_model(path, tmp_path / "out.onnx").info.resize == expected


def test_a_pickle_with_code_is_never_run(tmp_path: Path) -> None:
    torch, _ = backend.load()
    from tailorbird.engines.torch.weights_files import read_weights
    from tailorbird.errors import BackboneError

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": torch.zeros(1), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match="holds more than weights"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    nan = {"weight": torch.full((2,), float("nan"))}
    torch.save(nan, tmp_path / "nan.pth")
    with pytest.raises(BackboneError, match="1 weights hold NaN, the first is 'weight'"):
        read_weights(tmp_path / "nan.pth")


def small(name: str) -> tuple[Any, int]:
    """Return a network of timm or torchvision with random weights, and its input size."""
    torch, _ = backend.load()
    from torchvision.models import SwinTransformer, VisionTransformer

    torch.manual_seed(0)
    if name == "torchvision vit":
        model: Any = VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
        torch.nn.init.normal_(model.heads.head.weight)
        return model.eval(), 32
    if name == "torchvision swin":
        return SwinTransformer([4, 4], 24, [2], [2], [7, 7], num_classes=5).eval(), 112
    return network(name), 160 if name == VIT else SIDE


@pytest.mark.filterwarnings("ignore")  # the exporters'
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        (VIT, True),
        (CONVNEXT, True),
        ("torchvision vit", True),
        ("torchvision vit", False),
        ("torchvision swin", True),
        ("torchvision swin", False),
    ],
)
def test_exports_for_one_image_take_any_number(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch, _ = backend.load()
    model, side = small(name)
    path = tmp_path / "one.onnx"
    torch.onnx.export(model, (torch.zeros(1, 3, side, side),), str(path), dynamo=dynamo,
                      opset_version=18 if dynamo else 17)  # fmt: skip
    result = import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    assert "takes 1 at a time" in result.notes[0]
    images = probe_images(side, 3)
    gap = imported(tmp_path / "out.onnx", images) - chances(model, images, 0, 1)
    assert np.abs(gap).max() < 1e-4
