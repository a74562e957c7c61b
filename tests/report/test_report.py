"""The report: a self-contained page with the numbers of the JSON and escaped names."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from support.data import draw_dataset, encoded, picture
from support.tiny_backbone import tiny
from tailorbird import evaluation, images
from tailorbird.errors import SettingsError
from tailorbird.evaluation import evaluate
from tailorbird.head import EpochLog
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.model import Classifier
from tailorbird.report import FORMATS, Content, describe, render, report_path
from tailorbird.report.numbers import calibration, coverage_curve, numbers
from tailorbird.training import TrainResult, train

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that a page is well-formed and keeps what the tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.values: dict[str, float] = {}
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "data":
            said = dict(attrs)
            self.values[said["data-name"] or ""] = float(said["value"] or "nan")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)  # SVG's, which close themselves
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def of(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def photos(self) -> list[bytes]:
        found = [value for tag, name, value in self.attributes if tag == "img" and name == "src"]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in found)
        return [base64.b64decode(uri.partition(",")[2]) for uri in found]


def checked(path: Path) -> Page:
    """A self-contained page: nothing is fetched, nothing runs, every reference resolves."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.html.startswith("<!doctype html>")
    (policy,) = [value for value in page.of("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    assert not page.tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
        "base",
        "image",
        "foreignobject",
    }
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action"):
            assert value.startswith("#") or (tag == "img" and value.startswith("data:image/")), (
                tag,
                name,
                value,
            )
        if tag == "img":
            assert name in ("src", "alt", "title")
    assert not re.search(r"url\((?!#)|@import", page.html)
    ids = page.of("id")
    assert len(ids) == len(set(ids)), "an id for each"
    wanted = {value[1:] for value in page.of("href") + page.of("xlink:href")} | set(
        re.findall(r"url\(#([^)]+)\)", page.html)
    )
    assert wanted <= set(ids)
    defined = set(re.findall(r"(--[a-z-]+):", page.html))
    assert set(re.findall(r"var\((--[a-z-]+)\)", page.html)) <= defined
    return page


def lookup(found: Any, path: str) -> Any:
    """A value inside nested dictionaries and lists, whose keys may hold dots."""
    if not path:
        return found
    if isinstance(found, list):
        head, _, rest = path.partition(".")
        return lookup(found[int(head)], rest)
    for key in sorted(found, key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            return lookup(found[key], path[len(key) + 1 :])
    raise KeyError(path)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> TrainResult:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(folder / "cache"))
        return train(shapes, folder / "shapes.onnx", seed=1)


def content_of(result: TrainResult, **changes: Any) -> Content:
    from tailorbird.training.result import content_of as of

    return replace(of(result), **changes)


# --- what train writes ---


def test_train_writes_a_self_contained_page(result: TrainResult) -> None:
    assert (
        result.report == result.model.with_name("shapes.report.html")
        and result.report_error is None
    )
    assert result.as_dict()["report"] == str(result.report) and result.seconds["report"] > 0
    page = checked(result.report)
    for words in ("Scores", "Mistakes", "Confusion matrix", "Calibration and confidence",
                  "All configurations", "Findings of the scan", "Model card", "Limits",
                  result.dataset.fingerprint, "Apache-2.0", "pocket",
                  result.threshold.sentence()):  # fmt: skip
        assert words in page.text, words
    assert page.html.count("<svg") == 5 and len(page.photos) > 18
    assert len(page.html) < 2_000_000


def test_every_number_on_the_page_is_the_one_of_the_json(result: TrainResult) -> None:
    assert result.report is not None
    page = checked(result.report)
    said = result.as_dict()
    scores = {name: value for name, value in page.values.items() if name.startswith("scores.")}
    names = {name.partition(".")[2].partition(".")[0] for name in scores}
    assert names == {"test", "validation"} and len(scores) > 25
    for name, value in scores.items():
        if not re.search(r"\.(hits|intervals\..*)$", name):
            assert value == lookup(said, name), name
    everything = numbers(content_of(result))
    for name, value in page.values.items():
        assert value == lookup(everything, name), name
    assert json.loads(render(content_of(result), "json")) == json.loads(json.dumps(everything))
    assert everything["scores"]["test"] == {
        **said["scores"]["test"],
        **{k: everything["scores"]["test"][k] for k in ("hits", "intervals")},
    }
    trials = everything["search"]["trials"]
    assert result.search is not None
    assert len(trials) == len(result.search.trials) and [
        t["validation_loss"] for t in trials
    ] == sorted(t.validation_loss for t in result.search.trials)
    assert sum(trial["chosen"] for trial in trials) == len(result.search.members)
    cells = [int(cell) for cell in re.findall(r'<td class="[rw]\d+"[^>]*>(\d+)</td>', page.html)]
    assert sorted(cells) == sorted(count for row in result.test.confusion for count in row if count)


def test_the_charts_take_the_colours_of_the_page(result: TrainResult) -> None:
    assert result.report is not None
    html = result.report.read_text()
    for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", chart), (
            "no colour of its own, which would be lost on light or on dark"
        )
        assert "var(--ink)" in chart and "<text" in chart and "DejaVu" not in chart
    assert (
        "prefers-color-scheme: dark" in html
        and "@media print" in html
        and "width=device-width" in html
    )


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_and_lines_have_contrast_on_light_and_dark() -> None:
    css = (Path(evaluation.__file__).parent / "report" / "report.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for palette in (light, dark):
        colours = {
            name: (c if len(c) == 7 else f"#{c[1] * 2}{c[2] * 2}{c[3] * 2}")
            for name, c in re.findall(r"--(\w+): (#\w+)", palette)
        }
        for name, least in (("ink", 7.0), ("muted", 4.5), ("blue", 4.5), ("orange", 4.5)):
            a, b = sorted((luminance(colours[name]), luminance(colours["panel"])), reverse=True)
            assert (a + 0.05) / (b + 0.05) >= least, (name, colours[name])  # WCAG 2.1's contrast


def test_photos_in_the_report_have_no_metadata(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "d", count=8)
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(
            encoded(Image.open(path).convert("RGB"), exif=exif.tobytes(), comment=b"SECRETCOMMENT")
        )
    made = train(folder, tmp_path / "m.onnx", fixed={"inner": (), "epochs": 3})
    assert made.report is not None
    for data in checked(made.report).photos:
        image = Image.open(io.BytesIO(data))
        assert (
            not image.getexif()
            and "comment" not in image.info
            and b"SECRET" not in data
            and max(image.size) <= 232
        )


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "$x_{1}$ & {{ 7*7 }}",
    "Jäckchen \u202e漢字 \"q\" 'q'",
    "n" * 300,
)


