"""The course's notebooks replayed, in the shortened form: drawn photos, random weights, every step
on both sides.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import commands
from steps import COURSE, PITFALLS, STEPS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "zoomcamp"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replay every step in the short form; return the folder of the run."""
    folder = tmp_path_factory.mktemp("zoomcamp")
    done = run("--short", "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "failed" not in done.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def found(replay: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the results of each step, by side."""
    return dict(json.loads((replay / "results.json").read_text())["steps"])


def test_every_step_ran_on_both_sides(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    assert set(found) == set(COURSE) | set(PITFALLS)
    for step, sides in found.items():
        assert set(sides) == {"notebook", "tailorbird"}, step
        assert sides["notebook"]["seconds"] > 0
        assert len(sides["tailorbird"]["command_seconds"]) == len(commands.COMMANDS[step])
        for side in sides.values():
            for part in ("validation", "test"):
                if isinstance(side.get(part), float):
                    assert 0 <= side[part] <= 1


def test_the_table_has_every_step_with_its_seconds_and_scores(replay: Path) -> None:
    text = (replay / "RESULTS.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    for name in COURSE:
        cells = rows[STEPS[name].title]
        theirs, ours = float(cells[1]), float(cells[5])
        assert theirs > 0 and ours > 0, name
        if name not in ("imagenet", "hand-back", "use"):
            assert 0 <= float(cells[3]) <= 1 and 0 <= float(cells[6]) <= 1, name
    for name in PITFALLS:
        assert f"**{STEPS[name].title}" in text, name
    for title in ("precision | recall | F1", "## What was tried", "## Commands", "find-lr"):
        assert title in text


def test_sweeps_tried_what_they_were_asked(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    assert set(found["learning-rate"]["notebook"]["tried"]) == {"0.001"}
    assert len(found["learning-rate"]["tailorbird"]["tried"]) == 4
    assert len(found["inner"]["tailorbird"]["tried"]) == 4
    assert found["learning-rate"]["tailorbird"]["suggestion"] > 0


def test_the_notebooks_model_and_ours_change_sides(
    found: dict[str, dict[str, dict[str, Any]]],
) -> None:
    """Imported it answers as in Keras, handed back as in tailorbird; `load_img` makes photos
    smaller in another way, but not by much.
    """
    assert found["use"]["tailorbird"]["agreement"] < 1e-3
    ours = found["hand-back"]["tailorbird"]
    assert ours["difference"] < 1e-3
    assert found["hand-back"]["notebook"]["probabilities"][ours["label"]] == pytest.approx(
        ours["probability"], abs=0.05
    )


def test_a_pretrained_network_gives_the_notebooks_names(
    found: dict[str, dict[str, dict[str, Any]]],
) -> None:
    theirs, ours = (dict(found["imagenet"][side]["top"]) for side in ("notebook", "tailorbird"))
    assert len(theirs) == len(ours) == 5
    assert set(theirs) & set(ours)


def test_pitfalls_are_measured(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    validation, resume = found["pitfall-validation"], found["pitfall-resume"]
    assert len(validation["notebook"]["augmented"]) == 3
    first, second = validation["tailorbird"]["validation"]
    assert first == second
    assert resume["tailorbird"]["resumed"]["validation"] == pytest.approx(
        found["homework"]["tailorbird"]["validation"]
    )
    assert resume["tailorbird"]["resumed"]["test"] == pytest.approx(
        found["homework"]["tailorbird"]["test"]
    )
    assert len(found["pitfall-preprocess"]["notebook"]["with"]) == 3


def test_the_footwear_variant_scores_each_class(
    found: dict[str, dict[str, dict[str, Any]]],
) -> None:
    for side in found["footwear"].values():
        assert [row["label"] for row in side["per_class"]] == ["dress", "outwear", "shoes"]
        assert all(
            0 <= row[name] <= 1
            for row in side["per_class"]
            for name in ("precision", "recall", "f1")
        )


def test_what_is_done_is_not_done_again(replay: Path) -> None:
    start = time.perf_counter()
    done = run("--short", "--out", "out", cwd=replay.parent)
    assert done.returncode == 0 and time.perf_counter() - start < 20
    assert "notebook: Keras" not in done.stderr and "$ tailorbird" not in done.stderr
    other = run(
        "--short", "--all-epochs", "--network", "Xception", "--out", "out", cwd=replay.parent
    )
    assert other.returncode == 1 and "other settings" in other.stderr


def test_without_photos_it_says_how_to_get_them(tmp_path: Path) -> None:
    done = run("--photos", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "no photos at nowhere" in done.stderr
        and "clothing-dataset-small" in done.stderr
        and "--short" in done.stderr
    )


def test_a_step_that_is_none_is_refused(tmp_path: Path) -> None:
    done = run("--short", "--only", "nothing", cwd=tmp_path)
    assert done.returncode == 1 and "learning-rate" in done.stderr


def test_the_readme_shows_the_commands_that_run(
    found: dict[str, dict[str, dict[str, Any]]],
) -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    written = {
        line.split("   #")[0].strip()
        for line in text.splitlines()
        if line.startswith("    tailorbird ")
    }
    assert written == {command for step in STEPS for command in commands.shown(step)}
    for step, sides in found.items():
        ran = [options(command) for command in sides["tailorbird"]["commands"]]
        assert ran == [options(command) for command in commands.shown(step)], step


def options(command: str) -> list[str]:
    """Return a command's name and options, without their values."""
    words = shlex.split(command)
    return words[:2] + [word for word in words if word.startswith("-")]


def test_the_committed_results_are_of_the_steps_there_are() -> None:
    """Every step of the course has its row, and what was not run is named as such, rather than left
    to be overlooked.
    """
    text = (EXAMPLE / "RESULTS.md").read_text(encoding="utf-8")
    table = {
        cells[1].strip(): cells[3:]
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) > 9
    }
    for step in COURSE:
        row = table[STEPS[step].title]
        assert (
            any(re.search(r"\d", cell) for cell in row[:1])
            or f"not run: {STEPS[step].title}" in text
        )
    for step in PITFALLS:
        assert f"**{STEPS[step].title}" in text or f"not run: {STEPS[step].title}" in text
