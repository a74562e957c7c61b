"""Labelled photos, exports and deletion of corrections; the commands for them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from support.answers import add, photo
from support.cli import run
from tailorbird.corrections import (
    NONE_OF_THESE,
    Corrections,
    export,
    labelled,
    open_store,
)
from tailorbird.dataset import scan
from tailorbird.errors import (
    SettingsError,
)


def test_labelled_uses_the_newest_answer_for_each_photo(store: Corrections, tmp_path: Path) -> None:
    data = [photo(n) for n in range(20, 25)]
    add(store, data[0], "disc", receipt="a", photo=data[0])
    add(store, data[0], "cross", receipt="b")  # another visitor disagrees about the photo
    add(store, data[1], "cross", receipt="c", photo=data[1])
    add(store, data[1], "disc", receipt="c")  # the same receipt: not a conflict
    add(store, data[2], "disc", receipt="d", photo=data[2])
    add(store, data[3], "box", receipt="e")
    add(store, data[4], "box", receipt="f", photo=data[4])
    folder = tmp_path / "shop.photos"
    (gone,) = folder.rglob(hashlib.sha256(data[2]).hexdigest() + "*")
    gone.unlink()
    (folder / "README").write_text("not a photo")
    found = labelled(store)
    digests = {hashlib.sha256(bytes_).hexdigest(): n for n, bytes_ in enumerate(data)}
    assert {digests[p.row.sha256]: p.label for p in found.photos} == {
        0: "cross",
        1: "disc",
        4: "box",
    }
    assert all(p.path.is_file() and p.name.startswith("shop.photos/") for p in found.photos)
    assert [digests[name.rpartition("/")[2]] for name in found.missing] == [2]
    assert found.conflicts == 1 and found.without_photo == 1


def test_an_export_can_be_trained_on_and_everything_lists_all_answers(
    store: Corrections, tmp_path: Path
) -> None:
    data = [photo(n) for n in range(30, 33)]
    add(store, data[0], 'a "hat", size ü', photo=data[0])
    add(store, data[1], "disc", receipt="r", photo=data[1])
    add(store, data[1], "=1+1", receipt="r")
    add(store, data[2], "box")
    (tmp_path / "out").mkdir()
    done = export(store, tmp_path / "out" / "rows.csv")
    assert done.written == 2 and done.without_photo == 1 and done.missing == ()
    dataset = scan(tmp_path / "out" / "rows.csv")
    assert {sample.digest: sample.label for sample in dataset.samples} == {
        hashlib.sha256(data[0]).hexdigest(): 'a "hat", size ü',
        hashlib.sha256(data[1]).hexdigest(): "=1+1",
    }
    everything = export(store, tmp_path / "out" / "all.csv", everything=True)
    with (tmp_path / "out" / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert everything.written == len(rows) == 4
    assert {row["label"] for row in rows} == {'a "hat", size ü', "disc", "'=1+1", "box"}
    assert [row["newest"] for row in rows] == ["True", "False", "True", "True"] and [
        bool(row["path"]) for row in rows
    ] == [True, True, True, False]
    export(store, tmp_path / "rows.json")
    listed = json.loads((tmp_path / "rows.json").read_text())["corrections"]
    assert {row["label"] for row in listed} == {'a "hat", size ü', "=1+1"} and listed[0]["top"][0][
        "label"
    ] == "box"
    assert (tmp_path / listed[0]["path"]).is_file()
    with pytest.raises(SettingsError, match=r"must end in \.csv or \.json"):
        export(store, tmp_path / "rows.xlsx")


def test_forgetting_a_photo_leaves_no_trace_on_disk(tmp_path: Path) -> None:
    data = [photo(40), photo(41)]
    path, folder = tmp_path / "shop.db", tmp_path / "shop.photos"
    digests = [hashlib.sha256(bytes_).hexdigest() for bytes_ in data]
    with open_store(str(path), photos=folder) as store:
        for _ in range(3):
            add(store, data[0], "secret-answer", photo=data[0])
        kept = add(store, data[1], "disc", photo=data[1])
        gone = store.forget(digests[0].upper())
        assert (gone.rows, gone.photo) == (3, True)
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert (
                    b"secret-answer" not in file.read_bytes()
                    and digests[0].encode() not in file.read_bytes()
                ), file
                assert digests[0] not in file.name
        assert [row.id for row in store.rows()] == [kept]
        assert add(store, data[0], "box") == kept + 1, "ids are not reused"
        with pytest.raises(SettingsError, match="is not a SHA-256"):
            store.forget("../../etc/passwd")


def test_forgetting_works_on_every_database(store: Corrections) -> None:
    data = photo(42)
    add(store, data, "disc", photo=data)
    gone = store.forget(hashlib.sha256(data).hexdigest())
    assert (gone.rows, gone.photo) == (1, True) and store.stats().total == 0
    gone = store.forget(hashlib.sha256(data).hexdigest())
    assert (gone.rows, gone.photo) == (0, False)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """shop.db with six answers, of which four photos are kept."""
    path = tmp_path / "shop.db"
    with open_store(str(path), photos=tmp_path / "shop.photos") as store:
        for number, (answer, predicted) in enumerate(
            [
                ("[bold]hat", "[bold]hat"),
                ("[bold]hat", "shirt"),
                ("shirt", "shirt"),
                ("<b>", "shirt"),
                ("<b>", "shirt"),
                ("shirt", "shirt"),
            ]
        ):
            data = photo(60 + number)
            add(store, data, answer, predicted, photo=data if number < 4 else None)
    return path


def test_stats_command(shop: Path) -> None:
    said = run("corrections", "stats", shop)
    assert (
        "In use: too few answers to say; accuracy 50.0% (95% interval 18.8% to 81.2%) on 6 "
        "answered predictions" in said.stdout
    )
    assert "[bold]hat" in said.stdout and "<b>" in said.stdout and "was called" in said.stdout
    found = json.loads(run("corrections", "stats", shop, "--json").stdout)
    assert found["total"] == 6 and found["mistaken"][0] == {
        "predicted": "shirt",
        "answer": "<b>",
        "count": 2,
    }


def test_export_command(shop: Path, tmp_path: Path) -> None:
    said = run("corrections", "export", shop, "-o", tmp_path / "c.csv")
    assert (
        "4 labelled photos written" in said.stdout
        and "2 photos with an answer were not kept" in said.stderr
    )
    assert len(scan(tmp_path / "c.csv").samples) == 4
    next((tmp_path / "shop.photos").rglob("*.png")).unlink()
    said = run("corrections", "export", shop, "-o", tmp_path / "c.json", "--json", code=3)
    assert (
        json.loads(said.stdout)["written"] == 3
        and "the file of this kept photo is missing: shop.photos/" in said.stderr
    )
    assert (
        "6 answers written"
        in run("corrections", "export", shop, "-o", tmp_path / "a.csv", "--all", code=3).stdout
    )


def test_forget_command(shop: Path) -> None:
    digest = hashlib.sha256(photo(60)).hexdigest()
    assert "deleted: 1 row, and the photo" in run("corrections", "forget", shop, digest).stdout
    assert (
        "nothing is stored about a photo"
        in run("corrections", "forget", shop, digest, code=2).stderr
    )
    assert "is not a SHA-256" in run("corrections", "forget", shop, "abc", code=2).stderr


def test_commands_refuse_a_missing_database(tmp_path: Path) -> None:
    for arguments in (["stats"], ["export", "-o", tmp_path / "x.csv"], ["forget"]):
        more = ["0" * 64] if arguments == ["forget"] else []
        said = run("corrections", arguments[0], tmp_path / "no.db", *arguments[1:], *more, code=2)
        assert "no.db does not exist" in said.stderr and said.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_none_of_these_is_a_label_that_train_reads(store: Corrections, tmp_path: Path) -> None:
    add(store, photo(5), NONE_OF_THESE, "hat", "r0", photo=photo(5))
    add(store, photo(6), "hat", "hat", "r1", photo=photo(6))
    found = export(store, tmp_path / "train.csv")
    assert (found.written, found.none_of_these, found.without_photo) == (2, 1, 0)
    written = csv.DictReader(io.StringIO((tmp_path / "train.csv").read_text()))
    assert {row["label"] for row in written} == {"hat", "none of these"}
    assert export(store, tmp_path / "all.json", everything=True).written == 2
    rows = json.loads((tmp_path / "all.json").read_text())["corrections"]
    assert [(row["label"], row["none_of_these"]) for row in rows] == [("", True), ("hat", False)]
