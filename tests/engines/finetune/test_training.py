"""`train --finetune` and `--backbone cnn` with Keras, from drawn photos to the model file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from support.documented_json import problems, schemas
from support.jax_backend import jax_environment
from support.keras_small import SIZE, small_backbone
from tailorbird.cli.app import app
from tailorbird.cli.parsing import augmentation, seconds, sizes, unfreeze
from tailorbird.engines.exporting import export_model
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.protocol import Regularisation
from tailorbird.errors import BackboneError, ModelFileError, SettingsError
from tailorbird.images import Augmentation
from tailorbird.int8 import figures, quantise_model
from tailorbird.model import load
from tailorbird.progress import NoProgress
from tailorbird.report.tuning import tuning
from tailorbird.training import TrainResult, train

SETTINGS = FinetuneSettings(
    sizes=(SIZE,),
    unfreeze="all",
    epochs=8,
    batch_size=8,
    learning_rate=1e-2,
    base_rate=1.0,
    depth_decay=1.0,
    ema=0.0,
    augmentation=None,
    regularisation=Regularisation(dropout=0.0, label_smoothing=0.0),
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "small.backbone.onnx"
    path.write_bytes(small_backbone().SerializeToString())
    return path


class Lines(NoProgress):
    """Records notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, shapes: Path, backbone: Path) -> TrainResult:
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(folder / "cache"))
        return train(shapes, folder / "shapes.onnx", backbone=backbone, finetune=SETTINGS)


def test_a_finetuned_model_becomes_int8(
    tuned: TrainResult, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST_LOST", 1.0)  # one of few photos is more than half a point
    result = quantise_model(tuned.model, shapes, tmp_path / "int8.onnx")
    before, after = load(tuned.model), load(tmp_path / "int8.onnx")
    assert after.info.settings["finetune"] == before.info.settings["finetune"]
    assert {name: scores.n for name, scores in result.scores.items()} == {
        name: scores["n"] for name, scores in before.info.scores.items()
    }
    assert result.float32_scores["test"].accuracy == tuned.test.accuracy
    assert result.figures.agreement > 0.8
    photo = sorted((shapes / "disc").iterdir())[0]
    maps = [model.predict(photo, heatmaps=True).heatmaps for model in (before, after)]
    assert maps[0] is not None and maps[1] is not None and maps[0].shape == maps[1].shape
    with pytest.raises(ModelFileError, match="did not come from"):
        export_model(tmp_path / "int8.onnx", tmp_path / "x.keras", to="keras")


def test_a_finetuned_model_is_one_file_like_any_other(tuned: TrainResult, shapes: Path) -> None:
    found = tuned.tuned
    assert found is not None and tuned.search is not None and found.best.stage == 1
    assert found.best.score.log_loss < found.start.log_loss  # random weights are easy to improve on
    shop = load(tuned.model)
    photos = sorted((shapes / "disc").iterdir())[:3]
    answers = shop.predict(photos, heatmaps=True)
    assert all(
        answer.heatmaps is not None and np.isfinite(answer.heatmaps).all() for answer in answers
    )
    said = shop.info
    assert said.settings["finetune"]["history"] == json.loads(
        json.dumps(found.as_dict()["history"])
    )
    assert said.settings["finetune"]["settings"]["epochs"] == 8
    assert (
        said.backbone["trained_on"].endswith("fine-tuned") and said.backbone["pretrained"]["name"]
    )
    assert not tuned.model.with_name(
        "shapes.onnx.finetune"
    ).exists()  # the run is over, its folder gone
    assert tuned.as_dict()["finetune"]["stages"][0]["sentence"]


def test_the_report_shows_the_finetuning(tuned: TrainResult) -> None:
    assert tuned.report is not None
    page = tuned.report.read_text(encoding="utf-8")
    assert 'id="tuning"' in page and "Fine-tuning" in page
    assert page.count('aria-label="Log-loss by epoch"') == 2  # the head's, and fine-tuning's
    found = tuning(tuned.info)
    assert found is not None and tuned.tuned is not None
    assert [epoch["validation_accuracy"] for epoch in found["history"]] == [
        epoch.validation_accuracy for epoch in tuned.tuned.history
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        7,
        {"history": "x"},
        {"history": [{}]},
        {
            "history": [
                {
                    "stage": 1,
                    "size": 9,
                    "epoch": 1,
                    "validation_log_loss": "<b>",
                    "validation_accuracy": 1,
                }
            ]
        },
    ],
)
def test_a_report_ignores_malformed_metadata(tuned: TrainResult, hostile: object) -> None:
    from dataclasses import replace

    assert (
        tuning(replace(tuned.info, settings={**tuned.info.settings, "finetune": hostile})) is None
    )


