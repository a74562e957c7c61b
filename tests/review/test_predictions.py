"""Reviews of a model's guesses about unlabelled photos: unsure ones first."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from support.cli import run
from support.data import picture
from support.review_decisions import decide
from tailorbird.dataset import scan
from tailorbird.errors import DatasetError
from tailorbird.review import open_review
from tailorbird.review.predictions import is_predictions, read_predictions

HEAD = "path,label,probability,unsure,label2,probability2,label3,probability3,error\n"
GUESSES = [
    ("new/a.jpg", "box", 0.61, "true", "disc"),
    ("new/b.jpg", "disc", 0.99, "false", "box"),
    ("new/c.jpg", "cross", 0.44, "true", "box"),
    ("new/d e ü.jpg", "box", 0.97, "false", "cross"),
    ("new/=e.jpg", "disc", 0.5, "true", "cross"),
]


def write(folder: Path) -> Path:
    """Draw unlabelled photos, and write guesses about them as `predict --csv` does."""
    (folder / "new").mkdir()
    lines = [HEAD]
    for number, (path, label, p, unsure, second) in enumerate(GUESSES):
        picture(label, 70 + number).save(folder / path)
        lines.append(f"{path},{label},{p:.6f},{unsure},{second},{(1 - p) / 2:.6f},x,0,\n")
    lines.append("new/broken.jpg,,,,,,,,the file is empty\n")
    guesses = folder / "guesses.csv"
    guesses.write_text("".join(lines), encoding="utf-8")
    return guesses


def test_unsure_guesses_come_first_the_least_probable_first(tmp_path: Path) -> None:
    review = open_review(write(tmp_path), find_suspects=False)
    assert [item.kinds for item in review.items] == [("unsure",)] * 3
    names = [review.dataset.samples[item.photos[0]].path.name for item in review.items]
    assert names == ["c.jpg", "=e.jpg", "a.jpg"]
    assert review.items[0].message == "not sure: cross (44.0%) or box (28.0%)"
    assert review.notes[-1] == (
        "predictions of 5 of 5 photos; unsure ones come first; 1 photo could not be predicted"
    )
    decide(review, "new/c.jpg", "relabel", "box")
    decide(review, "new/a.jpg", "keep")
    manifest = tmp_path / "guesses.reviewed.csv"
    labels = {sample.path.name: sample.label for sample in scan(manifest).samples}
    assert labels == {
        "a.jpg": "box", "b.jpg": "disc", "c.jpg": "box", "d e ü.jpg": "box", "=e.jpg": "disc"
    }  # fmt: skip
    again = open_review(manifest, predictions=tmp_path / "guesses.csv", find_suspects=False)
    counts = again.counts()
    assert (counts.items, counts.done, counts.keep, counts.relabel) == (3, 2, 1, 1)


def test_sorted_photos_are_matched_by_name_and_contradictions_follow(tmp_path: Path) -> None:
    guesses = write(tmp_path)
    folders = tmp_path / "sorted"
    for path, label, *_ in GUESSES:
        kept = "disc" if path == "new/d e ü.jpg" else label
        (folders / kept).mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / path, folders / kept)
    review = open_review(folders, predictions=guesses, find_suspects=False)
    found = [(item.kinds[0], review.dataset.samples[item.photos[0]].name) for item in review.items]
    assert found == [
        ("unsure", "cross/c.jpg"),
        ("unsure", "disc/=e.jpg"),
        ("unsure", "box/a.jpg"),
        ("suspect-label", "disc/d e ü.jpg"),
    ]
    assert review.items[3].proposal == "Relabel as box"


def test_photos_of_one_name_in_two_folders_are_matched_by_place_only(tmp_path: Path) -> None:
    guesses = write(tmp_path)
    for label in ("box", "disc"):
        (tmp_path / "other" / label).mkdir(parents=True)
        picture(label, 3).save(tmp_path / "other" / label / "a.jpg")
    told = read_predictions(guesses)
    assert told.failed == 1 and not told.of(scan(tmp_path / "other").samples)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nnew/a.jpg,box\n", "is not a CSV of predictions; write one with"),
        (HEAD + "new/a.jpg,box,much,true,disc,0.1,x,0,\n", "the row of new/a.jpg is not a pred"),
        (HEAD + "new/a.jpg,box,0.5,perhaps,disc,0.1,x,0,\n", "the row of new/a.jpg is not a pred"),
    ],
)
def test_other_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    guesses = write(tmp_path)
    (tmp_path / "other.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=said):
        open_review(guesses, predictions=tmp_path / "other.csv", find_suspects=False)
    assert not is_predictions(tmp_path)


def test_the_commands_of_the_chapter_work_together(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predict, review with unsure first, train; and the recipe that sorts into class folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    for number in range(12):
        for label in ("disc", "box", "cross"):
            picture(label, 300 + number, (24, 20)).resize((96, 80)).save(f"new/{label}{number}.jpg")
    (tmp_path / "new" / "empty.jpg").touch()
    done = run("predict", trained, "new", "--csv", code=3)
    (tmp_path / "guesses.csv").write_text(done.stdout)
    told = list(csv.DictReader(done.stdout.splitlines()))
    unsure = sorted(
        (row for row in told if row["unsure"] == "true"),
        key=lambda row: (float(row["probability"]), row["path"]),
    )
    review = open_review(tmp_path / "guesses.csv", backbone="pocket")
    first = [review.dataset.samples[item.photos[0]].name for item in review.items][: len(unsure)]
    assert first == [row["path"] for row in unsure], "before every suspect label"
    assert all((item.kinds[0] == "unsure") == (i < len(unsure)) for i, item in
               enumerate(review.items))  # fmt: skip
    (root,) = (p for p in Path(__file__).resolve().parents if (p / "docs").is_dir())
    text = (root / "docs" / "unlabelled.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(recipe, "the recipe", "exec"), {})
    copied = sorted(path.name for path in (tmp_path / "photos").rglob("*.jpg"))
    assert copied == sorted(Path(row["path"]).name for row in told if row["label"])
    labels = {Path(row["path"]).name: row["label"] for row in told}
    assert all(path.parent.name == labels[path.name] for path in tmp_path.glob("photos/*/*.jpg"))
