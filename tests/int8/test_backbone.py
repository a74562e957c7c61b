"""`backbones quantize`: written when int8 is as accurate, refused with the figures otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import tailorbird
from support.quantised import damaging
from tailorbird import onnx_files
from tailorbird.backbone import Backbone, find
from tailorbird.cli.app import app
from tailorbird.errors import BackboneError, DatasetError, SettingsError
from tailorbird.int8 import AccuracyLost, figures, quantise_backbone
from tailorbird.quantization import LARGEST_WEIGHT


def test_an_int8_backbone_is_installed_and_trains(shapes: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["backbones", "quantize", "pocket", "--photos", str(shapes), "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert Path(said["path"]) == find("pocket-int8") and said["name"] == "pocket-int8"
    assert said["difference"] == said["int8"]["accuracy"] - said["float32"]["accuracy"] >= -0.005
    assert said["int8"]["bytes"] == find("pocket-int8").stat().st_size < said["float32"]["bytes"]
    assert said["speedup"] > 0 and 0.9 < said["agreement"] <= 1
    backbone = Backbone(find("pocket-int8"))
    assert backbone.info.name == "pocket-int8" and backbone.info.licence == "Apache-2.0"
    stated = onnx_files.metadata(backbone.proto)
    assert stated["quantised_from"] == Backbone(find("pocket")).info.sha256
    assert f"on {said['calibrated_on']} photos" in stated["quantised"]
    weights = [t for t in backbone.proto.graph.initializer if t.data_type == t.INT8]
    assert len(weights) >= 30
    assert all(np.abs(numpy_helper.to_array(w)).max() <= LARGEST_WEIGHT for w in weights)
    result = tailorbird.train(shapes, tmp_path / "m.onnx", backbone="pocket-int8", report=False)
    tested = [sample for sample in result.dataset.samples if sample.split == "test"]
    assert result.embedded == len(tested), "the features of the cross-validation are in the cache"


def test_the_figures_are_printed(shapes: Path, tmp_path: Path) -> None:
    target = tmp_path / "own name ä.onnx"
    done = CliRunner().invoke(
        app, ["backbones", "quantize", "pocket", "--photos", str(shapes), "-o", str(target)]
    )
    assert done.exit_code == 0, done.output
    assert "5-fold cross-validation, 3 rounds" in done.stdout
    for words in ("float32 ", "int8 ", "times as fast", "ä.onnx'"):
        assert words in done.stdout
    assert target.is_file()


def test_int8_that_loses_accuracy_is_refused(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "quantise", damaging)
    target = tmp_path / "q.onnx"
    words = ["backbones", "quantize", "pocket", "--photos", str(shapes), "-o", str(target)]
    done = CliRunner().invoke(app, [*words, "--json"])
    said = json.loads(done.stdout)
    assert said["path"] is None and said["difference"] < -0.3
    assert isinstance(done.exception, AccuracyLost) and done.exception.exit_code == 1
    assert "points of accuracy in 5-fold cross-validation" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
    text = CliRunner().invoke(app, words)
    assert "times as fast" in text.stdout and "Backbone:" not in text.stdout


def test_refusals(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="quantised already"):
        quantise_backbone("lite", shapes, tmp_path / "x.onnx")
    with pytest.raises(SettingsError, match=r"must end in \.onnx"):
        quantise_backbone("pocket", shapes, tmp_path / "x.bin")
    few = tmp_path / "few"
    for label in ("box", "disc"):
        (few / label).mkdir(parents=True)
        for photo in sorted((shapes / label).iterdir())[:3]:
            (few / label / photo.name).write_bytes(photo.read_bytes())
    with pytest.raises(DatasetError, match="at least 10"):
        quantise_backbone("pocket", few, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_name_cannot_lead_out_of_the_folder(shapes: Path, tmp_path: Path) -> None:
    proto = Backbone(find("pocket")).proto
    onnx_files.set_metadata(proto, {"name": "../../own, größer"})
    (tmp_path / "own.onnx").write_bytes(proto.SerializeToString())
    found = quantise_backbone(tmp_path / "own.onnx", shapes)
    assert found.name == "own-größer-int8" and found.installed
    assert found.path == find("own-größer-int8") and found.path.is_file()


@pytest.mark.parametrize(("lost", "refused"), [(0.004, False), (0.005, False), (0.006, True)])
def test_half_a_point_may_be_lost(lost: float, refused: bool) -> None:
    one = figures.Precision(0.9, 10, 1)
    other = figures.Precision(0.9 - lost, 20, 1)
    assert figures.Figures(one, other, 1.0).refused == refused