def test_from_scratch_unaugmented_photos_come_first(tmp_path: Path, shapes: Path) -> None:
    progress = Lines()
    settings = FinetuneSettings(
        sizes=(32,),
        epochs=12,
        batch_size=8,
        learning_rate=2e-3,
        base_rate=1.0,
        depth_decay=1.0,
        plain_first=True,
        ema=0.0,
        regularisation=Regularisation(dropout=0.0, label_smoothing=0.0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
        result = train(
            shapes, tmp_path / "cnn.onnx", backbone="cnn", finetune=settings, progress=progress
        )
    assert result.tuned is not None and result.search is None and result.fit is None
    assert [stage.augmented for stage in result.tuned.stages] == [False, True]
    assert result.tuned.best.score.log_loss < result.tuned.start.log_loss
    answer = load(result.model).predict(next((shapes / "box").iterdir()), heatmaps=True)
    assert answer.heatmaps is not None and answer.heatmaps.shape == (3, 15, 15)
    assert result.report is not None and "Training from scratch" in result.report.read_text(
        encoding="utf-8"
    )


def command(photos: Path, output: Path, backbone: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tailorbird",
        "train",
        str(photos),
        "-o",
        str(output),
        "--backbone",
        str(backbone),
        "--finetune",
        "--size",
        str(SIZE),
        "--unfreeze",
        "all",
        "--epochs",
        "12",
        "--no-report",
        "--json",
        *more,
    ]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory, shapes: Path, backbone: Path) -> Path:
    """Return a folder with the model of an uninterrupted run, its output and its cache."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        command(shapes, folder / "whole.onnx", backbone),
        capture_output=True,
        text=True,
        env={**os.environ, "TAILORBIRD_CACHE": str(folder / "cache")},
        check=True,
    )
    (folder / "whole.json").write_text(done.stdout)
    (folder / "whole.err").write_text(done.stderr)
    return folder


FOREIGN = re.compile(r"^(WARNING|[IWEF]\d{4} |\d{4}-\d\d-\d\d)|Warning:|absl|oneDNN|XLA|jax", re.M)
"""Log lines of TensorFlow, XLA, JAX and Python's warnings."""


def test_no_log_line_of_a_framework_reaches_the_terminal(left_alone: Path) -> None:
    lines = (left_alone / "whole.err").read_text()
    assert "stage 1/1" in lines and not FOREIGN.findall(lines), lines


def test_the_answer_of_the_command_has_the_documented_keys(left_alone: Path) -> None:
    documented = schemas(
        (Path(__file__).resolve().parents[3] / "docs" / "json.md").read_text(encoding="utf-8")
    )
    answer = json.loads((left_alone / "whole.json").read_text())
    assert answer["finetune"]["history"] and answer["backbone"]["pretrained"]["name"] == "small"
    assert problems(answer, documented["tailorbird train"], documented) == []


@pytest.mark.slow
def test_a_run_that_is_stopped_twice_resumes_to_the_same_model(
    tmp_path: Path, shapes: Path, backbone: Path, left_alone: Path
) -> None:
    """After kill -9, then Ctrl-C, the same command gives the model of an uninterrupted run."""
    output = tmp_path / "stopped.onnx"
    environment = {**os.environ, "TAILORBIRD_CACHE": str(left_alone / "cache")}
    state = tmp_path / "stopped.onnx.finetune"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = set(state.glob("*.json"))
        with subprocess.Popen(
            command(shapes, output, backbone),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            end = time.monotonic() + 240
            while not set(state.glob("*.json")) - before and time.monotonic() < end:
                time.sleep(0.02)
            assert process.poll() is None, process.communicate()
            process.send_signal(number)
            process.communicate(timeout=120)
        assert process.returncode == code and not output.exists()
    done = subprocess.run(
        command(shapes, output, backbone),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "resuming at stage 1" in done.stderr, done.stderr
    whole, stopped = json.loads((left_alone / "whole.json").read_text()), json.loads(done.stdout)
    assert (
        stopped["finetune"]["resumed_from"] is not None
        and whole["finetune"]["resumed_from"] is None
    )
    assert stopped["scores"] == whole["scores"]
    photos = sorted((shapes / "box").iterdir())
    rows = [
        np.array([answer.probability for answer in load(path).predict(photos)])
        for path in (left_alone / "whole.onnx", output)
    ]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="needs Keras' other backend, jax")
def test_training_on_another_backend(
    tmp_path: Path, shapes: Path, backbone: Path, left_alone: Path
) -> None:
    """With the default settings, dropout among them."""
    output = tmp_path / "jax.onnx"
    environment = {**jax_environment(), "TAILORBIRD_CACHE": str(left_alone / "cache")}
    done = subprocess.run(
        command(shapes, output, backbone, "--epochs", "1"),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not FOREIGN.findall(done.stderr), done.stderr
    assert json.loads(done.stdout)["finetune"]["history"][-1]["epoch"] == 1
    assert load(output).predict(next((shapes / "box").iterdir())).probability > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refit": True}, "refit"),
        ({"engine": "torch"}, "available: keras"),
        ({"backbone": "pocket"}, "backbones pull keras:MobileNetV2"),
        ({"backbone": "cnn", "judge_labels": True}, "--suspects"),
        ({"backbone": "cnn", "views": 2}, "views"),
    ],
)
def test_invalid_combinations_are_refused_before_training(
    tmp_path: Path, shapes: Path, backbone: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        train(
            shapes, tmp_path / "m.onnx", **{"backbone": backbone, "finetune": SETTINGS, **options}
        )
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_command_line() -> None:
    assert sizes("150, 299") == (150, 299) and sizes(None) is None
    assert [seconds(text) for text in ("90", "90s", "10m", "1.5h")] == [90.0, 90.0, 600.0, 5400.0]
    assert [unfreeze(text) for text in ("all", "gradual", "20", None)] == [
        "all",
        "gradual",
        20,
        None,
    ]
    assert augmentation("none") is None
    assert augmentation("zoom=0.3,flip=no") == Augmentation(flip=False, zoom=0.3)
    for call, bad in (
        (sizes, "big"),
        (seconds, "soon"),
        (seconds, "0m"),
        (unfreeze, "-3"),
        (augmentation, "zoom=x"),
        (augmentation, "blur=1"),
    ):
        with pytest.raises(SettingsError, match="give"):
            call(bad)


def test_tuning_options_without_finetuning_are_refused(shapes: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tailorbird",
            "train",
            str(shapes),
            "-o",
            str(tmp_path / "m.onnx"),
            "--size",
            "96",
            "--budget",
            "5m",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2
        and "--size, --budget: only fine-tuning uses them; add --finetune" in done.stderr
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--inner", "inner would change nothing"),
        ("--unfreeze", "--unfreeze would change nothing"),
        ("--views", "views are for"),
    ],
)
def test_options_that_change_nothing_from_scratch_are_refused(
    shapes: Path, tmp_path: Path, option: str, words: str
) -> None:
    output = tmp_path / "m.onnx"
    done = CliRunner().invoke(
        app, ["train", str(shapes), "-o", str(output), "--backbone", "cnn", option, "3"]
    )
    assert isinstance(done.exception, SettingsError) and words in str(done.exception)
    assert not output.exists()


def test_a_backbone_file_that_holds_program_code_is_refused(tmp_path: Path, shapes: Path) -> None:
    """The metadata of an ONNX file are untrusted input too."""
    from tailorbird import onnx_files

    proto = small_backbone()
    said = onnx_files.metadata(proto)
    inside = json.loads(said["keras"])
    inside["config"]["config"]["layers"].append(
        {
            "class_name": "Lambda",
            "module": "keras.layers",
            "config": {"name": "twice", "function": "x"},
            "registered_name": None,
        }
    )
    onnx_files.set_metadata(proto, {**said, "keras": json.dumps(inside)})
    bad = tmp_path / "bad.backbone.onnx"
    bad.write_bytes(proto.SerializeToString())
    with pytest.raises(BackboneError, match="twice"):
        train(shapes, tmp_path / "m.onnx", backbone=bad, finetune=SETTINGS)
