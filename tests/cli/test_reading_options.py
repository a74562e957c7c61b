"""The options of every command that reads photos: splits, near-duplicates, groups, links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import POCKET, run
from support.data import draw_dataset
from tailorbird import train
from tailorbird.dataset import DataSettings
from tailorbird.errors import DatasetError, SettingsError

COMMANDS = (
    "scan", "train", "evaluate", "compare", "retrain", "sweep", "learning-curve",
    "find-lr", "review",
)  # fmt: skip


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folds")
    for number, (fold, count) in enumerate((("f1", 16), ("f2", 6), ("f3", 6))):
        draw_dataset(root / fold, ("disc", "box"), count, seed=number)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_photos_has_the_options(command: str) -> None:
    text = run(command, "--help").stdout
    for option in ("--split-names", "--near-duplicates", "--group-by", "--follow-links"):
        assert text.count(option) >= 1


def test_look_alike_splits_are_refused_and_named_splits_are_used(
    folds: Path, tmp_path: Path
) -> None:
    refused = run("scan", folds, code=2)
    assert "--split-names f1=train,f2=test" in refused.stderr
    names = "f1=train,f2=validation,f3=test"
    found = json.loads(run("scan", folds, "--split-names", names, "--json").stdout)
    assert found["splits"]["test"] == {"box": 6, "disc": 6}
    model = tmp_path / "m.onnx"
    run(
        "train", folds, "-o", model, "--split-names", names, "--epochs", "2", "--no-report", *POCKET
    )
    scores = json.loads(run("evaluate", model, folds, "--split-names", names, "--json").stdout)
    assert scores["split"] == "test" and scores["n"] == 12


def test_the_library_takes_the_same_settings(folds: Path, tmp_path: Path) -> None:
    data = DataSettings(split_names={"f1": "train", "f2": "validation", "f3": "test"})
    fixed = {"epochs": 2, "inner": ()}
    result = train(
        folds, tmp_path / "m.onnx", data=data, fixed=fixed, report=False, backbone="pocket"
    )
    assert result.test.n == 12
    with pytest.raises(DatasetError, match="--split-names"):
        train(folds, tmp_path / "m.onnx", report=False, backbone="pocket")


def test_invalid_values_are_named(folds: Path) -> None:
    bad = run("scan", folds, "--near-duplicates", "merge", "--group-by", "(", code=2)
    assert "'merge'; it must be one of group, keep, drop" in bad.stderr
    assert "not a regular expression" in bad.stderr
    with pytest.raises(SettingsError, match="is not FOLDER=SPLIT"):
        DataSettings(split_names="f1")
