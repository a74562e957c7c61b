"""Suspect labels: confident learning by hand, flipped labels on photos, and the command."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.cli import POCKET, lines, run
from support.data import CLOTHING, MOBILENET, MakeDataset, draw_dataset, needs_shared, picture
from support.progress import RecordedProgress
from tailorbird import label_errors
from tailorbird.dataset import Dataset, Finding, Sample, scan
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.label_errors import Suspects, confident, judge, suspects
from tailorbird.label_errors.crossfit import FOLDS, REPEATS, fold_numbers, out_of_fold
from tailorbird.label_errors.find import Suspect, tiles
from tailorbird.rendering import contact_sheets


def flip(labels: Sequence[str], share: float, seed: int) -> tuple[list[str], set[int]]:
    """The labels with a share of them moved to another class by chance, and which ones were."""
    random = np.random.default_rng(seed)
    classes = sorted(set(labels))
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False).tolist()
    noisy = list(labels)
    for i in chosen:
        noisy[i] = str(random.choice([label for label in classes if label != labels[i]]))
    return noisy, set(chosen)


def manifest(path: Path, photos: Sequence[tuple[Path, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *photos])
    return path


def found_early(result: Suspects, flipped: set[str], share: float) -> float:
    """The part of the flipped photos (by name) among the first `share` of the ranking."""
    first = {suspect.sample.name for suspect in result.ranked[: round(share * len(result.ranked))]}
    return len(first & flipped) / len(flipped)


# --- the published method -------------------------------------------------------------------------

PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.7, 0.2, 0.1],
        [0.2, 0.8, 0.0],
        [0.1, 0.8, 0.1],
        [0.3, 0.6, 0.1],
        [0.45, 0.05, 0.5],
        [0.6, 0.0, 0.4],
    ]
)
LABELS = np.array([0, 0, 0, 1, 1, 2, 2])


def test_confident_classes_and_reports_by_hand() -> None:
    # Mean probabilities of the labels: (0.9 + 0.7 + 0.2) / 3, (0.8 + 0.6) / 2, (0.5 + 0.4) / 2.
    assert confident.thresholds(PROBABILITIES, LABELS) == pytest.approx([0.6, 0.7, 0.45])
    # Photo 4 reaches no threshold; photo 6 reaches only the first; photo 5 only its own.
    assert confident.confident_classes(PROBABILITIES, LABELS).tolist() == [0, 0, 1, 1, -1, 2, 0]
    assert confident.most_probable_other(PROBABILITIES, LABELS).tolist() == [1, 1, 1, 0, 0, 0, 0]
    # Photos 2 and 6 are off the diagonal, but 0.8 is not ten times 0.2, nor 0.6 ten times 0.4.
    assert not confident.reported(PROBABILITIES, LABELS).any()
    sure = PROBABILITIES.copy()
    sure[2] = [0.05, 0.95, 0.0]
    assert confident.reported(sure, LABELS).tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
        False,
    ]


def test_a_photo_above_several_thresholds_counts_for_the_most_probable() -> None:
    probabilities = np.array([[0.45, 0.55], [0.4, 0.6], [0.5, 0.5], [0.45, 0.55]])
    labels = np.array([0, 0, 1, 1])  # thresholds 0.425 and 0.525: the first photo reaches both
    assert confident.confident_classes(probabilities, labels).tolist() == [1, 1, 0, 1]
    absent = confident.thresholds(probabilities, np.array([0, 0, 0, 0]))
    assert np.isinf(absent[1]), "nothing is ever counted for a class without photos"


# --- folds ----------------------------------------------------------------------------------------


def test_folds_keep_groups_whole_and_spread_classes() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [50, 20, 7, 2]).astype(np.int64)
    groups = np.arange(len(labels))
    groups[10:14] = 10
    groups[60] = 3  # a copy under another label
    numbers = fold_numbers(labels, groups, random)
    assert len(set(numbers[10:14].tolist())) == 1 and numbers[60] == numbers[3]
    own = groups == np.arange(len(labels))
    counts = [np.bincount(numbers[own & (labels == label)], minlength=FOLDS) for label in range(4)]
    assert (counts[0].max() - counts[0].min()) <= 4 and (counts[1].max() - counts[1].min()) <= 2
    assert counts[2].min() >= 1 and counts[3].max() == 1, (
        "a class of two is never held out as a whole"
    )
    again = fold_numbers(labels, groups, np.random.default_rng(0))
    other = fold_numbers(labels, groups, np.random.default_rng(1))
    assert (again == numbers).all() and (other != numbers).any()


def blobs(
    n: int = 60, classes: int = 3, seed: int = 0, apart: float = 2
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(0, 1, (classes, 16)) * apart
    return (centres[labels] + random.normal(0, 1, (n, 16))).astype(np.float32), labels.astype(
        np.int64
    )


def test_copies_with_the_same_wrong_label_are_held_out_together() -> None:
    features, labels = blobs()
    features[1], features[2] = features[0], features[0]
    labels[:3] = 1  # three copies of a picture of class 0
    together = np.array([0, 0, 0, *range(3, 60)])
    apart = np.arange(60)
    held = out_of_fold(features, labels, together, classes=3)[:3, 1].max()
    seen = out_of_fold(features, labels, apart, classes=3)[:3, 1].min()
    assert held < 0.15 < seen, (
        "each twin's label is judged without the others only when their group is held out together"
    )


def test_out_of_fold_is_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs()
    progress = RecordedProgress()
    monkeypatch.setenv("TAILORBIRD_THREADS", "1")
    one = out_of_fold(features, labels, range(60), classes=3, repeats=1, progress=progress)
    monkeypatch.setenv("TAILORBIRD_THREADS", "3")
    three = out_of_fold(features, labels, range(60), classes=3, repeats=1)
    assert (one == three).all() and progress.steps == [(i + 1, FOLDS) for i in range(FOLDS)]
    assert one.sum(axis=1) == pytest.approx(1)
    assert (out_of_fold(features, labels, range(60), classes=3, repeats=1, seed=1) != one).any()


# --- judging --------------------------------------------------------------------------------------


def samples(labels: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(
        Sample(Path(f"{i}.jpg"), label, None, f"{i:064x}", f"{i}.jpg")
        for i, label in enumerate(labels)
    )


def wrong_labels(result: Suspects) -> list[Finding]:
    """The findings about labels; the most distant photos are findings whatever their labels."""
    return [found for found in result.dataset.findings if found.kind == "suspect-label"]


def test_judge_ranks_flipped_labels_first_and_reports_them() -> None:
    features, labels = blobs(150, classes=3, seed=1, apart=4)
    noisy, wrong = flip([f"class {label}" for label in labels], 0.06, 0)
    result = judge(Dataset(Path(), samples(noisy)), features, backbone="blobs")
    assert [suspect.rank for suspect in result.ranked] == list(range(1, 151))
    scores = [suspect.score for suspect in result.ranked]
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0 and max(scores) <= 1
    assert {int(suspect.sample.path.stem) for suspect in result.ranked[:9]} == wrong
    assert {
        int(suspect.sample.path.stem) for suspect in result.reported
    } == wrong and result.agreement == 141 / 150
    worst = result.ranked[0]
    true = f"class {labels[int(worst.sample.path.stem)]}"
    assert worst.suggested == true != worst.label == worst.sample.label
    assert (
        worst.suggested_probability > 10 * worst.label_probability
        and worst.score == 1 - worst.label_probability
    )
    assert wrong_labels(result) == list(result.dataset.findings[:9])
    kinds = [finding.kind for finding in result.dataset.findings]
    first = result.dataset.findings[0]
    assert first.paths == (worst.sample.name,)
    assert first.message == (
        f"labelled {worst.label} ({worst.label_probability:.1%}), looks like {true} "
        f"({worst.suggested_probability:.1%})"
    )
    again = judge(result.dataset, features)
    assert [f.kind for f in again.dataset.findings] == kinds, "judging again replaces the findings"
    with pytest.raises(dataclasses.FrozenInstanceError):
        worst.rank = 2  # type: ignore[misc]
    with pytest.raises(SettingsError, match="7 rows of features for 150 photos"):
        judge(result.dataset, features[:7])


def test_clean_labels_are_not_suspected_and_two_classes_suffice() -> None:
    features, labels = blobs(160, classes=2, seed=2, apart=4)
    result = judge(Dataset(Path(), samples([str(label) for label in labels])), features)
    assert len(result.ranked) == 160 and result.reported == ()
    assert wrong_labels(result) == []
    noisy, wrong = flip([str(label) for label in labels], 0.05, 3)
    result = judge(Dataset(Path(), samples(noisy)), features)
    assert {int(suspect.sample.path.stem) for suspect in result.reported} == wrong


def test_classes_too_small_are_not_judged() -> None:
    features, labels = blobs(60, classes=3)
    names = np.array(["big", "large", "tiny"])[labels]
    kept = np.flatnonzero((names != "tiny") | (np.cumsum(names == "tiny") <= 3))
    dataset = Dataset(Path(), samples(names[kept].tolist()))
    result = judge(dataset, features[kept])
    assert {sample.label for sample in result.unjudged} == {"tiny"} and len(result.unjudged) == 3
    assert len(result.ranked) == 40 and not any(
        suspect.label == "tiny" for suspect in result.ranked
    )
    # Copies of one picture count once: five photos of it are one picture.
    copies = np.flatnonzero((names != "tiny") | (np.cumsum(names == "tiny") <= 5))
    groups = [0 if label == "tiny" else i + 1 for i, label in enumerate(names[copies].tolist())]
    one = judge(
        Dataset(Path(), samples(names[copies].tolist()), (), tuple(groups)), features[copies]
    )
    assert len(one.unjudged) == 5
    with pytest.raises(
        DatasetError, match=r"no class has 5 different pictures.*there are 0 3, 1 2"
    ):
        judge(Dataset(Path(), samples(["0", "1", "0", "1", "0"])), features[:5])
    with pytest.raises(DatasetError, match="have the single label 'a'"):
        judge(Dataset(Path(), samples(["a"] * 9)), features[:9])


# --- photos ---------------------------------------------------------------------------------------


def test_flipped_labels_among_drawn_photos(tmp_path: Path) -> None:
    drawn = scan(draw_dataset(tmp_path / "drawn", count=50))
    noisy, chosen = flip([sample.label for sample in drawn.samples], 0.05, 1)
    table = manifest(
        tmp_path / "noisy.csv",
        [(sample.path, label) for sample, label in zip(drawn.samples, noisy, strict=True)],
    )
    progress = RecordedProgress()
    result = suspects(table, progress=progress, backbone="pocket")
    flipped = {str(drawn.samples[i].path) for i in chosen}
    first = {
        str(suspect.sample.path) for suspect in result.ranked[: round(0.08 * len(result.ranked))]
    }
    assert len(first & flipped) >= 0.7 * len(flipped)
    assert progress.stages == ["embed", "labels"] and result.backbone == "pocket"
    with pytest.raises(SettingsError, match="seed is -1"):
        suspects(table, seed=-1, backbone="pocket")


@needs_shared
def test_flipped_labels_among_clothes(tmp_path: Path) -> None:
    """The figure asked for on 400 photos; benchmarks/suspects.py has it on all of them."""
    random = np.random.default_rng(0)
    photos = [
        (path, folder.name)
        for folder in sorted((CLOTHING / "train").iterdir())
        for path in random.choice(np.array(sorted(folder.iterdir())), 40, replace=False).tolist()
    ]
    noisy, chosen = flip([label for _, label in photos], 0.05, 0)
    table = manifest(
        tmp_path / "noisy.csv",
        [(path, label) for (path, _), label in zip(photos, noisy, strict=True)],
    )
    result = suspects(table, backbone=MOBILENET)
    names = {str(suspect.sample.path): suspect.sample.name for suspect in result.ranked}
    assert found_early(result, {names[str(photos[i][0])] for i in chosen}, 0.08) >= 0.7
    assert len(result.reported) <= 0.12 * len(photos)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos in folders with hostile names, two of them in the wrong folder."""
    folder = tmp_path_factory.mktemp("hostile") / "with space and ü"
    labels = ("[red]disc", "<b>box")
    draw_dataset(folder, labels, count=30)
    for number, (label, shown) in enumerate(zip(labels, reversed(labels), strict=True)):
        picture(shown, 900 + number).save(folder / label / f"wrong [bold]{number} <i>.png")
    return folder


