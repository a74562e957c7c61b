"""The experiments' commands as processes, and their pictures."""

from __future__ import annotations

import csv
import os
import pty
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.cli import POCKET, lines, run
from support.data import CLOTHING, needs_shared
from support.experiment_data import blobs
from tailorbird.errors import SettingsError
from tailorbird.experiments import find_learning_rate, learning_curve, read_data, sweep
from tailorbird.experiments.plots import draw_curve, draw_rates, draw_sweep

SWEEP = (
    "--learning-rate",
    "0.001,0.01",
    "--inner",
    "0,8x4",
    "--epochs",
    4,
    "--folds",
    2,
    "--seeds",
    2,
)


def test_sweep_for_people_and_programs(shapes: Path, tmp_path: Path) -> None:
    done = run(
        "sweep", shapes, *SWEEP, "-o", tmp_path / "s.svg", "--csv", tmp_path / "fits.csv", *POCKET
    )
    for words in (
        "learning rate",
        "8x4",
        "is best (",
        "test photos were not used",
        "fits in",
        "corrected for",
    ):
        assert words in done.stdout
    assert (
        "read+embed" in done.stderr
        and "of 12 fits, about" in done.stderr
        and "picture written" in done.stderr
    )
    assert "\x1b[" not in done.stdout + done.stderr, "nothing but plain lines in a pipe"
    rows = list(csv.DictReader((tmp_path / "fits.csv").open()))
    assert len(rows) == 12 + 4 and {row["inner"] for row in rows} == {"0", "8x4", ""}
    assert "plain train" in done.stdout and [row["setting"] for row in rows].count("default") == 4
    assert {(row["round"], row["fold"]) for row in rows} == {
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    }
    (command,) = [
        line.strip() for line in done.stdout.splitlines() if line.startswith("  tailorbird train")
    ]
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("model.onnx")] = str(tmp_path / "model.onnx")
    run(*arguments)  # the command line it prints works
    assert (tmp_path / "model.onnx").exists()
    (found,) = lines(run("sweep", shapes, *SWEEP, "--json", "-q", *POCKET))
    assert set(found) >= {
        "settings",
        "factors",
        "comparisons",
        "chosen",
        "default",
        "recommended",
        "fits",
        "fits_planned",
        "interrupted",
        "command",
        "test_photos_untouched",
    }
    assert found["fits"] == found["fits_planned"] == 12 and found["command"] == command
    assert set(found["comparisons"][0]) == {
        "first",
        "second",
        "difference",
        "p",
        "p_corrected",
        "distinguishable",
    }
    (guided,) = lines(run("sweep", shapes, *SWEEP, "--optuna", 3, "--json", "-q", *POCKET))
    assert len(guided["settings"]) == 3


def test_find_lr_and_learning_curve(shapes: Path, tmp_path: Path) -> None:
    done = run("find-lr", shapes, "-o", tmp_path / "lr.png", "--seeds", 2, *POCKET)
    assert "a tenth of" in done.stdout and "--learning-rate" in done.stdout
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    (found,) = lines(run("find-lr", shapes, "--seeds", 2, "--json", *POCKET))
    assert found["suggestion"] > 0 and set(found["curve"][0]) == {"learning_rate", "loss", "spread"}
    quick = ("--learning-rate", 0.05, "--seeds", 1, "--folds", 2, "-q")
    done = run("learning-curve", shapes, *quick, "-o", tmp_path / "curve.html", *POCKET)
    assert (
        "The last doubling brought" in done.stdout
        and "may be chance" in done.stdout
        and done.stderr == ""
    )
    assert "<svg" in (tmp_path / "curve.html").read_text()
    (found,) = lines(run("learning-curve", shapes, *quick, "--json", *POCKET))
    assert set(found) >= {
        "points",
        "runs",
        "last_doubling",
        "twice_the_photos",
        "classes",
        "test_photos_untouched",
    }
    assert {entry["label"] for entry in found["classes"]} == {"box", "cross", "disc"}