def test_untrusted_names_are_escaped(tmp_path: Path) -> None:
    rows = ["path,label"]
    for number, label in enumerate(HOSTILE):
        for i in range(9):
            name = f"{number}-{i} <b onclick=x>&amp;'.jpg" if i else f"{number}{'long' * 50}.jpg"
            (tmp_path / name).write_bytes(
                encoded(picture(("disc", "box", "cross", "disc")[number], 100 * number + i))
            )
            quoted = label.replace('"', '""')
            rows.append(f'"{name}","{quoted}"')
    (tmp_path / "bad <script>.jpg").write_bytes(b"")
    rows.append(f'"bad <script>.jpg","{HOSTILE[0]}"')
    (tmp_path / "data.csv").write_text("\n".join(rows), encoding="utf-8")
    made = train(tmp_path / "data.csv", tmp_path / "m <i>$1$</i>.onnx", fixed={"epochs": 3})
    assert made.report is not None
    page = checked(made.report)
    assert not page.tags & {"i-dont-exist", "script", "iframe"} and "onerror" not in {
        name for _, name, _ in page.attributes
    }
    for label in HOSTILE[:3]:
        assert label in page.text, label
    assert "n" * 300 not in page.text and "n" * 300 in page.of("title") and "…" in page.text, (
        "cut, with the whole in its title"
    )
    assert "49" not in re.findall(r"& (\S+)", page.text)
    card = render(content_of(made), "markdown")
    assert not re.search(r"(?<!\\)<", card) and r"\<img src=x" in card and r"\$x\_\{1\}\$" in card
    assert json.loads(render(content_of(made), "json"))["info"]["classes"] == sorted(HOSTILE)


