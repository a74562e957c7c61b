"""Files, models and settings that cannot be imported are refused with the reason."""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support.importing import NAMES, pooled_classifier, save
from support.keras_classifiers import (
    SIDE,
    as_keras_2,
    convolutions,
    functional,
    keras,
    two_class_sigmoid,
)
from tailorbird.engines.keras import classifier as keras_models
from tailorbird.engines.keras import model_files
from tailorbird.errors import (
    ModelFileError,
    SettingsError,
    StorageError,
)
from tailorbird.importing import import_model


class CustomLayerModel:
    """Build the model when called, so that collecting the tests does not import Keras."""

    @staticmethod
    def model() -> Any:
        class Doubled(keras().layers.Layer):  # type: ignore[misc]
            def call(self, x: Any) -> Any:
                return 2 * x

        image = keras().Input((SIDE, SIDE, 3))
        x = keras().layers.GlobalAveragePooling2D()(Doubled(name="twice")(convolutions(image)))
        return keras().Model(image, keras().layers.Dense(3)(x))


def with_lambda() -> Any:
    image = keras().Input((SIDE, SIDE, 3))
    x = keras().layers.Lambda(lambda t: t / 2, name="halved")(convolutions(image))
    return keras().Model(image, keras().layers.Dense(3)(keras().layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_program_code_is_refused_before_any_layer_is_created(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(with_lambda(), tmp_path / f"model{suffix}")
    custom = save(CustomLayerModel.model(), tmp_path / f"custom{suffix}")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be constructed")

    monkeypatch.setattr(keras().saving, "load_model", never)
    with pytest.raises(
        ModelFileError, match=r"holds program code, .* never run: 'halved' \(Lambda\); build"
    ):
        model_files.load(path)
    with pytest.raises(
        ModelFileError, match=r"layers that are not Keras' own: 'twice' \(Doubled\)"
    ):
        model_files.load(custom)


@pytest.mark.parametrize(
    "item",
    [
        {"module": "builtins", "class_name": "eval", "config": {}},
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": "https://example.org/x"},
        {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "registered_name": "mine>Dense",
            "config": {"name": "d"},
        },
        {"module": "keras", "class_name": "__lambda__", "config": {}},
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"name": "t", "filepath": "/etc"},
        },
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"name": "t"}},
        {"class_name": "function", "config": "my_activation"},
        {"class_name": ["Dense"], "config": {}},
    ],
)
def test_configurations_that_create_objects_outside_keras_are_refused(item: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"program code|not Keras' own"):
        model_files.check_config(
            {"class_name": "Sequential", "config": {"layers": [{"deep": [item]}]}}, "x.keras"
        )


