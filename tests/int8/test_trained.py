"""`train --int8`: the model as float32, and as int8 where that costs little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.documented_json import problems, schemas
from support.timm_networks import CNN, SIDE, network, save_weights
from tailorbird.cli.app import app
from tailorbird.engines.pulling import pull_backbone
from tailorbird.errors import SettingsError
from tailorbird.int8 import figures, train_int8
from tailorbird.model import load
from tailorbird.progress import NoProgress
from tailorbird.training import TrainSettings


@pytest.mark.torch
@pytest.mark.parametrize("lost", [1.0, -1.0], ids=["kept", "refused"])
def test_a_finetuned_network_of_timm_becomes_int8_unless_that_costs_accuracy(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "MOST_LOST", lost)
    weights = save_weights(network(CNN), tmp_path / "w.safetensors")
    backbone = pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE)
    output = tmp_path / "shop.onnx"
    done = CliRunner().invoke(
        app,
        [
            *("train", str(shapes), "-o", str(output), "--backbone", str(backbone), "--finetune"),
            *("--unfreeze", "4", "--epochs", "1", "--no-report", "--int8", "--json"),
        ],
    )
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    target = tmp_path / "shop.int8.onnx"
    page = Path(__file__).resolve().parents[2] / "docs" / "json.md"
    documented = schemas(page.read_text(encoding="utf-8"))
    assert problems(answer, documented["tailorbird train"], documented) == []
    assert load(output).classes == tuple(answer["int8"]["float32_scores"]["test"]["classes"])
    if lost > 0:
        assert answer["int8"]["output"] == str(target) and answer["int8"]["refused"] == ""
        assert load(target).info.settings["quantised"]["from"] == "shop.onnx"
    else:
        assert answer["int8"]["output"] is None and "int8 loses" in answer["int8"]["refused"]
        assert not target.exists()


def test_an_int8_backbone_that_stays_frozen_is_refused(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lite is int8 already"):
        train_int8(shapes, tmp_path / "m.onnx", TrainSettings(), progress=NoProgress())
    assert list(tmp_path.iterdir()) == []
