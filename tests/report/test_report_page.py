"""The page of a report: self-contained, with the numbers of the JSON and escaped names."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from support.data import draw_dataset, encoded, picture
from support.report_pages import (
    Page,
    content_of,
    lookup,
    self_contained_page,
)
from support.tiny_backbone import tiny
from tailorbird import evaluation
from tailorbird.head import EpochLog
from tailorbird.metrics.scores import Answers, Scores, score
from tailorbird.model import Classifier
from tailorbird.report import FORMATS, Content, render
from tailorbird.report.numbers import numbers
from tailorbird.training import TrainResult, train


def test_train_writes_a_self_contained_page(result: TrainResult) -> None:
    assert (
        result.report == result.model.with_name("shapes.report.html")
        and result.report_error is None
    )
    assert result.as_dict()["report"] == str(result.report) and result.seconds["report"] > 0
    page = self_contained_page(result.report)
    for words in ("Scores", "Mistakes", "Confusion matrix", "Calibration and confidence",
                  "All configurations", "Findings of the scan", "Model card", "Limits",
                  result.dataset.fingerprint, "Apache-2.0", "pocket",
                  result.threshold.sentence()):  # fmt: skip
        assert words in page.text, words
    assert page.html.count("<svg") == 5 and len(page.photos) > 18
    assert len(page.html) < 2_000_000


def test_every_number_on_the_page_equals_that_of_the_json(result: TrainResult) -> None:
    assert result.report is not None
    page = self_contained_page(result.report)
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


def test_charts_use_the_colours_of_the_page(result: TrainResult) -> None:
    assert result.report is not None
    html = result.report.read_text()
    for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", chart), (
            "no fixed colour, which could be invisible on a light or dark background"
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


def test_text_and_lines_have_enough_contrast_in_both_colour_schemes() -> None:
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
    made = train(folder, tmp_path / "m.onnx", fixed={"inner": (), "epochs": 3}, backbone="pocket")
    assert made.report is not None
    for data in self_contained_page(made.report).photos:
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
    made = train(
        tmp_path / "data.csv",
        tmp_path / "m <i>$1$</i>.onnx",
        fixed={"epochs": 3},
        backbone="pocket",
    )
    assert made.report is not None
    page = self_contained_page(made.report)
    assert not page.tags & {"i-dont-exist", "script", "iframe"} and "onerror" not in {
        name for _, name, _ in page.attributes
    }
    for label in HOSTILE[:3]:
        assert label in page.text, label
    assert "n" * 300 not in page.text and "n" * 300 in page.of("title") and "…" in page.text, (
        "shortened, with the full text in its title"
    )
    assert "49" not in re.findall(r"& (\S+)", page.text)
    card = render(content_of(made), "markdown")
    assert not re.search(r"(?<!\\)<", card) and r"\<img src=x" in card and r"\$x\_\{1\}\$" in card
    assert json.loads(render(content_of(made), "json"))["info"]["classes"] == sorted(HOSTILE)


def test_a_report_of_a_thousand_photos_and_a_hundred_classes_stays_small(
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
        page = self_contained_page(tmp_path / "big.html")
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
    """Few photos, equal and unsure predictions, many configurations, one failed, one epoch."""
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
    page = self_contained_page(tmp_path / "odd.html")
    assert "No mistakes." in page.text and page.html.count("<svg") == 5
    assert (
        "failed: diverged <b>" if photos < 30 else "and 20 more; the JSON report lists all"
    ) in page.text
    assert (
        render(content, "markdown")
        and json.loads(render(content, "json"))["scores"]["test"]["sure_accuracy"] is None
    )


def test_a_report_of_two_classes_without_heat_maps(tmp_path: Path) -> None:
    onnx.save(tiny(with_map=False, pool="GlobalMaxPool"), tmp_path / "max.onnx")
    draw_dataset(tmp_path / "d", ("disc", "box"), count=12)
    made = train(
        tmp_path / "d",
        tmp_path / "m.onnx",
        backbone=tmp_path / "max.onnx",
        fixed={"inner": (), "epochs": 3},
    )
    assert made.report is not None, made.report_error
    page = self_contained_page(made.report)
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
    assert "The photo can no longer be read." in self_contained_page(tmp_path / "gone.html").text


def test_suspect_labels_are_a_contact_sheet_in_the_report(tmp_path: Path) -> None:
    labels = ("[red]disc", "<b>box")
    photos = draw_dataset(tmp_path / "photos", labels, count=30)
    for number, (label, shown) in enumerate(zip(labels, reversed(labels), strict=True)):
        picture(shown, 900 + number).save(photos / label / f"moved-{number}.png")
    result = train(photos, tmp_path / "model.onnx", judge_labels=True, backbone="pocket")
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
    assert train(photos, tmp_path / "plain.onnx", backbone="pocket").suspects is None


def test_scores_of_an_older_model_file_are_shown_without_missing_fields(
    result: TrainResult,
) -> None:
    stored = result.test.as_dict()
    older = Scores.from_dict({name: stored[name] for name in ("n", "accuracy", "classes")})
    content = Content("model", result.model, result.info, "test", {"test": older})
    for form in FORMATS:
        text = render(content, form)
        assert "top-3 accuracy" not in text
    assert f"{older.accuracy:.1%}" in Page(render(content, "html")).text


def test_few_photos_say_so_in_place_of_the_accuracy(result: TrainResult) -> None:
    assert result.test.too_few and result.report is not None
    text = self_contained_page(result.report).text
    low, high = result.test.interval
    assert f"{low:.0%} to {high:.0%}" in text and "photos are too few to say more" in text
    answered = result.test.answered()
    assert answered is not None and f"On the test photos it {answered}." in text
