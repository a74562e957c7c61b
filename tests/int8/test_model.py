"""`export --to int8`: calibrated anew, scored on photos it was not trained on, heat maps kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import tailorbird
from support.quantised import damaging
from tailorbird import onnx_files
from tailorbird.cli.app import app
from tailorbird.errors import DatasetError, ModelFileError, SettingsError
from tailorbird.int8 import AccuracyLost, figures, quantise_model
from tailorbird.quantization import LARGEST_WEIGHT


def test_a_model_file_becomes_int8(trained: Path, shapes: Path, tmp_path: Path) -> None:
    shutil.copy(trained, tmp_path / "shop.onnx")
    done = CliRunner().invoke(
        app,
        ["export", str(tmp_path / "shop.onnx"), "--to", "int8", "--photos", str(shapes), "--json"],
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    target = tmp_path / "shop.int8.onnx"
    assert Path(said["output"]) == target and said["int8"]["bytes"] < said["float32"]["bytes"]
    before, after = tailorbird.load(trained), tailorbird.load(target)
    assert after.classes == before.classes and after.info.resize == before.info.resize
    assert after.info.data["trained_on"] == before.info.data["trained_on"]
    assert after.info.settings["quantised"]["from"] == "shop.onnx"
    # The same photos as in training: validation and test, none that it was trained on.
    for name in ("validation", "test"):
        assert said["scores"][name]["n"] == before.info.scores[name]["n"]
        assert said["float32_scores"][name]["accuracy"] == before.info.scores[name]["accuracy"]
        assert after.info.scores[name]["accuracy"] == said["scores"][name]["accuracy"]
    assert after.info.temperature == said["temperature"] != before.info.temperature
    # The prototypes stay, the threshold is chosen anew, and photos are as unfamiliar as before.
    strange = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    for model in (before, after):
        assert all((found.unfamiliarity or 0) > 1 for found in model.predict(strange))
    assert after.info.unfamiliarity["wanted"] == before.info.unfamiliarity["wanted"]
    assert not after.info.unfamiliarity["crossfitted"]
    assert said["scores"]["test"]["refused"] is not None
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx_files.read_audited(target, ModelFileError).graph.initializer
        if tensor.data_type == tensor.INT8
    ]
    assert len(weights) >= 30 and max(np.abs(w).max() for w in weights) <= LARGEST_WEIGHT
    photo = shapes / "disc" / "disc-003.jpg"
    maps = [model.predict(photo, heatmaps=True).heatmaps for model in (before, after)]
    assert maps[0] is not None and maps[1] is not None and maps[0].shape == maps[1].shape
    first, second = (m[0].ravel() for m in maps if m is not None)
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.95
    both = CliRunner().invoke(app, ["compare", str(trained), str(target), str(shapes), "--json"])
    assert json.loads(both.stdout)["b"]["accuracy"] >= 0.95


def test_int8_that_loses_accuracy_is_refused(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "quantise", damaging)
    target = tmp_path / "q.onnx"
    words = ["export", str(trained), "--to", "int8", "--photos", str(shapes), "-o", str(target)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, AccuracyLost) and done.exception.exit_code == 1
    assert "on the photos of validation and test" in str(done.exception)
    assert "times as fast" in done.stdout and "Model:" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_photos_it_was_trained_on_are_not_scored(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    """Training photos moved to the folder test only calibrate."""
    dataset = tailorbird.scan(shapes)
    learned = tailorbird.load(trained)
    folder = tmp_path / "photos"
    for sample in dataset.samples:
        split = "test" if int(sample.digest[:2], 16) % 2 else "validation"
        place = folder / split / sample.label
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, place)
    found = quantise_model(trained, folder, tmp_path / "q.onnx")
    kept = sum(score["n"] for score in learned.info.scores.values())
    assert sum(scores.n for scores in found.scores.values()) == kept
    assert found.calibrated_on == len(dataset.samples) - kept
    assert "not exactly the photos" in found.notes[0]
    shutil.rmtree(folder / "test")
    with pytest.raises(DatasetError, match="left for test"):
        quantise_model(trained, folder, tmp_path / "z.onnx")


def test_a_model_refitted_on_validation_keeps_its_calibration(shapes: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    options = {"backbone": "pocket", "refit": True, "report": False}
    result = tailorbird.train(shapes, model, **options)  # type: ignore[arg-type]
    found = quantise_model(model, shapes)
    assert set(found.scores) == {"test"} and "--refit" in found.notes[0]
    assert found.temperature == pytest.approx(result.info.temperature)
    assert found.threshold == result.info.threshold
    info = tailorbird.load(tmp_path / "m.int8.onnx").info
    assert set(info.scores) == {"test"}
    assert replace(info, scores={}).data["fingerprint"] == result.info.data["fingerprint"]


def test_refusals(trained: Path, shapes: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.onnx"
    with pytest.raises(SettingsError, match="--photos PHOTOS"):
        quantise_model(trained, None, target)
    quantise_model(trained, shapes, target)
    with pytest.raises(SettingsError, match="exists already"):
        shutil.copy(trained, tmp_path / "m.onnx")
        shutil.copy(trained, tmp_path / "m.int8.onnx")
        quantise_model(tmp_path / "m.onnx", shapes)
    done = CliRunner().invoke(app, ["export", str(target), "--to", "int8", "--photos", str(shapes)])
    assert done.exception is not None and "quantised already" in str(done.exception)