def test_a_thousand_test_photos_and_a_hundred_classes_stay_small_and_readable(
    result: TrainResult, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    paths = []
    for number in range(40):  # noise is the worst that JPEG can meet
        paths.append(tmp_path / f"{number}.jpg")
        Image.fromarray(random.integers(0, 256, (300, 400, 3), np.uint8)).save(
            paths[-1], quality=90
        )
    for count in (3, 100):
        classes = (
            result.info.classes if count == 3 else tuple(f"Class number {i}" for i in range(count))
        )
        labels = random.integers(0, count, 1000)
        rows = random.dirichlet(np.full(count, 0.05), 1000)
        scores = score(labels, rows, classes, 0.6)
        answers = Answers.of(((paths[i % 40], f"photo {i}") for i in range(1000)), labels, rows)
        info = replace(result.info, classes=classes)
        content = content_of(
            result, info=info, scores={"test": scores}, answers=answers, dataset=None
        )
        (tmp_path / "big.html").write_text(render(content, "html"))
        page = checked(tmp_path / "big.html")
        assert len(page.html.encode()) < 5_000_000 and len(page.photos) >= 40
        assert (
            page.html.count('<th scope="row">') == 2 * count
            and page.html.count('<th scope="col">') == count
        )
        cells = [
            int(cell) for cell in re.findall(r'<td class="[rw]\d+"[^>]*>(\d+)</td>', page.html)
        ]
        assert sum(cells) == 1000


@pytest.mark.parametrize("photos", [1, 2, 30])
def test_unusual_results_have_a_page(result: TrainResult, tmp_path: Path, photos: int) -> None:
    """Few photos, all answers alike and unsure, many configurations, one failed, one epoch."""
    labels, rows = np.zeros(photos, int), np.tile([0.9, 0.06, 0.04], (photos, 1))
    epoch = EpochLog(1, 1e-3, 1.0, 0.5, 1.1, 0.5)
    assert result.fit is not None and result.search is not None
    best = replace(result.fit, history=(epoch,), best_epoch=1)
    trial = result.search.trials[0]
    trials = [
        replace(trial, settings=replace(trial.settings, learning_rate=i / 1000))
        for i in range(1, 50 + photos)
    ]
    failed = replace(
        trial, validation_loss=math.nan, validation_accuracy=math.nan, failure="diverged <b>"
    )
    content = content_of(
        result,
        scores={"test": score(labels, rows, result.info.classes, 0.95)},
        answers=Answers.of(((tmp_path / str(i), str(i)) for i in range(photos)), labels, rows),
        search=replace(result.search, best=best, members=(best,), trials=(failed, *trials)),
        dataset=None,
    )
    (tmp_path / "odd.html").write_text(render(content, "html"))
    page = checked(tmp_path / "odd.html")
    assert "No mistakes." in page.text and page.html.count("<svg") == 5
    assert (
        "failed: diverged <b>" if photos < 30 else "and 20 more; the JSON report lists all"
    ) in page.text
    assert (
        render(content, "markdown")
        and json.loads(render(content, "json"))["scores"]["test"]["sure_accuracy"] is None
    )


def test_two_classes_and_a_backbone_without_a_map(tmp_path: Path) -> None:
    onnx.save(tiny(with_map=False, pool="GlobalMaxPool"), tmp_path / "max.onnx")
    draw_dataset(tmp_path / "d", ("disc", "box"), count=12)
    made = train(
        tmp_path / "d",
        tmp_path / "m.onnx",
        backbone=tmp_path / "max.onnx",
        fixed={"inner": (), "epochs": 3},
    )
    assert made.report is not None, made.report_error
    page = checked(made.report)
    assert (
        not Classifier(made.model).has_heatmaps
        and "has no feature map" in page.text
        and page.photos
    )


def test_a_removed_photo_is_reported(result: TrainResult, tmp_path: Path) -> None:
    answers = content_of(result).answers
    assert answers is not None
    gone = replace(answers, paths=tuple(tmp_path / path.name for path in answers.paths))
    (tmp_path / "gone.html").write_text(render(content_of(result, answers=gone), "html"))
    assert "The photo can no longer be read." in checked(tmp_path / "gone.html").text


# --- the numbers ---


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
    ], "equals are not told apart"


