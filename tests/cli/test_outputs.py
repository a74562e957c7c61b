"""No output of a command may be one of its inputs, or a photo of its dataset now or later."""

from __future__ import annotations

import csv
import hashlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import tailorbird
from support.data import draw_dataset
from tailorbird.backbone.catalogue import shipped
from tailorbird.cli.app import app
from tailorbird.corrections import open_store
from tailorbird.errors import InputError, SettingsError


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    """A copy of the inputs, so that a test that destroys one fails alone."""
    return Path(shutil.copytree(inputs, tmp_path / "work", symlinks=True))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """Inputs of every command; links named for what they lead to have any ending that is needed."""
    root = tmp_path_factory.mktemp("work")
    photos = draw_dataset(root / "photos", count=6)
    draw_dataset(root / "new", count=2, seed=5)
    (photos / "box" / "drawn.png").write_bytes((photos / "box" / "box-000.jpg").read_bytes())
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "price", "decision"])
        for number, path in enumerate(sorted(photos.rglob("*.*"))):
            name = path.relative_to(root).as_posix()
            rows.writerow([name, path.parent.name, number, "exclude" if number < 2 else ""])
    for name in ("shop.onnx", "other.onnx"):
        shutil.copy(trained, root / name)
    shutil.copy(shipped("pocket"), root / "my.onnx")
    open_store(str(root / "answers.csv")).close()
    (root / "kept").mkdir()
    (root / "notebook.keras").write_bytes(b"a model of Keras")
    (root / "classes.txt").write_text("box\ncross\ndisc\n")
    (root / "weights.h5").write_bytes(b"weights of Keras")
    for target, suffix in (
        ("photos/disc/disc-000.jpg", "onnx"),
        ("photos/disc/disc-000.jpg", "csv"),
        ("labels.csv", "onnx"),
        ("labels.csv", "svg"),
        ("labels.csv", "png"),
        ("shop.onnx", "csv"),
        ("shop.onnx", "png"),
        ("shop.onnx", "keras"),
        ("my.onnx", "csv"),
        ("my.onnx", "png"),
        ("notebook.keras", "onnx"),
        ("classes.txt", "onnx"),
        ("weights.h5", "onnx"),
        ("answers.csv", "onnx"),
        ("answers.csv", "json"),
    ):
        (root / f"{Path(target).stem}-link.{suffix}").symlink_to(target)
    return root


@dataclass(frozen=True)
class Case:
    """A command up to its output, and the outputs it must refuse."""

    command: str
    option: str
    refused: tuple[str, ...]