def test_scan_suspects_as_a_process(mislabelled: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = run(
        "scan", mislabelled, "--suspects", "--json", "--contact-sheet", sheet, *POCKET, code=3
    )
    (found,) = lines(done)
    named = [finding for finding in found["findings"] if finding["kind"] == "suspect-label"]
    assert {finding["paths"][0] for finding in named} >= {
        "<b>box/wrong [bold]1 <i>.png",
        "[red]disc/wrong [bold]0 <i>.png",
    }
    judged = found["suspects"]
    assert (
        set(judged) == {"backbone", "judged", "agreement", "reported", "unjudged", "unfamiliar"}
        and judged["judged"] == 62
    )
    assert set(judged["reported"][0]) == {
        "path", "label", "suggested", "label_probability", "suggested_probability", "score", "rank",
    }  # fmt: skip
    assert [entry["path"] for entry in judged["reported"]] == [
        finding["paths"][0] for finding in named
    ]
    assert "contact sheet written" in done.stderr and "labels" in done.stderr
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 200
    text = run("scan", mislabelled, "--suspects", *POCKET, code=3).stdout
    assert "Labels: 62 judged with pocket" in text and "they agree with 9" in text
    assert (
        "labelled [red]disc (" in text
        and "looks like <b>box (" in text
        and "wrong [bold]0 <i>.png" in text
    )


def test_captions_name_both_classes_with_their_probabilities(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "a.jpg", "shirt", "train", "0" * 64, "shirt/a.jpg")
    (tile,) = tiles([Suspect(sample, "shirt", "hat", 0.002, 0.992, 0.998, 1)])
    assert tile.caption == ("1. labelled shirt (0.2%)", "looks like hat (99.2%)", "shirt/a.jpg")


def test_scan_without_suspects_judges_nothing(mislabelled: Path) -> None:
    (found,) = lines(run("scan", mislabelled, "--json"))
    assert "suspects" not in found and found["findings"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "pocket"], "--backbone without --suspects"),
        (["--contact-sheet", "a.png"], "--contact-sheet without --suspects"),
        (["--suspects", "--contact-sheet", "a.pdf"], "its name must end in .png, .jpg or .jpeg"),
        (["--suspects", "--backbone", "nosuch"], "nosuch"),
        (["--suspects", "--seed", "-1"], "seed is -1"),
    ],
)  # fmt: skip
def test_invalid_use_is_reported_in_one_line(shapes: Path, options: list[str], said: str) -> None:
    done = run("scan", shapes, *options, code=2)
    assert said in done.stderr and done.stdout == ""


