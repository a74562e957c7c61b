"""The numbers, formats and paths of reports, failures to write one, and the commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.cli import POCKET
from support.report_pages import (
    Page,
    content_of,
    lookup,
    self_contained_page,
)
from tailorbird import evaluation, images
from tailorbird.errors import SettingsError
from tailorbird.evaluation import evaluate
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.model import Classifier
from tailorbird.report import describe, render, report_path
from tailorbird.report.numbers import calibration, coverage_curve, numbers
from tailorbird.training import TrainResult, train


def test_calibration_and_coverage_agree_with_the_scores(result: TrainResult) -> None:
    random = np.random.default_rng(3)
    labels, rows = random.integers(0, 5, 700), random.dirichlet(np.full(5, 0.3), 700)
    answers = Answers.of(((Path(str(i)), str(i)) for i in range(700)), labels, rows)
    scores = score(labels, rows, tuple("abcde"), 0.7)
    bins = calibration(answers)
    gap = sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["n"]) / 700
    assert gap == pytest.approx(scores.ece, abs=1e-6) and sum(one["n"] for one in bins) == 700
    curve = coverage_curve(answers, points=10_000)
    assert curve[-1]["coverage"] == 1 and curve[-1]["accuracy"] == pytest.approx(scores.accuracy)
    at = [point for point in curve if point["threshold"] >= 0.7][-1]
    assert at["coverage"] == pytest.approx(scores.coverage) and at["accuracy"] == pytest.approx(
        scores.sure_accuracy
    )
    assert len(coverage_curve(answers, points=50)) == 50
    same = Answers.of(
        ((Path("a"), "a") for _ in range(4)), np.array([0, 0, 1, 1]), np.tile([0.9, 0.1], (4, 1))
    )
    assert coverage_curve(same) == [
        {"threshold": pytest.approx(0.9), "coverage": 1.0, "accuracy": 0.5}
    ], "equal probabilities share one point"


def test_the_most_confident_mistakes_and_least_confident_hits_are_shown(
    result: TrainResult,
) -> None:
    said = numbers(content_of(result))
    answers = result.answers["test"]
    sure = [entry["probability"] for entry in said["mistakes"]]
    assert sure == sorted(sure, reverse=True) and len(sure) == min(
        12, result.test.n - said["scores"]["test"]["hits"]
    )
    low = [entry["probability"] for entry in said["hits"]]
    assert low == sorted(low) and low[0] == min(low)
    for entry in said["mistakes"] + said["hits"]:
        assert entry["path"] == answers.names[entry["photo"]] and (
            entry["label"] == entry["predicted"]
        ) == (entry in said["hits"])
        assert (
            Classifier(result.model).predict(answers.paths[entry["photo"]]).label
            == entry["predicted"]
        )


def test_scores_read_back(result: TrainResult) -> None:
    said = json.loads(json.dumps(result.test.as_dict()))
    assert Scores.from_dict(said) == result.test
    broken: list[Any] = [
        {},
        {**said, "accuracy": "high"},
        {**said, "ece": float("nan")},
        {**said, "confusion": [[1]]},
        {**said, "n": 0},
        [],
        {**said, "per_class": 5},
    ]
    for wrong in broken:
        with pytest.raises(ValueError, match="not valid scores"):
            Scores.from_dict(wrong)


def test_a_terminal_shows_the_card_formatted_and_a_pipe_gets_markdown(
    trained: Path, tmp_path: Path
) -> None:
    markdown = run("report", trained).stdout
    assert markdown.startswith("---\npipeline_tag:") and "| score | value |" in markdown
    inner, outer = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "report", str(trained)],
        stdout=outer,
        env={**os.environ, "COLUMNS": "90", "TERM": "dumb"},
    )
    os.close(outer)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while data := os.read(inner, 65536):
            shown += data
    assert done.wait(60) == 0
    text = shown.decode()
    assert "pipeline_tag" not in text and "---:" not in text and "\\" not in text
    assert "accuracy" in text and "Limits" in text


def test_path_of_a_report() -> None:
    model = Path("a/shop.v2.onnx")
    assert report_path(model, True, "html") == Path("a/shop.v2.report.html")
    assert report_path(model, True, "markdown", "evaluation") == Path("a/shop.v2.evaluation.md")
    assert report_path(model, False, "json") is None and report_path(
        model, "x.json", "json"
    ) == Path("x.json")
    with pytest.raises(SettingsError, match="'pdf'; it must be one of html, markdown, json"):
        report_path(model, True, "pdf")  # type: ignore[arg-type]


def test_a_model_describes_itself(result: TrainResult) -> None:
    content = describe(result.model)
    card = render(content, "markdown")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert (
        "pipeline_tag: image-classification" in front
        and f"value: {result.test.accuracy!r}" in front
    )
    for words in (
        "## Limits",
        "## Data",
        "## Training",
        result.dataset.fingerprint,
        "| box |",
        f"{result.test.accuracy:.1%}",
    ):
        assert words in body
    said = json.loads(render(content, "json"))
    assert (
        said["scores"]["test"]["accuracy"] == result.test.accuracy
        and "trained_on" not in said["info"]["data"]
    )
    page = Page(render(content, "html"))
    assert not page.photos and f"{result.test.accuracy:.1%}" in page.text


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_failed_report_leaves_the_model_intact(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird.report import page

    def broken(*_: object) -> str:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(page, "page", broken)
        made = train(
            shapes, tmp_path / "m.onnx", fixed={"inner": (), "epochs": 3}, backbone="pocket"
        )
    assert made.report is None and made.report_error == "unexpected ZeroDivisionError: a defect"
    assert Classifier(made.model).classes and made.as_dict()["report"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    if Path("/dev/full").exists():
        done = run(
            "train",
            shapes,
            "-o",
            tmp_path / "n.onnx",
            "--report",
            "/dev/full",
            "--json",
            "-q",
            "--inner",
            0,
            "--epochs",
            3,
            *POCKET,
        )
        assert json.loads(done.stdout)["report"] is None and (tmp_path / "n.onnx").exists()
        assert done.stderr.startswith(
            "tailorbird: warning: the report could not be written: /dev/full"
        )


def test_invalid_report_options_are_refused_before_training(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for options, message in [
        ({"report": tmp_path / "folder"}, "is a folder; give the name of a file"),
        ({"report": tmp_path / "m.onnx"}, "give a name such as shop.report.html"),
        ({"report_format": "pdf"}, "the report's format is 'pdf'"),
    ]:
        with pytest.raises(SettingsError, match=message):
            train(shapes, tmp_path / "m.onnx", **options, backbone="pocket")  # type: ignore[arg-type]
    done = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--report",
        "a.html",
        "--no-report",
        *POCKET,
        code=2,
    )
    assert (
        "--report and --no-report were both given" in done.stderr
        and not (tmp_path / "m.onnx").exists()
    )


def test_the_commands_print_the_path_of_the_report(shapes: Path, tmp_path: Path) -> None:
    quick = ("--inner", 0, "--epochs", 3)
    done = run("train", shapes, "-o", tmp_path / "m.onnx", *quick, "--format", "markdown", *POCKET)
    assert f"Report: {tmp_path / 'm.report.md'}" in done.stdout and (
        tmp_path / "m.report.md"
    ).read_text().startswith("---\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.report.md"]
    done = run("evaluate", tmp_path / "m.onnx", shapes, "--all", "--json")
    assert json.loads(done.stdout)["report"] == str(tmp_path / "m.evaluation.html")
    page = self_contained_page(tmp_path / "m.evaluation.html")
    assert (
        page.values["trained_on"] == json.loads(done.stdout)["trained_on"] > 0
        and "do not hold for new photos" in page.text
    )
    for name, value in page.values.items():
        if name.startswith(f"scores.{shapes.name}.") and not re.search(r"hits|intervals", name):
            assert value == lookup(
                json.loads(done.stdout), name.removeprefix(f"scores.{shapes.name}.")
            ), name
    assert run("report", tmp_path / "m.onnx").stdout.startswith("---\npipeline_tag")
    run("report", tmp_path / "m.onnx", "--format", "json", "-o", tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text())["kind"] == "model"


def test_evaluate_reads_each_photo_once(
    result: TrainResult, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    for label in ("box", "disc"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            os.link(
                shapes / label / f"{label}-{number:03}.jpg", folder / label / f"{number:02}.jpg"
            )
        (folder / label / "05b.jpg").write_bytes(b"\xff\xd8\xffcut")
        (folder / label / "06b.jpg").symlink_to(folder / label / "nowhere.jpg")
    seen: list[Path] = []
    real = images.read_bytes

    def read(path: str | Path) -> bytes:
        seen.append(Path(path))
        return real(path)

    monkeypatch.setattr(evaluation, "read_bytes", read)
    found = evaluate(result.model, folder, include_seen=True)
    assert len(seen) == len(set(seen)) and found.scores.n == 24
    trained = {sample.digest for sample in result.dataset.of("train")}
    names = {sample.digest: sample.name for sample in result.dataset.samples}
    expected = sum(1 for label in ("box", "disc") for number in range(12) if any(
        name == f"{label}/{label}-{number:03}.jpg" and digest in trained
        for digest, name in names.items()))  # fmt: skip
    assert found.trained_on == expected > 0
    left_out = dict(found.left_out)
    assert (
        set(left_out) >= {"box/05b.jpg", "disc/05b.jpg"}
        and "damaged or truncated" in left_out["box/05b.jpg"]
    )
    assert found.answers.names == tuple(
        f"{label}/{number:02}.jpg" for label in ("box", "disc") for number in range(12)
    )
    answered = [Classifier(result.model).predict(path).probability for path in found.answers.paths]
    assert np.allclose(found.answers.probabilities.max(axis=1), answered)