PHOTO = "photos/disc/disc-000.jpg"
PICTURES = ("photos/box/drawn.png", "photos/new.svg", "photos/box/new.png", "labels-link.svg")
CASES = [
    Case("scan photos", "--manifest", ("disc-000-link.csv",)),
    Case("scan labels.csv", "--manifest", ("labels.csv", "disc-000-link.csv")),
    Case("scan labels.csv --suspects", "--contact-sheet", (PHOTO, "labels-link.png")),
    Case("scan photos --suspects", "--contact-sheet", (PHOTO, "photos/box/new.png")),
    Case("scan photos --suspects --backbone my.onnx", "--contact-sheet", ("my-link.png",)),
    Case("train photos --backbone my.onnx", "--output", ("my.onnx", "disc-000-link.onnx")),
    Case("train labels.csv", "--output", ("labels-link.onnx", "disc-000-link.onnx")),
    Case("train photos --corrections answers.csv", "--output", ("answers-link.onnx",)),
    Case("train photos -o m.onnx", "--report", (PHOTO, "photos/box/new.png", "m.onnx")),
    Case("train labels.csv -o m.onnx", "--report", (PHOTO, "labels.csv")),
    Case("train photos -o m.onnx --backbone my.onnx", "--report", ("my-link.png",)),
    Case("train labels.csv -o m.onnx", "--manifest", ("labels.csv", "disc-000-link.csv")),
    Case("train photos --corrections answers.csv -o m.onnx", "--manifest", ("answers.csv",)),
    Case("evaluate shop.onnx photos", "--report", ("shop.onnx", PHOTO, "photos/new.png")),
    Case("evaluate shop.onnx labels.csv", "--report", ("labels.csv", PHOTO)),
    Case("compare shop.onnx other.onnx photos", "--csv", ("shop-link.csv", "disc-000-link.csv")),
    Case("compare shop.onnx other.onnx labels.csv", "--csv", ("labels.csv", "disc-000-link.csv")),
    Case("compare shop.onnx other.onnx photos", "--contact-sheet", (PHOTO, "shop-link.png")),
    Case("explain shop.onnx photos/box/drawn.png", "--output", ("photos/box/drawn.png",)),
    Case("explain shop.onnx photos/box/drawn.png", "--output", ("shop-link.png",)),
    Case("explain shop.onnx photos", "--output", ("photos", "photos/box")),
    Case("explain shop.onnx .", "--output", (".", "kept")),
    Case("find-lr photos", "--output", PICTURES[:3]),
    Case("find-lr labels.csv", "--output", ("photos/box/drawn.png", "labels-link.svg")),
    Case("find-lr photos --backbone my.onnx", "--output", ("my-link.png",)),
    Case("sweep photos", "--output", PICTURES[:3]),
    Case("sweep labels.csv", "--output", ("labels-link.svg",)),
    Case("sweep labels.csv", "--csv", ("labels.csv", "disc-000-link.csv")),
    Case("sweep photos --backbone my.onnx", "--csv", ("my-link.csv",)),
    Case("learning-curve photos", "--output", PICTURES[:3]),
    Case("learning-curve labels.csv", "--output", ("labels-link.svg",)),
    Case("report shop.onnx", "--output", ("shop.onnx", "shop-link.csv")),
    Case("export shop.onnx", "--output", ("shop-link.keras",)),
    Case("export shop.onnx --to int8 --photos photos", "--output",
         ("shop.onnx", "disc-000-link.onnx")),
    Case("export shop.onnx --to int8 --photos labels.csv", "--output", ("labels-link.onnx",)),
    Case("backbones quantize my.onnx --photos photos", "--output",
         ("my.onnx", "disc-000-link.onnx")),
    Case("backbones quantize my.onnx --photos labels.csv", "--output", ("labels-link.onnx",)),
    Case("import notebook.keras --classes classes.txt", "--output",
         ("notebook-link.onnx", "classes-link.onnx")),
    Case("import other.onnx --classes classes.txt", "--output", ("other.onnx",)),
    Case("import notebook.keras --classes classes.txt --validate labels.csv", "--output",
         ("labels-link.onnx", "disc-000-link.onnx")),
    Case("import notebook.keras --classes classes.txt --validate photos", "--output",
         ("disc-000-link.onnx",)),
    Case("corrections export answers.csv", "--output", ("answers.csv", "answers-link.json")),
    Case("backbones pull keras:MobileNetV2 --with-classes --weights weights.h5", "--output",
         ("weights-link.onnx",)),
    Case("backbones pull keras:MobileNetV2 --with-classes --classes classes.txt", "--output",
         ("classes-link.onnx",)),
    Case("review labels.csv", "--output", ("labels.csv", "disc-000-link.csv")),
    Case("label photos", "--output", ("disc-000-link.csv", "shop-link.csv")),
]  # fmt: skip
INPUTS = {
    "train --corrections-photos", "retrain --corrections-photos", "retrain --corrections-file",
    "retrain --token-file", "review --predictions", "import --validate", "serve --photos",
    "serve --token-file", "serve --corrections-file", "serve --page", "serve --candidate",
    "corrections export --photos",
    "corrections forget --photos", "backbones pull --weights", "backbones pull --classes",
    "backbones quantize --photos", "export --photos", "train --none", "retrain --none",
    "evaluate --strangers",
}  # fmt: skip
"""Options that take a path and are read; `serve --photos` is written to under names of its own."""


