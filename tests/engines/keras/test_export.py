"""`tailorbird export --to keras` predicts the same; the `core` tests run on JAX as well."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from support.data import MOBILENET
from support.documented_json import problems, schemas
from support.jax_backend import jax_environment
from support.keras_small import CLASSES, SIZE, photos, run, small_backbone, small_head, softmax
from tailorbird.cli.app import app
from tailorbird.engines import exporting
from tailorbird.engines.exporting import export_model
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.keras import backend, export, scratch
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.engines.keras.network import KerasNetwork
from tailorbird.engines.protocol import Regularisation, Training
from tailorbird.engines.registry import carried
from tailorbird.errors import ModelFileError, SettingsError, StorageFull, TrainingError
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.model.file import write
from tailorbird.model.graph import PREFIX, build, head_in
from tailorbird.model.metadata import ModelInfo
from tailorbird.training import train

keras = backend.load()
JAX = keras.backend.backend() == "jax"
ROOT = Path(__file__).resolve().parents[3]
TEMPERATURE = 1.7


def written(path: Path, proto: onnx.ModelProto, head: Head, size: int = SIZE) -> Path:
    """Write a model file as `train` does, of a backbone of the Keras engine."""
    classes = head.layers[-1].weight.shape[1]
    said = {entry.key: entry.value for entry in proto.metadata_props}
    info = ModelInfo(
        classes=tuple(f"class {number}" for number in range(classes)),
        resize=ResizeRule(size),
        threshold=0.5,
        temperature=TEMPERATURE,
        scores={},
        backbone={"name": said["name"], "source": said["source"]},
        settings={},
        seed=0,
        data={},
        versions={},
        created="2026-01-01T00:00:00Z",
    )
    images = photos(4, size)
    expected = softmax(head.logits(run(proto, images)) / TEMPERATURE)
    graph = build(KerasBackbone.from_proto(proto, size).backbone_graph(proto), head, TEMPERATURE)
    write(path, graph, info, images=images, expected=expected, extra=carried(proto))
    return path


def tuned(tmp_path: Path) -> Path:
    made = KerasNetwork(small_backbone())
    regularisation = Regularisation(batch_norm=True)
    made.attach(small_head(), regularisation, run(small_backbone(), photos(20)))
    made.begin(Training(size=SIZE, cut=0, regularisation=regularisation))
    for _ in range(3):
        made.step(photos(12), np.arange(12) % CLASSES, 1e-2)
    return written(tmp_path / "tuned.onnx", made.backbone(SIZE), made.head())


def from_scratch(tmp_path: Path) -> Path:
    made, head = scratch.scratch_network(2, size=16, seed=1)
    return written(tmp_path / "scratch.onnx", made.backbone(16), head, 16)


def frozen(tmp_path: Path) -> Path:
    return written(tmp_path / "frozen.onnx", small_backbone(), small_head())


@pytest.mark.parametrize("make", [frozen, tuned, from_scratch])
def test_core_the_keras_file_answers_as_the_model_file_does(make: object, tmp_path: Path) -> None:
    model = make(tmp_path)  # type: ignore[operator]
    target = tmp_path / "back.keras"
    done = export_model(model, target)
    size = 16 if make is from_scratch else SIZE
    assert (done.path, done.size, done.backend) == (target, size, keras.backend.backend())
    assert done.difference < 1e-5
    loaded = keras.saving.load_model(target, safe_mode=True)
    images = photos(9, size, seed=4)
    expected = run(model, images, "probabilities")
    assert expected.std(axis=0).max() > 0.005
    for pixels in (images, images.astype(np.float32)):
        np.testing.assert_allclose(
            np.asarray(loaded.predict(pixels, verbose=0)), expected, atol=1e-5
        )
    assert loaded.input_shape == (None, size, size, 3)
    kinds = {type(layer).__name__ for layer in loaded.layers}
    assert "Lambda" not in kinds and {"Rescaling", "Dense", "Softmax"} <= kinds
    config = zipfile.ZipFile(target).read("config.json").decode()
    assert "tailorbird." not in config, "opens where tailorbird is not installed"
    # What is handed back is a Keras model like any other: it trains on.
    loaded.compile("sgd", "sparse_categorical_crossentropy", jit_compile=JAX)
    assert np.isfinite(loaded.train_on_batch(images, np.zeros(9, np.int64)))


def test_the_keras_file_opens_without_tailorbird(tmp_path: Path) -> None:
    """In a process that does not import tailorbird."""
    model = tuned(tmp_path)
    export_model(model, tmp_path / "back.keras")
    images = photos(5, seed=2)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import keras, numpy, sys;"
        "model = keras.saving.load_model('back.keras'); assert 'tailorbird' not in sys.modules;"
        "numpy.save('found.npy', numpy.asarray(model(numpy.load('images.npy'))))"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), run(model, images, "probabilities"), atol=1e-4
    )


def test_the_head_is_read_from_the_graph(tmp_path: Path) -> None:
    found = head_in(onnx.load(frozen(tmp_path)), "x")
    for one, other in zip(found.layers, small_head().layers, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)
    with pytest.raises(ModelFileError, match="holds no head"):
        head_in(small_backbone(), "x.onnx")


def test_the_command(tmp_path: Path) -> None:
    model = frozen(tmp_path)
    done = CliRunner().invoke(app, ["export", str(model), "--to", "keras", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    documented = schemas((ROOT / "docs" / "json.md").read_text(encoding="utf-8"))
    assert not problems(said, documented["tailorbird export"], documented)
    assert said["model"] == str(model) and said["output"] == str(tmp_path / "frozen.keras")
    assert said["classes"] == ["class 0", "class 1", "class 2"] and said["input_size"] == SIZE
    assert said["bytes"] == (tmp_path / "frozen.keras").stat().st_size and said["difference"] < 1e-5
    assert said["backend"] == keras.backend.backend()
    done = CliRunner().invoke(app, ["export", str(model), "-o", str(tmp_path / "x.keras")])
    assert (
        done.exit_code == 0
        and "32 x 32 pixels" in done.output
        and "class 0, class 1, class 2" in done.output
    )


def test_models_that_cannot_be_exported_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ModelFileError, match=r"made from pocket \(source: .*did not come from .*keras:MobileNetV2"
    ):
        export_model(trained, tmp_path / "x.keras")
    model = frozen(tmp_path)
    with pytest.raises(SettingsError, match=r"x\.h5 must end in \.keras.* -o x\.keras"):
        export_model(model, tmp_path / "x.h5")
    done = CliRunner().invoke(app, ["export", str(model), "--to", "pytorch"])
    assert isinstance(
        done.exception, SettingsError
    ) and "unknown engine 'pytorch'; available: keras" in str(done.exception)
    with pytest.raises(ModelFileError, match="does not exist"):
        export_model(tmp_path / "no.onnx", tmp_path / "x.keras")
    # A file whose description and graph disagree is noticed, and what was there stays.
    (tmp_path / "x.keras").write_bytes(b"before")
    false = onnx.load(model)
    bias = next(
        tensor
        for tensor in false.graph.initializer
        if tensor.name == f"{PREFIX}inverse_temperature"
    )
    bias.CopyFrom(numpy_helper.from_array(np.asarray(5, np.float32), bias.name))
    onnx.save(false, tmp_path / "false.onnx")
    with pytest.raises(TrainingError, match=r"differ from those of .* it was not written"):
        export_model(tmp_path / "false.onnx", tmp_path / "x.keras")
    monkeypatch.setattr(exporting, "_difference", lambda *_: float("nan"))
    with pytest.raises(TrainingError, match="it was not written"):
        export_model(model, tmp_path / "x.keras")
    assert (tmp_path / "x.keras").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "false.onnx",
        "frozen.onnx",
        "x.keras",
    ]


def test_a_file_that_is_there_is_replaced_only_by_name(tmp_path: Path) -> None:
    """`import shop.keras -o shop.onnx`, then `export shop.onnx` must not replace shop.keras."""
    model = frozen(tmp_path)
    theirs = tmp_path / "frozen.keras"
    theirs.write_bytes(b"of the notebook")
    done = CliRunner().invoke(app, ["export", str(model)])
    assert isinstance(done.exception, SettingsError) and "frozen.keras exists already; name" in str(
        done.exception
    )
    assert theirs.read_bytes() == b"of the notebook"
    assert CliRunner().invoke(app, ["export", str(model), "-o", str(theirs)]).exit_code == 0


def test_a_full_disk_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def save(self, path: Path) -> None:
            path.write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")

    model = frozen(tmp_path)
    monkeypatch.setattr(export, "assemble", lambda *_, **__: Full())
    with pytest.raises(StorageFull, match="the disk is full"):
        export_model(model, tmp_path / "x.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["frozen.onnx"]


def test_an_exported_model_can_be_imported_and_exported_again(tmp_path: Path) -> None:
    from tailorbird.importing import import_model

    export_model(frozen(tmp_path), tmp_path / "one.keras")
    import_model(
        tmp_path / "one.keras", tmp_path / "two.onnx", classes=["class 0", "class 1", "class 2"]
    )
    assert export_model(tmp_path / "two.onnx", tmp_path / "two.keras").difference < 1e-5


@pytest.mark.skipif(
    not MOBILENET.exists(), reason="needs the weights of shared/weights beside the checkout"
)
def test_a_pulled_network_with_its_real_weights_is_exported(tmp_path: Path) -> None:
    from tailorbird.engines.keras.pull import pull

    weights = MOBILENET.with_name("mobilenetv2_imagenet.weights.h5")
    file = pull("keras:MobileNetV2", size=96, weights=weights, folder=tmp_path)
    head = small_head((), width=1280)
    model = written(tmp_path / "mobile.onnx", onnx.load(file), head, 96)
    assert export_model(model, tmp_path / "mobile.keras").difference < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(JAX, reason="this is the other backend")
def test_the_core_holds_on_jax() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-k",
            "core and not holds",
            "-p",
            "no:cacheprovider",
            str(Path(__file__)),
        ],
        env=jax_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_a_mirrored_network_is_fine_tuned_and_its_export_is_refused(
    tmp_path: Path, shapes: Path
) -> None:
    onnx.save(small_backbone(), tmp_path / "small.backbone.onnx")
    result = train(
        shapes,
        tmp_path / "m.onnx",
        backbone=tmp_path / "small.backbone.onnx",
        mirror=True,
        finetune=FinetuneSettings(epochs=2, sizes=(SIZE,)),
    )
    said = result.info
    assert said.backbone["mirror"] is True and said.backbone["name"] == "small + mirror"
    images = photos(6)
    one, other = (
        run(result.model, np.ascontiguousarray(view), "probabilities")
        for view in (images, images[:, :, ::-1])
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(ModelFileError, match=r"was trained with mirror \(--mirror\).*without it"):
        export_model(result.model)
