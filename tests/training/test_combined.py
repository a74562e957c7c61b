"""Train with the mirrored view, and with several backbones: one file that answers the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import tailorbird
from support.cli import run
from support.tiny_backbone import tiny
from tailorbird import experiments
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.errors import SettingsError
from tailorbird.experiments.data import read_data
from tailorbird.images import load
from tailorbird.model.classifier import Classifier
from tailorbird.training import TrainSettings, train

QUICK = {"inner": (), "epochs": 15}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the file of a backbone of a few weights for images of 24 px."""
    path = tmp_path / "small.backbone.onnx"
    onnx.save(tiny(size=24, weight=0.02), path)
    return path


@pytest.mark.parametrize("mirror", [False, True])
def test_the_file_of_two_backbones_answers_as_the_pipeline_scored(
    shapes: Path, tmp_path: Path, small: Path, mirror: bool
) -> None:
    result = train(
        shapes, tmp_path / "m.onnx", backbone=f"pocket,{small}", mirror=mirror, fixed=QUICK
    )
    assert result.test.accuracy >= 0.8
    classifier = Classifier(result.model)
    photos = [sample.path for sample in result.dataset.of("test")]
    pixels = np.stack([load(photo, classifier.info.resize) for photo in photos])
    found, maps = classifier.run(pixels, heatmaps=True)
    assert np.abs(found - result.answers["test"].probabilities).max() < 1e-3
    said = result.info
    assert said.resize.size == 128 and said.settings["mirror"] is mirror
    assert said.backbone["name"] == "pocket,tiny" + " + mirror" * mirror
    assert said.backbone["mirror"] is mirror and said.backbone["features"] == 512 + 6
    assert [part["name"] for part in said.backbone["parts"]] == ["pocket", "tiny"]
    assert maps is not None and maps.shape[2:] == (6, 6) and maps.max() > 0
    assert result.report is not None
    page = result.report.read_text()
    assert said.backbone["name"] in page and ("of the mirrored photo" in page) is mirror


def test_a_mirrored_photo_gets_the_same_answer_and_the_mirrored_map(
    shapes: Path, tmp_path: Path
) -> None:
    result = train(shapes, tmp_path / "m.onnx", mirror=True, fixed=QUICK)
    classifier = Classifier(result.model)
    photos = [sample.path for sample in result.dataset.of("test")]
    pixels = np.stack([load(photo, classifier.info.resize) for photo in photos])
    answers, maps = classifier.run(pixels, heatmaps=True)
    turned = np.ascontiguousarray(pixels[:, :, ::-1])
    others, other_maps = classifier.run(turned, heatmaps=True)
    assert np.allclose(answers, others, atol=1e-4)
    assert maps is not None and other_maps is not None and maps.max() > 0.1
    assert np.allclose(maps[:, 0], other_maps[:, 0, :, ::-1], atol=1e-3 * maps.max())


def test_what_is_in_the_cache_serves_every_combination(
    shapes: Path, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird.backbone import Backbone

    seen: list[int] = []
    features = Backbone.features

    def counting(self: Backbone, images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return features(self, images)

    monkeypatch.setattr(Backbone, "features", counting)

    def images(**options: object) -> int:
        seen.clear()
        read_data(shapes, **options)  # type: ignore[arg-type]
        return sum(seen)

    assert images(backbone="pocket") == 72
    assert images(backbone="pocket", mirror=True) == 72, "only the mirrored photos are new"
    assert images(backbone=f"pocket,{small}", mirror=True) == 144, "only the second backbone is new"
    assert images(backbone=f"{small},pocket") == 0, "another order of the same features"


def test_experiments_and_the_search_for_wrong_labels_use_the_same_features(
    shapes: Path, small: Path
) -> None:
    backbone = f"pocket,{small}"
    data = read_data(shapes, backbone=backbone, mirror=True)
    plain = read_data(shapes, backbone=backbone)
    assert data.features.shape == plain.features.shape == (1, len(data), 518)
    assert np.abs(data.features - plain.features).max() > 0.01
    found = experiments.sweep(
        shapes, {"inner": [()]}, backbone=backbone, mirror=True, folds=2, seeds=1
    )
    assert found.mirror and found.as_dict()["mirror"] is True
    assert "--backbone" in found.command and "--mirror" in found.command
    judged = tailorbird.suspects(shapes, backbone=backbone, mirror=True)
    assert judged.backbone == "pocket,tiny + mirror"


def test_the_commands_take_both(shapes: Path, tmp_path: Path, small: Path) -> None:
    options = ["--backbone", f"pocket,{small}", "--mirror"]
    done = run("train", shapes, "-o", tmp_path / "m.onnx", *options, "--epochs", "9", "--json")
    assert "each prediction will run the backbone twice" in done.stderr
    trained = json.loads(done.stdout)
    assert trained["settings"]["mirror"] is True
    assert trained["backbone"]["name"] == "pocket,tiny + mirror"
    assert "pocket,tiny + mirror" in run("scan", shapes, "--suspects", *options).stdout
    (curve,) = run("learning-curve", shapes, *options, "--no-per-class", "--json").stdout.split(
        "\n"
    )[:1]
    assert json.loads(curve)["mirror"] is True
    assert "--mirror" in run("find-lr", shapes, *options, "--seeds", "1").stdout
    refused = run("scan", shapes, "--mirror", code=2)
    assert "--mirror without --suspects" in refused.stderr
    refused = run("train", shapes, "-o", small, "--backbone", f"pocket,{small}", code=2)
    assert f"would overwrite the backbone {small}" in refused.stderr


def test_several_backbones_cannot_be_fine_tuned() -> None:
    with pytest.raises(SettingsError, match=r"'lite,pocket', but only one backbone can be fine-"):
        TrainSettings(backbone="lite,pocket", finetune=FinetuneSettings())
    with pytest.raises(SettingsError, match=r"'cnn,pocket', but cnn trains from random weights"):
        TrainSettings(backbone="cnn,pocket")