def contents(folder: Path) -> dict[str, str]:
    """Every file's bytes, as a hash; links included, since what they lead to counts."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("command", "option", "target"),
    [
        pytest.param(case.command, case.option, target, id=f"{case.command} {case.option} {target}")
        for case in CASES
        for target in case.refused
    ],
)
def test_an_output_that_is_an_input_is_refused_and_nothing_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, target: str
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    done = CliRunner().invoke(app, [*command.split(), option, target, "-q"])
    assert isinstance(done.exception, InputError), f"{done.output}\n{done.exception!r}"
    assert done.exception.exit_code == 2
    said = str(done.exception)
    assert "give" in said or "write it to another folder" in said, said
    assert target.split("/")[0] in said
    assert contents(folder) == before


def test_the_process_exits_2_with_one_line(folder: Path) -> None:
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", "scan", "labels.csv", "--manifest", "labels.csv"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == (
        "tailorbird: the manifest labels.csv would overwrite the dataset, which this command "
        "reads; give another name\n"
    )
    assert contents(folder) == before


def path_options(command: Any, name: str) -> Iterator[str]:
    """Every option of a command and its subcommands that takes a path, as `command --option`."""
    for inner, value in getattr(command, "commands", {}).items():
        yield from path_options(value, f"{name} {inner}".strip())
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    for option in command.params:
        if option.param_type_name == "option" and hints.get(option.name) in (Path, Path | None):
            yield f"{name} {option.opts[0]}"


def test_every_option_that_names_an_output_is_tested() -> None:
    names = {" ".join(name.split()) for name in path_options(get_command(app), "")}
    tested = set()
    for case in CASES:
        words = case.command.split()
        name = " ".join(words[:2]) if words[0] in ("corrections", "backbones") else words[0]
        tested.add(f"{name} {case.option}")
    assert tested | INPUTS == names


def test_the_library_refuses_what_the_command_refuses(folder: Path) -> None:
    before = contents(folder)
    labels, photo = folder / "labels.csv", folder / PHOTO
    dataset = tailorbird.scan(labels)
    with pytest.raises(SettingsError, match="would overwrite the dataset"):
        tailorbird.write_manifest(dataset, labels)
    with pytest.raises(SettingsError, match="would overwrite a photo"):
        tailorbird.write_manifest(dataset, photo)
    with pytest.raises(SettingsError, match="would overwrite the dataset"):
        tailorbird.train(labels, folder / "m.onnx", manifest=labels)
    with pytest.raises(SettingsError, match="folder of photos"):
        tailorbird.train(folder / "photos", folder / "m.onnx", report=photo)
    with pytest.raises(SettingsError, match="would overwrite the model"):
        tailorbird.evaluate(folder / "shop.onnx", labels, report=folder / "shop.onnx")
    assert contents(folder) == before


def test_a_file_that_is_no_input_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    target = folder / "old.csv"
    target.write_text("an older manifest\n")
    done = CliRunner().invoke(app, ["scan", "labels.csv", "--manifest", str(target), "-q"])
    assert done.exit_code in (0, 3)
    assert target.read_text().startswith("path,label,split")


@pytest.mark.parametrize(
    "command",
    [
        "scan linked --suspects --contact-sheet",
        "train linked -o m.onnx --report",
        "evaluate shop.onnx linked --report",
        "compare shop.onnx other.onnx linked --contact-sheet",
        "sweep linked -o",
        "find-lr linked -o",
        "learning-curve linked -o",
    ],
)
def test_photos_that_links_lead_to_are_inputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """With --follow-links a dataset has photos outside its folder."""
    monkeypatch.chdir(folder)
    for label in ("box", "disc"):
        (folder / "linked" / label).mkdir(parents=True)
        (folder / "linked" / label / "one.png").symlink_to(
            folder / "new" / label / f"{label}-001.jpg"
        )
    (folder / "linked" / "box" / "drawn.png").symlink_to(folder / "photos" / "box" / "drawn.png")
    before = contents(folder)
    target = "photos/box/drawn.png"
    done = CliRunner().invoke(app, [*command.split(), target, "--follow-links", "-q"])
    assert isinstance(done.exception, SettingsError), f"{done.output}\n{done.exception!r}"
    assert "would overwrite a photo that is read; give another name" in str(done.exception)
    assert contents(folder) == before