def test_mistakes_are_the_surest_and_hits_the_least_sure(result: TrainResult) -> None:
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


# --- formats, paths, failures ---


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


def test_a_failed_report_does_not_cost_the_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird.report import page

    def broken(*_: object) -> str:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(page, "page", broken)
        made = train(shapes, tmp_path / "m.onnx", fixed={"inner": (), "epochs": 3})
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
        )
        assert json.loads(done.stdout)["report"] is None and (tmp_path / "n.onnx").exists()
        assert done.stderr.startswith(
            "tailorbird: warning: the report could not be written: /dev/full"
        )


def test_bad_report_options_are_refused_before_training(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for options, message in [
        ({"report": tmp_path / "folder"}, "is a folder; give the name of a file"),
        ({"report": tmp_path / "m.onnx"}, "give a name such as shop.report.html"),
        ({"report_format": "pdf"}, "the report's format is 'pdf'"),
    ]:
        with pytest.raises(SettingsError, match=message):
            train(shapes, tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
    done = run(
        "train", shapes, "-o", tmp_path / "m.onnx", "--report", "a.html", "--no-report", code=2
    )
    assert (
        "--report and --no-report were both given" in done.stderr
        and not (tmp_path / "m.onnx").exists()
    )


def test_the_commands_say_where_the_report_is(shapes: Path, tmp_path: Path) -> None:
    quick = ("--inner", 0, "--epochs", 3)
    done = run("train", shapes, "-o", tmp_path / "m.onnx", *quick, "--format", "markdown")
    assert f"Report: {tmp_path / 'm.report.md'}" in done.stdout and (
        tmp_path / "m.report.md"
    ).read_text().startswith("---\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.report.md"]
    done = run("evaluate", tmp_path / "m.onnx", shapes, "--json")
    assert json.loads(done.stdout)["report"] == str(tmp_path / "m.evaluation.html")
    page = checked(tmp_path / "m.evaluation.html")
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


# --- evaluate reads each file once ---


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
    found = evaluate(result.model, folder)
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


def test_suspect_labels_are_a_contact_sheet_in_the_report(tmp_path: Path) -> None:
    labels = ("[red]disc", "<b>box")
    photos = draw_dataset(tmp_path / "photos", labels, count=30)
    for number, (label, shown) in enumerate(zip(labels, reversed(labels), strict=True)):
        picture(shown, 900 + number).save(photos / label / f"moved-{number}.png")
    result = train(photos, tmp_path / "model.onnx", judge_labels=True)
    assert result.suspects is not None and result.report is not None
    found = {suspect.sample.name for suspect in result.suspects.reported}
    assert found >= {"[red]disc/moved-0.png", "<b>box/moved-1.png"}
    page = result.report.read_text()
    sheet = page.partition('id="suspects"')[2].partition('class="sheet"')[0]
    assert (
        f"{len(result.suspects.reported)} of {len(result.suspects.ranked)} are probably wrong"
        in sheet
    )
    assert sheet.count("<img ") == len(result.suspects.reported[:36])
    assert (
        "moved-0.png" in sheet
        and "moved-1.png" in sheet
        and "&lt;b&gt;box" in sheet
        and "<b>box" not in page
    )
    assert json.loads(json.dumps(result.as_dict()))["suspects"]["judged"] == 62
    assert train(photos, tmp_path / "plain.onnx").suspects is None


def test_scores_of_an_older_file_are_shown_without_what_it_lacks(result: TrainResult) -> None:
    stored = result.test.as_dict()
    older = Scores.from_dict({name: stored[name] for name in ("n", "accuracy", "classes")})
    content = Content("model", result.model, result.info, "test", {"test": older})
    for form in FORMATS:
        text = render(content, form)
        assert "top-3 accuracy" not in text
    assert f"{older.accuracy:.1%}" in Page(render(content, "html")).text
