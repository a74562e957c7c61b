"""Corrections as training data: what joins, what is left out, and that it helps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw

import tailorbird
from support.cli import POCKET, run
from support.data import MakeDataset, draw_dataset, encoded, picture
from tailorbird import onnx_files
from tailorbird.corrections import (
    NONE_OF_THESE,
    Corrections,
    Joined,
    export,
    join,
    labelled,
    open_store,
)
from tailorbird.dataset import Dataset, clean, scan, split
from tailorbird.errors import SettingsError
from tailorbird.model.metadata import KEY
from tailorbird.training import train

QUICK = {"inner": (), "epochs": 15}


def correct(
    store: Corrections, data: bytes, answer: str, predicted: str = "box", receipt: str | None = None
) -> None:
    digest = hashlib.sha256(data).hexdigest()
    store.add(
        sha256=digest,
        predicted=predicted,
        probability=0.6,
        top=[(predicted, 0.6)],
        answer=answer,
        model="shapes",
        model_sha256="0" * 64,
        receipt=receipt or os.urandom(8).hex(),
        photo=data,
    )


def ring(seed: int) -> bytes:
    """A confusing new kind of disc: a thin bright ring with a cross inside, on black."""
    random = np.random.default_rng([77, seed])
    image = Image.new("RGB", (96, 80), tuple(int(v) for v in random.integers(0, 30, 3)))
    draw = ImageDraw.Draw(image)
    side = random.uniform(35, 60)
    left, top = random.uniform(0, 96 - side), random.uniform(0, 80 - side)
    colour = tuple(int(v) for v in random.integers(170, 256, 3))
    draw.ellipse((left, top, left + side, top + side), outline=colour, width=4)
    draw.line((left, top, left + side, top + side), fill=colour, width=4)
    draw.line((left, top + side, left + side, top), fill=colour, width=4)
    return encoded(image, "JPEG", quality=92)


def prepared(folder: Path) -> Dataset:
    return clean(split(scan(folder)))[0]


def held_out(dataset: Dataset) -> set[tuple[str, str, str | None]]:
    return {(s.digest, s.label, s.split) for s in dataset.samples if s.split != "train"}


def test_corrections_raise_the_accuracy_on_such_photos(shapes: Path, tmp_path: Path) -> None:
    before = train(shapes, tmp_path / "before.onnx", backbone="pocket")
    new = [ring(seed) for seed in range(60)]
    classifier = tailorbird.load(tmp_path / "before.onnx")
    answers = [classifier.predict(data).label for data in new]
    wrong = np.mean([answer != "disc" for answer in answers[40:]])
    assert wrong >= 0.5, "they must confuse the model for this test to say anything"
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        for data, answer in zip(new[:40], answers, strict=False):
            correct(store, data, "disc", answer)
    after = train(
        shapes, tmp_path / "after.onnx", corrections=tmp_path / "shop.db", backbone="pocket"
    )
    better = tailorbird.load(tmp_path / "after.onnx")
    right = np.mean([better.predict(data).label == "disc" for data in new[40:]])
    assert right >= 0.8 and right > 1 - wrong
    assert after.corrections is not None and after.corrections.used == 40
    assert held_out(after.dataset) == held_out(before.dataset), "the scores can be compared"
    assert after.test.n == before.test.n and after.test.accuracy >= before.test.accuracy - 0.15
    said = json.loads(onnx_files.metadata(onnx.load(after.model))[KEY])
    assert (
        said["data"]["corrections"]["used"] == 40
        and said["data"]["splits"]["train"]["disc"] == before.dataset.splits["train"]["disc"] + 40
    )
    assert (
        after.as_dict()["corrections"]["left_out"] == 0 and before.as_dict()["corrections"] is None
    )
    again = train(
        shapes, tmp_path / "again.onnx", corrections=tmp_path / "shop.db", backbone="pocket"
    )
    assert again.embedded == 0, "their features are kept like all others"


@pytest.fixture
def scene(make_dataset: MakeDataset, tmp_path: Path) -> tuple[Dataset, Corrections]:
    dataset = prepared(make_dataset(count=12))
    return dataset, open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos")


def joined(dataset: Dataset, store: Corrections) -> tuple[Joined, dict[str, str]]:
    """The result, and the reasons by the photo's SHA-256 or, for photos of the dataset, by their
    name.
    """
    result = join(dataset, labelled(store))
    assert held_out(result.dataset) == held_out(dataset)
    assert [s.name for s in result.dataset.samples] == sorted(
        s.name for s in result.dataset.samples
    )
    return result, {
        Path(name).stem if "photos/" in name else name: reason for name, reason in result.left_out
    }


def test_what_is_held_out_stays_unseen(scene: tuple[Dataset, Corrections]) -> None:
    dataset, store = scene
    test, validation = dataset.of("test")[0], dataset.of("validation")[0]
    copies = [
        test.path.read_bytes(),
        encoded(Image.open(test.path).resize((192, 160)), "JPEG", quality=80),
        encoded(Image.open(validation.path).resize((200, 166)), "PNG"),
    ]
    for data in copies:
        correct(store, data, test.label if data != copies[2] else validation.label)
    contradicted = dataset.of("test")[-1]
    correct(store, contradicted.path.read_bytes(), "box" if contradicted.label != "box" else "disc")
    fresh = encoded(picture("cross", 999), "PNG")
    correct(store, fresh, "cross")
    result, reasons = joined(dataset, store)
    digests = [hashlib.sha256(data).hexdigest() for data in copies]
    assert result.used == 1 and len(result.left_out) == 4 and result.replaced == 0
    assert reasons[digests[0]] == f"identical to {test.name}, which is in test"
    assert reasons[digests[1]] == f"a copy of {test.name}, which is in test"
    assert reasons[digests[2]] == f"a copy of {validation.name}, which is in validation"
    assert reasons[contradicted.digest].startswith(
        "an identical photo is labelled " + contradicted.label
    )
    assert hashlib.sha256(fresh).hexdigest() in {s.digest for s in result.dataset.of("train")}


def test_a_correction_wins_over_the_datasets_own_label(scene: tuple[Dataset, Corrections]) -> None:
    dataset, store = scene
    wrong = next(s for s in dataset.of("train") if s.label == "disc")
    agreed = next(s for s in dataset.of("train") if s.label == "cross")
    correct(store, wrong.path.read_bytes(), "box")
    correct(store, agreed.path.read_bytes(), "cross")
    result, reasons = joined(dataset, store)
    assert reasons == {
        wrong.name: "corrected to box; it was labelled disc",
        agreed.digest: f"identical to {agreed.name}, which is used",
    }
    assert (result.used, result.replaced) == (1, 1)
    assert [s.label for s in result.dataset.samples if s.digest == wrong.digest] == ["box"]
    assert len(result.dataset) == len(dataset)
    assert "1 photo of the dataset replaced, with another label" in result.sentence()


def test_a_new_class_needs_enough_photos(
    scene: tuple[Dataset, Corrections], tmp_path: Path
) -> None:
    dataset, store = scene
    for number in range(9):
        correct(store, ring(number), "ring")
    result, reasons = joined(dataset, store)
    assert result.used == 0 and result.new_classes == () and len(reasons) == 9
    assert set(reasons.values()) == {
        "no training photo is labelled ring, and a new class needs at least 10 corrected photos; "
        "there are 9"
    }
    assert result.as_dict()["too_few"] == {"ring": 9}
    assert "new classes with fewer than 10 photos left out: ring (9)" in result.sentence()
    for number in range(20, 32):
        correct(store, ring(number), NONE_OF_THESE)
    correct(store, ring(9), "ring")
    result, reasons = joined(dataset, store)
    assert result.used == 10 and result.new_classes == ("ring",) and not reasons
    assert len(result.none) == 12 and result.too_few == ()
    assert "12 photos that people say show none of the classes teach what" in result.sentence()
    assert not {"none of these", NONE_OF_THESE} & set(result.dataset.classes)
    assert "ring has no photo in validation and test" in {
        f.message for f in result.dataset.findings
    }
    folder = dataset.root
    done = train(
        folder,
        tmp_path / "m.onnx",
        corrections=tmp_path / "shop.db",
        fixed=QUICK,
        backbone="pocket",
    )
    assert done.info.classes == ("box", "cross", "disc", "ring") and done.test.n == len(
        dataset.of("test")
    )


def test_photos_of_none_of_these_are_refused_after_training(shapes: Path, tmp_path: Path) -> None:
    """Rings, which the model takes for discs: 30 answers about them, then 40 new rings."""
    before = train(shapes, tmp_path / "before.onnx", backbone="pocket")
    new = [ring(seed) for seed in range(70)]
    first = tailorbird.load(before.model)
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        for data in new[:30]:
            correct(store, data, NONE_OF_THESE, first.predict(data).label)
    after = train(
        shapes, tmp_path / "after.onnx", corrections=tmp_path / "shop.db", backbone="pocket"
    )
    taught = tailorbird.load(after.model)
    refused = [
        np.mean([model.predict(data).unfamiliar for data in new[30:]]) for model in (first, taught)
    ]
    assert refused[1] >= 0.9 and refused[1] >= refused[0]
    assert after.corrections is not None and len(after.corrections.none) == 30
    assert after.info.classes == before.info.classes, "it is no class"
    assert held_out(after.dataset) == held_out(before.dataset)
    assert after.test.accuracy == before.test.accuracy, "the answers of the head do not change"
    assert after.info.unfamiliarity["none_of_these"] == 30
    usual = [taught.predict(encoded(picture("box", 4000 + seed))) for seed in range(40)]
    assert np.mean([each.unfamiliar for each in usual]) <= 0.2


def test_a_photo_of_the_dataset_stays_in_its_class_whatever_people_say(
    scene: tuple[Dataset, Corrections],
) -> None:
    dataset, store = scene
    trained, tested = (
        next(sample for sample in dataset.of(part) if sample.label == "box")
        for part in ("train", "test")
    )
    correct(store, trained.path.read_bytes(), NONE_OF_THESE)
    correct(store, tested.path.read_bytes(), NONE_OF_THESE)
    result, reasons = joined(dataset, store)
    assert result.none == () and result.replaced == 0
    assert result.dataset.counts == dataset.counts
    assert any(
        "said to be none of the classes, but identical to" in why for why in reasons.values()
    )
    assert len(reasons) == 2


def test_the_last_training_photo_of_a_class_stays(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("validation", 3), ("test", 3)):
        draw_dataset(tmp_path / "d" / name, count=count, seed=len(name))
    for extra in sorted((tmp_path / "d" / "train" / "box").iterdir())[1:]:
        extra.unlink()
    dataset = prepared(tmp_path / "d")
    (last,) = (s for s in dataset.of("train") if s.label == "box")
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        correct(store, last.path.read_bytes(), "disc")
        result, reasons = joined(dataset, store)
        assert (
            reasons == {last.digest: f"identical to {last.name}, the last training photo of box"}
            and result.used == 0
        )
        correct(store, encoded(picture("box", 700)), "box")
        result, reasons = joined(dataset, store)
        assert result.used == 2 and list(reasons) == [last.name], "with another box it may go"


def test_missing_and_damaged_photos_are_named(
    scene: tuple[Dataset, Corrections], tmp_path: Path
) -> None:
    dataset, store = scene
    data = [encoded(picture("disc", 800 + n), "PNG") for n in range(3)]
    for photo in data:
        correct(store, photo, "disc")
    gone, damaged, fine = (hashlib.sha256(photo).hexdigest() for photo in data)
    (tmp_path / "shop.photos" / gone[:2] / f"{gone}.png").unlink()
    (tmp_path / "shop.photos" / damaged[:2] / f"{damaged}.png").write_bytes(data[1][:-200])
    result, reasons = joined(dataset, store)
    assert result.used == 1 and fine in {s.digest for s in result.dataset.of("train")}
    assert (
        reasons[gone] == "the file of this kept photo no longer exists"
        and "truncated or damaged" in reasons[damaged]
    )


def test_a_conflict_inside_the_dataset_is_settled_by_a_correction(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder = make_dataset(count=12)
    data = encoded(picture("disc", 850))
    for label in ("disc", "box"):
        (folder / label / "same.jpg").write_bytes(data)
    dataset = prepared(folder)
    assert hashlib.sha256(data).hexdigest() not in {s.digest for s in dataset.samples}
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        correct(store, data, "disc")
        assert joined(dataset, store)[0].used == 1


def test_the_command_says_what_became_of_them(shapes: Path, tmp_path: Path) -> None:
    database = tmp_path / "my shop ü.db"
    with open_store(str(database), photos=tmp_path / "my shop ü.photos") as store:
        for number in range(5):
            correct(store, ring(number), "disc")
        correct(store, ring(5), "ring", receipt="a")
        correct(store, ring(0), "disc", receipt="b")
        correct(store, ring(0), "cross", receipt="c")
        manifest = tmp_path / "split.csv"
    quick = ("--inner", "0", "--epochs", 8, "--learning-rate", "0.01")
    said = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--corrections",
        database,
        *quick,
        "-v",
        "--manifest",
        manifest,
        *POCKET,
    )
    line = (
        "Corrections: 5 photos added to the training photos, 1 left out; "
        "new classes with fewer than 10 photos left out: ring (1); "
        "1 photo with different answers, the newest counts"
    )
    assert line in said.stdout and "no training photo is labelled ring" in said.stdout
    assert len(scan(manifest).of("train")) == len(prepared(shapes).of("train")) + 5
    shutil.move(tmp_path / "my shop ü.photos", tmp_path / "elsewhere")
    found = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--corrections",
        database,
        *quick,
        "--json",
        "--corrections-photos",
        tmp_path / "elsewhere",
        *POCKET,
    )
    assert json.loads(found.stdout)["corrections"] == {
        "used": 5,
        "left_out": 1,
        "replaced": 0,
        "new_classes": [],
        "conflicts": 1,
        "without_photo": 0,
        "too_few": {"ring": 1},
        "none_of_these": 0,
    }
    said = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--corrections",
        tmp_path / "no.db",
        *POCKET,
        code=2,
    )
    assert "no.db does not exist" in said.stderr and "embed" not in said.stderr
    said = run(
        "train",
        shapes,
        "-o",
        tmp_path / "m.onnx",
        "--corrections-photos",
        tmp_path / "elsewhere",
        *POCKET,
        code=2,
    )
    assert "name the database too" in said.stderr


def test_no_kept_photo_is_no_failure_and_a_missing_folder_is(shapes: Path, tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db")) as store:
        correct(store, ring(0), "disc")
    result = train(
        shapes,
        tmp_path / "m.onnx",
        corrections=str(tmp_path / "shop.db"),
        fixed=QUICK,
        backbone="pocket",
    )
    assert (
        result.corrections is not None
        and result.corrections.used == 0
        and result.corrections.without_photo == 1
    )
    with pytest.raises(SettingsError, match="does not exist or is not a folder"):
        train(
            shapes,
            tmp_path / "m.onnx",
            corrections=tmp_path / "shop.db",
            corrections_photos=tmp_path / "none",
            backbone="pocket",
        )


def test_the_exported_csv_trains(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        for label in ("disc", "box"):
            for number in range(8):
                correct(store, encoded(picture(label, 900 + number)), label)
        export(store, tmp_path / "answers.csv")
    result = train(tmp_path / "answers.csv", tmp_path / "m.onnx", fixed=QUICK, backbone="pocket")
    assert result.info.classes == ("box", "disc") and sum(result.dataset.counts.values()) == 16