def test_bad_input_is_one_line(shapes: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("sweep", shapes, "--learning-rate", "fast"), "--learning-rate is 'fast'; give numbers"),
        (("sweep", shapes, "--inner", "10,x"), "--inner is '10,x'"),
        (("sweep", shapes, "--batch-norm", "yes"), "give one or more of off, on"),
        (("sweep", shapes, "--dropout", "0,1.5"), "dropout is 1.5"),
        (("sweep", shapes, "-o", "s.pdf"), "must end in .svg, .png or .html"),
        (("sweep", shapes, "--csv", tmp_path / "none" / "f.csv"), "folder that exists"),
        (("find-lr", shapes, "--steps", 1), "steps is 1"),
        (("learning-curve", tmp_path / "nothing"), "nothing"),
        (("learning-curve", shapes, "--folds", 1), "folds is 1"),
    ):
        done = run(*arguments, code=2)
        assert words in done.stderr and done.stdout == "", arguments


@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "terminal"])
def test_ctrl_c_prints_the_table_so_far(shapes: Path, terminal: bool) -> None:
    long = ("--learning-rate", "0.0001,0.001", "--inner", "0", "--epochs", "40", "--seeds", "100")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "sweep", str(shapes), *long],
        stdout=subprocess.PIPE,
        stderr=follower if terminal else subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    seen = b""
    while b"fits, about" not in seen:
        if terminal:
            seen += os.read(leader, 4096)
        else:
            seen += process.stderr.read1(4096)  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    if terminal:
        # Somebody must read the terminal, or the process waits for ever to write to it.
        while True:
            try:
                seen += os.read(leader, 4096)
            except OSError:
                break
    out, err = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 130, out
    assert b"stopped by Ctrl-C after" in out and b"accuracy %" in out and b"tailorbird train" in out
    assert b"Traceback" not in seen + (err or b"")


def test_pictures_take_any_class_name_and_are_the_same_each_time(tmp_path: Path) -> None:
    names = ("$\\frac{1}", "<script>alert(1)</script>", "Hüte & \x1b[31m")
    photos = replace(blobs((40, 40, 40)), classes=names, source="<i>$x")
    curve = learning_curve(photos, fixed={"epochs": 3}, folds=2, seeds=1)
    found = sweep(photos, {"learning_rate": [1e-3, 1e-2], "epochs": [2]}, folds=2, seeds=1)
    flat = sweep(photos, {"dropout": [0.0, 0.5], "epochs": [1, 2]}, folds=2, seeds=1, grid=True)
    rates = find_learning_rate(photos, seeds=2)
    for ending in ("svg", "png", "html"):
        draw_curve(curve, tmp_path / f"curve.{ending}")
        draw_sweep(found, tmp_path / f"sweep.{ending}")
        draw_sweep(flat, tmp_path / f"grid.{ending}")
        draw_rates(rates, tmp_path / f"rates.{ending}")
    text = (tmp_path / "curve.svg").read_text()
    tree = ElementTree.fromstring(text)
    said = "".join(tree.itertext())
    assert (
        "$\\frac{1}" in said
        and "<script>" in said
        and "training photos" in said
        and "\x1b" not in text
    )
    assert "<script>" not in (tmp_path / "curve.html").read_text()
    before = (tmp_path / "sweep.svg").read_bytes()
    draw_sweep(found, tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").read_bytes() == before
    with pytest.raises(SettingsError, match=r"must end in"):
        draw_rates(rates, tmp_path / "rates.gif")


@needs_shared
def test_on_photos_of_clothes_the_suggested_rate_is_within_noise_of_the_best() -> None:
    photos = read_data(
        CLOTHING / "validation"
    )  # with the shipped backbone: 341 photos in a few seconds
    found = find_learning_rate(photos)
    swept = sweep(
        photos,
        {"learning_rate": [1e-5, 1e-3, 1e-2, 1e-1, found.suggestion]},
        folds=4,
        metric="log-loss",
    )
    suggested = next(s for s in swept.settings if s.settings.learning_rate == found.suggestion)
    comparison = swept.comparison(swept.settings[0].number, suggested.number)
    assert found.warning is None and (comparison is None or not comparison.distinguishable)
    worst = swept.comparison(swept.settings[-1].number, suggested.number)
    assert worst is not None and worst.distinguishable, (
        "nor is it just that nothing can be told apart"
    )
