"""Class names of an imported model: lists in files and the classes of ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import SHARED, needs_shared
from support.importing import drawn_pixels, probabilities
from support.keras_classifiers import (
    keras,
    lively,
)
from tailorbird import images
from tailorbird.engines.preprocessing import prepare as pixels_for
from tailorbird.errors import (
    HubError,
    SettingsError,
)
from tailorbird.images import ResizeRule
from tailorbird.importing import import_application, read_classes
from tailorbird.model import Classifier


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "ant\n\n bee \ncow\n", ("ant", "bee", "cow")),
        ("labels.txt", "0 card board\n1 glass\n", ("card board", "glass")),
        ("labels.txt", "1: glass\n0: paper\n", ("paper", "glass")),
        ("labels.txt", "0 days\n7 days\n", ("0 days", "7 days")),
        ("a.json", '{"bee": 1, "ant": 0}', ("ant", "bee")),
        ("a.json", '["x", "y"]', ("x", "y")),
        ("a.json", '{"0": ["n01", "tench"], "1": ["n02", "crane"]}', ("tench", "crane")),
        ("a.csv", 'wnid,name\nn1,tench\nn2,"great, white"\n', ("tench", "great, white")),
    ],
)
def test_class_names_are_read_from_several_file_formats(
    name: str, content: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert read_classes(tmp_path / name) == expected


def test_invalid_class_lists_are_refused(tmp_path: Path) -> None:
    assert read_classes("ant, bee") == ("ant", "bee") == read_classes(["ant", "bee"])
    (tmp_path / "twice.txt").write_text("crane\nox\ncrane\ncrane (2)\n")
    assert read_classes(tmp_path / "twice.txt", unique=True) == (
        "crane",
        "ox",
        "crane (3)",
        "crane (2)",
    )
    (tmp_path / "one.txt").write_text("ant\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "gap.json").write_text('{"ant": 0, "bee": 2}')
    for source, message in (
        (tmp_path / "twice.txt", "names 'crane' more than once"),
        (tmp_path / "one.txt", "names 1 classes; at least two"),
        (tmp_path / "bytes.txt", "not text in UTF-8"),
        (tmp_path / "gap.json", "but no list of names"),
        ("missing.txt", "does not exist; give a file"),
        ("ant,,bee", "names 2 classes"),
    ):
        with pytest.raises(SettingsError, match=message):
            read_classes(source)


WEIGHTS = SHARED / "weights"


@needs_shared
def test_imagenet_classes_equal_those_decoded_by_keras(tmp_path: Path) -> None:
    result = import_application(
        "keras:mobilenetv2",
        tmp_path / "imagenet.onnx",
        classes=WEIGHTS / "imagenet_classes.csv",
        weights=WEIGHTS / "mobilenetv2_imagenet.weights.h5",
    )
    assert len(result.info.classes) == 1000 == len(set(result.info.classes)) and result.heatmaps
    assert "crane (2)" in result.info.classes and "maillot (2)" in result.info.classes
    model = keras().applications.MobileNetV2(weights=None)
    model.load_weights(WEIGHTS / "mobilenetv2_imagenet.weights.h5")
    names = [
        line.split(",", 1)[1].strip('"')
        for line in (WEIGHTS / "imagenet_classes.csv").read_text().splitlines()[1:]
    ]
    classifier = Classifier(tmp_path / "imagenet.onnx")
    for path in sorted((SHARED / "data" / "clothing-dataset-small").glob("test/*/*.jpg"))[:40:10]:
        pixels = images.load(path, ResizeRule(224)).astype(np.float32)[None]
        prepared = keras().applications.mobilenet_v2.preprocess_input(pixels)
        expected = keras().ops.convert_to_numpy(model(prepared, training=False))[0]
        order = np.argsort(-expected)[:5]
        top = classifier.predict(path, top=5).top
        assert [label.split(" (")[0] for label, _ in top] == [names[number] for number in order]
        assert (
            np.abs(np.array([probability for _, probability in top]) - expected[order]).max() < 1e-3
        )


def test_a_keras_application_is_imported_with_its_classes(tmp_path: Path) -> None:
    model = lively(keras().applications.MobileNet(weights=None))
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "names.txt").write_text(
        "\n".join("crane" if n in (3, 7) else f"class {n}" for n in range(1000))
    )
    result = import_application(
        "keras:MobileNet",
        tmp_path / "imagenet.onnx",
        classes=tmp_path / "names.txt",
        weights=tmp_path / "own.weights.h5",
    )
    assert result.heatmaps and result.info.classes[7] == "crane (2)" and result.preprocess == "tf"
    photos = drawn_pixels(2, 224)
    expected = probabilities(model, pixels_for(photos, "tf"))
    assert (
        np.abs(Classifier(tmp_path / "imagenet.onnx").probabilities(photos) - expected).max() < 1e-4
    )


def test_a_failed_download_of_class_names_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras().applications.imagenet_utils, "decode_predictions", offline)
    with pytest.raises(
        HubError, match=r"could not be downloaded .URL fetch failure.*--classes FILE"
    ):
        import_application("keras:MobileNetV2", tmp_path / "x.onnx")
