"""`train --finetune` with timm, from drawn photos to the model file, and back to timm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from support.documented_json import problems, schemas
from support.timm_networks import CNN, SIDE, network, save_weights
from tailorbird import onnx_files
from tailorbird.backbone import catalogue
from tailorbird.cli.app import app
from tailorbird.engines import registry
from tailorbird.engines.exporting import export_model
from tailorbird.engines.pulling import pull_backbone
from tailorbird.engines.torch import backend
from tailorbird.errors import HubError, ModelFileError, SettingsError
from tailorbird.model import load
from tailorbird.progress import NoProgress
from tailorbird.training import TrainResult, settings_from_options, train

OPTIONS = ["--unfreeze", "all", "--epochs", "4", "--batch-size", "8", "--learning-rate", "0.005"]
OPTIONS += ["--size", str(SIDE)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder with a small network of timm, `test_efficientnet`, in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(folder))
        weights = save_weights(network(CNN), folder / "w.safetensors")
        path = pull_backbone(f"timm:{CNN}", weights=weights, size=SIDE)
        path.rename(path.with_name(f"{CNN}.backbone.onnx"))
    return folder


def command(photos: Path, output: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "tailorbird", "train", str(photos), "-o", str(output)]
    return [*start, "--backbone", f"timm:{CNN}", "--finetune", *OPTIONS, "--no-report", *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shapes: Path, cache: Path) -> Path:
    """Return a folder with the model of an uninterrupted run with a linear head, and its output."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        command(shapes, folder / "whole.onnx", "--json", "--inner", "0"),
        capture_output=True,
        text=True,
        env={**os.environ, "TAILORBIRD_CACHE": str(cache)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "whole.json").write_text(done.stdout)
    (folder / "whole.err").write_text(done.stderr)
    return folder


def test_a_reference_is_finetuned_to_one_model_file(whole: Path, shapes: Path) -> None:
    answer = json.loads((whole / "whole.json").read_text())
    documented = schemas(
        (Path(__file__).resolve().parents[3] / "docs" / "json.md").read_text(encoding="utf-8")
    )
    assert problems(answer, documented["tailorbird train"], documented) == []
    tuned = answer["finetune"]
    assert tuned["best"]["score"]["log_loss"] <= tuned["start"]["log_loss"]
    assert tuned["settings"]["depth_decay"] == 0.5
    assert tuned["settings"]["mixed_precision"] in (True, False)
    model = load(whole / "whole.onnx")
    assert model.info.backbone["trained_on"].endswith("fine-tuned") or not tuned["best"]["stage"]
    assert model.predict(next((shapes / "box").iterdir())).probability > 0
    lines = (whole / "whole.err").read_text()
    assert "training with PyTorch" in lines and "Warning" not in lines, lines


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_model(
    tmp_path: Path, shapes: Path, cache: Path, whole: Path
) -> None:
    output, state = tmp_path / "stopped.onnx", tmp_path / "stopped.onnx.finetune"
    environment = {**os.environ, "TAILORBIRD_CACHE": str(cache)}
    started = command(shapes, output, "--json", "--inner", "0")
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = set(state.glob("*.json"))
        with subprocess.Popen(
            started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            end = time.monotonic() + 240
            while not set(state.glob("*.json")) - before and time.monotonic() < end:
                time.sleep(0.02)
            assert process.poll() is None, process.communicate()
            process.send_signal(number)
            process.communicate(timeout=120)
        assert process.returncode == code and not output.exists()
    done = subprocess.run(started, capture_output=True, text=True, env=environment, check=True)
    assert "resuming at stage 1" in done.stderr, done.stderr
    stopped, first = json.loads(done.stdout), json.loads((whole / "whole.json").read_text())
    assert stopped["scores"] == first["scores"] and stopped["finetune"]["resumed_from"] is not None
    photos = sorted((shapes / "box").iterdir())
    rows = [
        np.array([answer.probability for answer in load(path).predict(photos)])
        for path in (whole / "whole.onnx", output)
    ]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


def test_a_model_goes_back_to_timm(whole: Path, shapes: Path, tmp_path: Path) -> None:
    torch, timm = backend.load()
    target = tmp_path / "back" / "model.safetensors"
    done = export_model(whole / "whole.onnx", target)
    assert done.path == target and done.difference < 1e-4
    config = json.loads((target.parent / "config.json").read_text())
    assert config["label_names"] == list(done.classes) and config["num_classes"] == 3
    model = timm.create_model(CNN, num_classes=3, checkpoint_path=str(target)).eval()
    again = timm.create_model(f"local-dir:{target.parent}", pretrained=True).eval()
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )
    data = timm.data.resolve_model_data_config(again)
    assert tuple(data["input_size"]) == (3, SIDE, SIDE) and data["crop_mode"] == "squash"
    transform = timm.data.create_transform(**data, is_training=False)
    from PIL import Image

    ours = load(whole / "whole.onnx")
    for photo in sorted((shapes / "box").iterdir())[:4]:
        with torch.no_grad(), Image.open(photo) as image:
            rows = torch.softmax(again(transform(image.convert("RGB"))[None]), dim=1)[0]
        answer = ours.predict(photo, top=3)
        for label, probability in answer.top:
            assert float(rows[list(done.classes).index(label)]) == pytest.approx(
                probability, abs=0.02
            )