def rewrite_archive(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return target


def test_files_that_are_not_models_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = functional()
    good, old = save(model, tmp_path / "good.keras"), save(model, tmp_path / "good.h5")

    def refused(path: Path, message: str) -> None:
        with pytest.raises(ModelFileError, match=message):
            model_files.load(path)

    refused(tmp_path / "none.keras", "does not exist; give a .keras or .h5 file")
    for name, content, message in (
        ("empty.keras", b"", "is empty"),
        ("text.keras", b"hello", "neither a .keras archive nor an HDF5 file"),
        ("cut.keras", good.read_bytes()[:-200], "damaged or truncated"),
        ("cut.h5", old.read_bytes()[:2000], "damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, message)
    broken = bytearray(good.read_bytes())
    middle = len(broken) // 2
    broken[middle : middle + 50] = b"x" * 50
    (tmp_path / "broken.keras").write_bytes(bytes(broken))
    refused(tmp_path / "broken.keras", "damaged")
    refused(
        rewrite_archive(good, tmp_path / "a.keras", lambda parts: parts.__delitem__("config.json")),
        "lacks config.json",
    )
    refused(
        rewrite_archive(
            good, tmp_path / "b.keras", lambda parts: parts.update({"config.json": b"{"})
        ),
        "is not JSON",
    )
    refused(
        rewrite_archive(
            good, tmp_path / "c.keras", lambda parts: parts.update({"config.json": b"[1]"})
        ),
        "not a JSON object",
    )
    refused(
        rewrite_archive(good, tmp_path / "d.keras", lambda parts: parts.update({"../x": b""})),
        "beside configuration and weights",
    )
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    refused(
        rewrite_archive(
            good, tmp_path / "e.keras", lambda parts: parts.update({"config.json": deep})
        ),
        "not JSON|not Keras' own|cannot be read",
    )
    model.save_weights(tmp_path / "model.weights.h5")
    refused(tmp_path / "model.weights.h5", "holds weights alone, not the network")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(tmp_path / "other.h5", "no Keras model: it has no model_config")
    (tmp_path / "saved").mkdir()
    refused(tmp_path / "saved", "is a folder; give the .keras or .h5 file")
    (tmp_path / "saved" / "saved_model.pb").touch()
    refused(tmp_path / "saved", "SavedModel folder.*pip install tf_keras")
    monkeypatch.setattr(model_files, "MOST_BYTES", 4_000)
    refused(old, "at most 4,000 are opened")
    small = tmp_path / "bomb.keras"
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("metadata.json", b"{}")
        archive.writestr("model.weights.h5", b"\0" * 100_000)
    assert small.stat().st_size < 4_000
    refused(small, "unpacks to 100,004 bytes")


def test_external_links_and_oversized_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save(functional(), tmp_path / "good.h5")

    def altered(name: str, change: Callable[[Any], None]) -> Path:
        path = tmp_path / name
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def external(file: Any) -> None:
        file["model_weights"].create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])

    def linked(file: Any) -> None:
        file["model_weights"]["x"] = h5py.ExternalLink("/tmp/other.h5", "/x")

    def large(file: Any) -> None:
        file["model_weights"].create_dataset(
            "x", (100_000_000_000,), "f4", chunks=(1024,), compression="gzip"
        )

    for name, change, message in (
        ("external.h5", external, "keeps weights in another file"),
        ("linked.h5", linked, "refers to other places by a link"),
        (
            "large.h5",
            large,
            "unpacks to 400,000,0.. bytes or more|unpacks to [0-9,]+ bytes or more",
        ),
    ):
        with pytest.raises(ModelFileError, match=message):
            model_files.load(altered(name, change))


def test_an_unreadable_keras_2_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    as_keras_2(save(functional(), tmp_path / "new.h5"), tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["implementation"] = 7
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(
        ModelFileError,
        match=r"was written by Keras 2.15.0, and Keras 3.* cannot read it .*"
        r"pip install tf_keras.*load_weights",
    ):
        model_files.load(tmp_path / "old.h5")


def test_models_that_are_not_photo_classifiers_are_refused() -> None:
    layers = keras().layers

    def refused(
        model: Any, message: str, size: int | None = None, kind: type[Exception] = ModelFileError
    ) -> None:
        with pytest.raises(kind, match=message):
            keras_models.classifier_of(model, "model.keras", size)

    refused(pooled_classifier((SIDE, SIDE, 1)), "takes grey-scale images")
    refused(pooled_classifier((SIDE, SIDE, 4)), "images of 4 channels")
    refused(
        pooled_classifier((32, 48, 3)),
        r"32 x 48 pixels \(height x width\); a tailorbird model takes square ones",
    )
    refused(
        pooled_classifier((SIDE, SIDE, 3), 3, "sigmoid"),
        "sigmoid over 3 outputs, so several labels can be true",
    )
    refused(
        pooled_classifier((SIDE, SIDE, 3), 1, "softmax"),
        "softmax over a single output, which is always 1",
    )
    refused(
        pooled_classifier((None, None, 3)),
        "any size; give the one it was trained at, such as --size 150",
        kind=SettingsError,
    )
    refused(
        pooled_classifier((SIDE, SIDE, 3)),
        "--size is 64, but .* takes images of 32 x 32",
        64,
        SettingsError,
    )
    one, other = keras().Input((SIDE, SIDE, 3)), keras().Input((SIDE, SIDE, 3))
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Add()([one, other])))
    refused(keras().Model([one, other], x), "a classifier of photos has one, ")
    pooled = layers.GlobalAveragePooling2D()(one)
    refused(keras().Model(one, [layers.Dense(3)(pooled), layers.Dense(2)(pooled)]), "has 2 outputs")
    refused(keras().Model(one, layers.Conv2D(3, 1)(one)), "made for another task")
    vector = keras().Input((7,))
    refused(
        keras().Model(vector, layers.Dense(3)(vector)),
        "has inputs of shape .None, 7.; a classifier of photos",
    )

    class Own(keras().Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    refused(Own(name="own"), "'own' is a subclass")


def test_invalid_import_settings_are_refused(tmp_path: Path) -> None:
    path = save(functional(), tmp_path / "model.keras")
    good: dict[str, Any] = {"classes": NAMES, "preprocess": "tf"}
    for changes, message in (
        (
            {"classes": "ant,bee,cow"},
            "has 5 outputs but 3 classes are named .ant, bee, cow.; name each output",
        ),
        (
            {"preprocess": "tflite"},
            "preprocess is 'tflite'; it must be one of tf, caffe, torch, unit, none, bgr, "
            "imagenet, or the keras module",
        ),
        (
            {"preprocess": None},
            "how the pixels were prepared in training is not in the file: give --preprocess",
        ),
        ({"precision": 0.2}, "precision is 0.2"),
        ({"seed": -1}, "seed is -1"),
        ({"output": tmp_path / "model.h5"}, r"must end in \.onnx"),
        ({"output": tmp_path / "no" / "model.onnx"}, "cannot be written"),
    ):
        arguments = {"output": tmp_path / "model.onnx", **good, **changes}
        with pytest.raises(SettingsError, match=message):
            import_model(path, arguments.pop("output"), **arguments)
    one = save(two_class_sigmoid(), tmp_path / "two.keras")
    with pytest.raises(SettingsError, match="has one output, for two classes, but 5"):
        import_model(one, tmp_path / "model.onnx", **good)
    assert not (tmp_path / "model.onnx").exists()


def test_a_full_temporary_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save(functional(), tmp_path / "model.keras").rename(
        tmp_path / "model.zip"
    )  # another suffix: read from a copy
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"the disk is full.*TMPDIR names the folder"):
        import_model(path, tmp_path / "model.onnx", classes=list(NAMES[:5]), preprocess="tf")
