from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from support.data import CLOTHING, MOBILENET, SHARED, needs_shared
from support.keras_networks import images, keras, numbers, shake
from support.progress import RecordedProgress
from tailorbird import onnx_files
from tailorbird.backbone import Backbone, at_hand, find
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.cli.app import app
from tailorbird.engines.keras import applications, description
from tailorbird.engines.keras.converter.backbone import export, verify
from tailorbird.engines.keras.pull import pull
from tailorbird.engines.keras.weights_files import load_file
from tailorbird.engines.preprocessing import prepare
from tailorbird.errors import BackboneError, HubError, SettingsError
from tailorbird.rendering.probes import probe_images

MOBILENET_WEIGHTS = SHARED / "weights" / "mobilenetv2_imagenet.weights.h5"
SMALL = 40


@pytest.fixture(scope="module")
def mobilenet() -> Any:
    """Return MobileNetV2 with random weights and statistics, for small images."""
    return shake(applications.build("MobileNetV2", SMALL))


@pytest.fixture(scope="module")
def weights_file(mobilenet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return its weights file as model.save_weights writes it."""
    path = tmp_path_factory.mktemp("weights") / "mine.weights.h5"
    mobilenet.save_weights(path)
    return path


def metadata(path: Path) -> dict[str, str]:
    return onnx_files.metadata(onnx_files.read_audited(path, BackboneError))


def test_every_application_is_known_with_its_preprocessing_and_sizes() -> None:
    names = applications.names()
    assert len(names) >= 38 and {
        "Xception",
        "MobileNetV2",
        "ConvNeXtTiny",
        "NASNetLarge",
        "VGG16",
    } <= set(names)
    found = {name: applications.find(name) for name in names}
    modes = {name: application.preprocess for name, application in found.items()}
    assert {
        modes[name]
        for name in (
            "Xception",
            "MobileNet",
            "MobileNetV2",
            "InceptionV3",
            "ResNet50V2",
            "NASNetMobile",
        )
    } == {"tf"}
    assert {modes[name] for name in ("VGG16", "VGG19", "ResNet50", "ResNet152")} == {"caffe"}
    assert {modes[name] for name in names if name.startswith("DenseNet")} == {"torch"}
    assert {
        modes[name]
        for name in names
        if name.startswith(("EfficientNet", "ConvNeXt", "MobileNetV3"))
    } == {"none"}
    assert (found["Xception"].size, found["Xception"].least_size) == (299, 71)
    assert (found["EfficientNetB3"].size, found["EfficientNetB3"].least_size) == (300, 32)
    assert found["MobileNetV3Small"].size == 224 and found["NASNetLarge"].size == 331
    assert all(application.licence and application.trained_on for application in found.values())
    assert applications.find("xCEPTION") == found["Xception"]


def test_invalid_names_and_sizes() -> None:
    with pytest.raises(
        SettingsError, match=r"no application named 'MobilNetV2'; did you mean MobileNetV2"
    ):
        pull("keras:MobilNetV2")
    with pytest.raises(
        SettingsError, match=r"no application named 'Q'; available: .*VGG19, Xception"
    ):
        pull("keras:Q")
    with pytest.raises(
        SettingsError,
        match=r"size = 70; Xception takes images of 71 to 2048 pixels, .* were trained at 299",
    ):
        pull("keras:xception", size=70)
    for reference in ("keras:", "keras:a/b", "hf:a/b", "Xception"):
        with pytest.raises(SettingsError, match="give keras:NAME, for example keras:Xception"):
            pull(reference)


FAMILIES = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "Xception": 71,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
    "NASNetMobile": 32,
}
"""The smallest of each family; benchmarks/keras_applications.py checks them all."""
QUICK = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "Xception",
    "VGG16",
    "EfficientNetB0",
    "ConvNeXtTiny",
)
"""Small ones of every preprocessing and every kind of layer; the others are marked slow."""


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_an_application_with_random_weights_agrees_and_can_be_rebuilt(name: str) -> None:
    size, application = FAMILIES[name], applications.find(name)
    model = shake(applications.build(name, size))
    about = description.describe(application=name, preprocess=application.preprocess)
    proto = export(model, preprocess=application.preprocess, size=size, about=about)
    assert verify(proto, model, application.preprocess, probe_images(size, 2)) < 1e-4
    assert ("feature_map" in {value.name for value in proto.graph.output}) == (
        not name.startswith("ConvNeXt")
    )
    if size == 32 and len(proto.graph.node) < 250:
        again, preprocess = description.rebuild(proto, 47)
        assert preprocess == application.preprocess and again.input_shape == (None, 47, 47, 3)
        assert all(
            np.array_equal(numbers(a), numbers(b))
            for a, b in zip(model.weights, again.weights, strict=True)
        )
        keras.backend.clear_session()


def test_pull_from_a_weights_file_and_again_from_the_catalogue(
    mobilenet: Any, weights_file: Path
) -> None:
    said = RecordedProgress()
    path = pull("keras:mobilenetv2", size=SMALL, weights=weights_file, progress=said)
    assert (
        path
        == catalogue_folder() / f"MobileNetV2-{SMALL}.backbone.onnx"
        == find(f"MobileNetV2-{SMALL}")
    )
    assert (
        any("loading mine.weights.h5" in line for line in said.notes)
        and "agrees with Keras" in said.notes[-1]
    )
    backbone = Backbone(path)
    assert (backbone.info.size, backbone.info.width, backbone.info.grid) == (SMALL, 1280, (2, 2))
    assert backbone.info.source == "keras:MobileNetV2" and "not stated" in backbone.info.licence
    assert [info.name for info in at_hand()] == ["lite", "pocket", f"MobileNetV2-{SMALL}"]
    expected = numbers(mobilenet(prepare(images(SMALL), "tf"), training=False))
    np.testing.assert_allclose(
        backbone.features(images(SMALL)), expected, atol=1e-5 * np.abs(expected).max()
    )
    facts = json.loads(metadata(path)["keras"])
    assert facts == {
        "application": "MobileNetV2",
        "arguments": {},
        "preprocess": "tf",
        "version": keras.__version__,
    }
    assert metadata(path)["weights_sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()

    before = path.stat().st_mtime_ns
    assert pull("keras:MobileNetV2", size=SMALL, weights=weights_file) == path
    assert (
        pull("keras:MOBILENETV2", size=SMALL, progress=said) == path
        and "the file mine.weights.h5" in said.notes[-1]
    )
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"damaged")
    assert Backbone(pull("keras:MobileNetV2", size=SMALL, weights=weights_file)).info.width == 1280


def test_a_pulled_backbone_needs_no_keras(weights_file: Path) -> None:
    path = pull("keras:MobileNetV2", size=SMALL, weights=weights_file)
    code = (
        "import sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'torch', 'h5py'): sys.modules[name] = None\n"
        "from tailorbird.engines.keras.pull import pull\nfrom tailorbird.backbone import Backbone\n"
        f"print(Backbone(pull('keras:mobilenetv2', size={SMALL})).info.width)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1280", done.stderr
    assert path.is_file()


def test_weights_with_classes_on_top_and_of_keras_2(tmp_path: Path) -> None:
    whole = shake(applications.build("MobileNetV2", 224, classes=7))
    for name in ("top.weights.h5", "top.h5", "renamed.bin"):
        path = tmp_path / name
        whole.save_weights(tmp_path / "top.weights.h5") if name != "top.h5" else whole.save(path)
        if name == "renamed.bin":
            path.write_bytes((tmp_path / "top.h5").read_bytes())
        base = applications.build("MobileNetV2", SMALL)
        load_file("MobileNetV2", base, path)
        pairs = zip(base.weights, whole.weights[: len(base.weights)], strict=True)
        assert all(np.array_equal(numbers(a), numbers(b)) for a, b in pairs), name


def test_mismatched_weights_files_are_refused(weights_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.h5"
    text.write_text("no weights")
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(weights_file.read_bytes()[:100_000])
    for path, message in (
        (
            weights_file,
            r"mine.weights.h5 does not hold the weights of MobileNet: .*; give a file of just",
        ),
        (text, "notes.h5 is not a weights file, or it is truncated"),
        (cut, "cut.weights.h5 is not a weights file, or it is truncated"),
        (tmp_path, "is a folder; give a weights file"),
        (tmp_path / "none.h5", "does not exist"),
    ):
        with pytest.raises(BackboneError, match=message):
            pull("keras:MobileNet", size=SMALL, weights=path)
    assert not list(catalogue_folder().glob("*"))
    other = tmp_path / "small.weights.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(other)
    with pytest.raises(BackboneError, match="does not hold the weights of MobileNetV2"):
        pull("keras:MobileNetV2", size=SMALL, weights=other)


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for this test's downloads."""
    from keras.src.backend import config

    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


Fetch = Callable[..., Any]


def test_keras_own_download(
    mobilenet: Any, weights_file: Path, keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def serve(url: str, target: str, *_: object) -> None:
        asked.append(url)
        legacy = keras_home / "legacy.h5"
        mobilenet.save(legacy)  # Keras publishes files of the older kind
        Path(target).write_bytes(legacy.read_bytes())

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", serve)
    said = RecordedProgress()
    path = pull("keras:MobileNetV2", size=SMALL, progress=said)
    assert (
        len(asked) == 1
        and asked[0].endswith("_no_top.h5")
        and "Keras downloads them" in said.notes[0]
    )
    info = Backbone(path).info
    assert (info.licence, info.trained_on) == ("Apache-2.0", "ImageNet-1k")
    expected = numbers(mobilenet(prepare(images(SMALL), "tf"), training=False))
    np.testing.assert_allclose(
        Backbone(path).features(images(SMALL)), expected, atol=1e-5 * np.abs(expected).max()
    )
    assert pull("keras:MobileNetV2", size=SMALL) == path and len(asked) == 1
    path.unlink()
    assert pull("keras:MobileNetV2", size=SMALL) == path and len(asked) == 1, (
        "Keras' own cache serves the second conversion"
    )


def test_efficientnets_published_weights_are_scaled_as_keras_does(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a layer for the published weights; here it is folded into the variances."""
    published = shake(applications.build("EfficientNetB0", SMALL))
    deviations = np.array([0.229, 0.224, 0.225], np.float32)
    normalization = next(
        layer for layer in published.layers if type(layer).__name__ == "Normalization"
    )
    normalization.adapt_mean.assign(np.array([0.485, 0.456, 0.406]))
    normalization.adapt_variance.assign(deviations)
    normalization.finalize_state()

    def serve(url: str, target: str, *_: object) -> None:
        published.save(keras_home / "legacy.h5")
        Path(target).write_bytes((keras_home / "legacy.h5").read_bytes())

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", serve)
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)
    as_keras = keras.applications.EfficientNetB0(
        include_top=False, pooling="avg", input_shape=(SMALL, SMALL, 3)
    )
    expected = numbers(as_keras(images(SMALL).astype(np.float32), training=False))
    path = pull("keras:EfficientNetB0", size=SMALL)
    np.testing.assert_allclose(
        Backbone(path).features(images(SMALL)), expected, atol=1e-4 * np.abs(expected).max()
    )
    again, _ = description.rebuild(onnx_files.read_audited(path, BackboneError), SMALL)
    found = numbers(again(images(SMALL).astype(np.float32), training=False))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_offline_errors_name_the_address_and_the_remedy(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    with pytest.raises(HubError) as caught:
        pull("keras:MobileNetV2")
    message = str(caught.value)
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    assert (
        message.startswith("https://")
        and f"{name} cannot be reached (Name or service not known)" in message
    )
    assert f"download {name} on another machine and give it with --weights FILE" in message
    assert str(keras_home / "models") in message
    assert not list(catalogue_folder().glob("*"))

    def corrupt(url: str, target: str, *_: object) -> None:
        Path(target).write_bytes(b"half")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", corrupt)
    with pytest.raises(
        HubError, match="the weights of ResNet50 could not be loaded: Incomplete or corrupted file"
    ):
        pull("keras:ResNet50", size=SMALL)


def test_the_command(weights_file: Path) -> None:
    runner = CliRunner()
    command = [
        "backbones",
        "pull",
        "keras:MobileNetV2",
        "--size",
        str(SMALL),
        "--weights",
        str(weights_file),
    ]
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (
        shown["name"] == f"MobileNetV2-{SMALL}"
        and shown["input_size"] == SMALL
        and shown["grid"] == [2, 2]
    )
    again = runner.invoke(app, command)
    assert again.exit_code == 0 and f"train PHOTOS --backbone MobileNetV2-{SMALL}" in again.stdout
    listed = json.loads(runner.invoke(app, ["backbones", "--json"]).stdout)["backbones"]
    assert [row["name"] for row in listed] == ["lite", "pocket", f"MobileNetV2-{SMALL}"]
    assert listed[2]["source"] == "keras:MobileNetV2" and "Apache-2.0" in listed[2]["licence"]
    for arguments, message in (
        (["keras:Xception", "--file", "model.onnx"], "--file and --revision are for hf:OWNER/REPO"),
        (
            ["hf:a/b", "--weights", str(weights_file)],
            "--weights, --model-args and --resize are for keras:NAME",
        ),
        (["keras:Xcepton"], "did you mean Xception"),
    ):
        refused = runner.invoke(app, ["backbones", "pull", *arguments])
        assert isinstance(refused.exception, SettingsError) and message in str(refused.exception)


def test_networks_from_a_configuration_at_another_size() -> None:
    inner = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(SMALL, SMALL, 3), alpha=0.35
    )
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SMALL, SMALL, 3)),
            layers.Rescaling(1 / 255),
            inner,
            layers.Conv2D(6, 1),
            layers.GlobalAveragePooling2D(),
        ]
    )
    shake(model)
    proto = export(
        model,
        preprocess="none",
        size=SMALL,
        about=description.describe(preprocess="none", model=model),
    )
    verify(proto, model, "none", probe_images(SMALL, 2))
    for size in (SMALL, 64):
        again, preprocess = description.rebuild(proto, size)
        assert preprocess == "none" and again.input_shape == (None, size, size, 3)
        assert all(
            np.array_equal(numbers(a), numbers(b))
            for a, b in zip(model.weights, again.weights, strict=True)
        )
        verify(
            export(again, preprocess="none", size=size, about={}),
            again,
            "none",
            probe_images(size, 2),
        )
    flat = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(4)])
    proto = export(
        flat, preprocess="unit", size=8, about=description.describe(preprocess="unit", model=flat)
    )
    with pytest.raises(
        SettingsError,
        match=r"cannot be built for images of 16 x 16 pixels .*; use the size it was made for",
    ):
        description.rebuild(proto, 16)


def test_files_without_a_valid_keras_description() -> None:
    with pytest.raises(BackboneError, match="was not made by the Keras engine"):
        description.rebuild(onnx_files.read_audited(find("pocket"), BackboneError), 64)
    proto = onnx_files.read_audited(find("pocket"), BackboneError)
    entries = (
        "[]",
        "{",
        '{"application": "VGG16"}',
        '{"application": "VGG16", "preprocess": "own"}',
        '{"preprocess": "tf"}',
    )
    for entry in entries:
        onnx_files.set_metadata(proto, {"keras": entry})
        with pytest.raises(BackboneError, match="damaged or of a newer tailorbird"):
            description.rebuild(proto, 64)
    lambda_layer = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Flatten()]
    )
    onnx_files.set_metadata(proto, description.describe(preprocess="tf", model=lambda_layer))
    with pytest.raises(BackboneError, match="Lambda"):
        description.rebuild(proto, 8)


@needs_shared
def test_the_same_weights_as_the_published_backbone(tmp_path: Path) -> None:
    """Two conversions of the same ImageNet weights give the same features on photos."""
    from PIL import Image

    path = pull("keras:MobileNetV2", weights=MOBILENET_WEIGHTS, folder=tmp_path)
    assert path.name == "MobileNetV2.backbone.onnx"
    ours, theirs = Backbone(path), Backbone(MOBILENET)
    chosen = sorted((CLOTHING / "test").rglob("*.jpg"))[::40]
    batch = np.stack(
        [np.asarray(Image.open(photo).convert("RGB").resize((224, 224))) for photo in chosen]
    )
    assert len(batch) >= 5
    assert np.abs(ours.features(batch) - theirs.features(batch)).max() < 1e-3
    for size, grid in ((150, (5, 5)), (299, (10, 10))):
        assert (
            Backbone(
                pull("keras:MobileNetV2", size=size, weights=MOBILENET_WEIGHTS, folder=tmp_path)
            ).info.grid
            == grid
        )