def test_one_class_is_an_error(make_dataset: MakeDataset) -> None:
    folder = make_dataset(labels=("disc",), count=6)
    assert (
        "have the single label 'disc'"
        in run("scan", folder, "--suspects", "-q", *POCKET, code=2).stderr
    )


def test_ctrl_c_starts_no_further_fold(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "many", ("disc", "box"), count=20)
    environment = {
        **os.environ,
        "TAILORBIRD_CACHE": str(tmp_path / "cache"),
        "TAILORBIRD_THREADS": "2",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_FOLDS, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "fold\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    begun = int(output.splitlines()[-1])
    assert begun <= 4 < FOLDS * REPEATS, "two threads run two folds and have two more waiting"
    (done,) = lines(run("scan", folder, "--suspects", "--json", *POCKET))
    assert done["suspects"]["judged"] == 40


# The command with fits that wait in their first epoch until SIGINT has arrived. It prints "fold"
# when the first fit begins, and at the end the number of fits that have begun.
INTERRUPTED_FOLDS = """
import signal, sys, threading
from tailorbird.cli import main
from tailorbird.label_errors import crossfit
begun, lock, interrupted = [], threading.Lock(), threading.Event()
train_epoch = crossfit.train_epoch
def interrupt(*arguments):
    interrupted.set()
    signal.default_int_handler(*arguments)
def waiting(run, data, number):
    if number == 1:
        with lock:
            begun.append(run)
            if len(begun) == 1:
                print("fold", flush=True)
        interrupted.wait()
    return train_epoch(run, data, number)
signal.signal(signal.SIGINT, interrupt)
crossfit.train_epoch = waiting
sys.argv = ["tailorbird", "scan", sys.argv[1], "--suspects"]
try:
    main()
finally:
    print(len(begun))
"""


# --- contact sheets -------------------------------------------------------------------------------


def test_contact_sheet_shows_photos_and_skips_bad_ones(shapes: Path, tmp_path: Path) -> None:
    good = sorted((shapes / "disc").iterdir())[:6]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    tiles = [
        contact_sheets.Tile(path, (f"{path.name} <b>[red]" + "long " * 60, "größer → ñ"))
        for path in (*good, tmp_path / "broken.jpg")
    ]
    sheet = contact_sheets.contact_sheet(tiles, columns=4, side=100)
    assert sheet.mode == "RGB" and sheet.width == 4 * 110 + 10 and sheet.height > 2 * 100
    first = np.asarray(sheet.crop((10, 10, 110, 110)))
    assert first.std() > 10, "the photo is there"
    caption = np.asarray(sheet.crop((10, 112, 110, 128)))
    assert caption.min() < 120 and caption.max() == 255, "and so is its caption"
    assert (np.asarray(sheet.crop((110, 0, 119, sheet.height))) == 255).all(), (
        "no caption runs into the next column"
    )
    for name, kind in (("a.png", "PNG"), ("b ü.JPG", "JPEG")):
        contact_sheets.save_sheet(sheet, tmp_path / name)
        with Image.open(tmp_path / name) as saved:
            assert saved.format == kind and saved.size == sheet.size
    with pytest.raises(
        SettingsError, match=r"0 photos; it must have between 1 and 400; columns is 99.*side is 9;"
    ):
        contact_sheets.contact_sheet([], columns=99, side=9)
    with pytest.raises(SettingsError, match="must end in"):
        contact_sheets.save_sheet(sheet, tmp_path / "c.tiff")
    many = contact_sheets.contact_sheet([tiles[0]] * 49, side=100)
    assert 0.65 < many.width / many.height < 1.1 and many.width == 7 * 110 + 10


def test_tiles_of_suspects_are_limited(shapes: Path) -> None:
    dataset = scan(shapes)
    result = suspects(dataset, backbone="pocket")
    shown = label_errors.tiles(result.ranked, limit=3)
    assert len(shown) == 3 and shown[0].path == result.ranked[0].sample.path
    assert shown[0].caption[0].startswith("1. ") and "labelled" in shown[0].caption[0]
    assert json.dumps(result.as_dict(), allow_nan=False)