def test_the_command_exports_beside_the_model_and_replaces_nothing(
    whole: Path, tmp_path: Path
) -> None:
    model = tmp_path / "shop.onnx"
    model.write_bytes((whole / "whole.onnx").read_bytes())
    done = CliRunner().invoke(app, ["export", str(model), "--to", "timm"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "shop.timm"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert f'timm.create_model("local-dir:{folder}", pretrained=True)' in done.output
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("mine")
    with pytest.raises(SettingsError, match=r"config\.json exists already and would be replaced"):
        export_model(model, other / "m.safetensors")
    assert (other / "config.json").read_text() == "mine"
    assert not (other / "m.safetensors").exists()


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, shapes: Path, cache: Path) -> TrainResult:
    """Return the result of training a head with inner layers on the frozen network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(cache))
        output = tmp_path_factory.mktemp("frozen") / "frozen.onnx"
        settings = settings_from_options(backbone=f"timm:{CNN}", inner=(8,), report=False)
        return train(shapes, output, settings)


def test_a_head_with_inner_layers_cannot_go_back(frozen: TrainResult, tmp_path: Path) -> None:
    assert frozen.info.backbone["name"].startswith(CNN)
    with pytest.raises(ModelFileError, match=r"1 inner layers, .* train the model .* --inner 0"):
        export_model(frozen.model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


class Notes(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_without_a_size_there_is_one_and_validation_judges_mirrored_views(
    tmp_path: Path, shapes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(cache))
    settings = settings_from_options(
        backbone=f"timm:{CNN}", finetune=True, epochs=2, mirror=True, report=False
    )
    progress = Notes()
    info = train(shapes, tmp_path / "m.onnx", settings, progress=progress).info
    tuned = info.settings["finetune"]
    assert tuned["settings"]["sizes"] == [SIDE]
    assert {stage["size"] for stage in tuned["stages"]} == {SIDE}
    (said,) = (line for line in progress.lines if line.startswith("mirrored views are"))
    averaged = said.startswith("mirrored views are averaged in")
    assert info.settings["mirror"] is averaged and info.backbone["mirror"] is averaged


def test_a_shipped_int8_backbone_is_trained_as_its_float_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(cache))
    assert registry.FLOAT["lite"] == "timm:tf_efficientnet_lite2"
    monkeypatch.setitem(registry.FLOAT, "lite", f"timm:{CNN}")
    progress = Notes()
    found = registry.trainable("lite", None, progress)
    assert found == catalogue.folder() / f"{CNN}.backbone.onnx"
    assert progress.lines == [f"lite is int8; fine-tuning takes its float32 network, timm:{CNN}"]
    assert registry.trainable("pocket", None, progress) == "pocket"
    assert registry.trainable("lite", "keras", progress) == "lite"
    network = registry.open_network(
        onnx_files.read_audited(Path(found), SettingsError), Path(found)
    )
    assert network.framework.startswith("PyTorch")


def test_without_a_connection_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path))

    def offline(*_: Any, **__: Any) -> Path:
        raise HubError("huggingface.co cannot be reached")

    monkeypatch.setattr(type(registry.engine("timm")), "pull", offline)
    with pytest.raises(
        HubError,
        match="pull timm:tf_efficientnet_lite2 --weights FILE`, and then this command again",
    ):
        registry.trainable("lite", None, NoProgress())
