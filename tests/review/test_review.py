"""The decisions of a review: their manifest, resuming, undoing and saving them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from support.cli import POCKET, run
from support.data import MakeDataset, draw_dataset, picture
from support.review_decisions import (
    decide,
    item_of,
    open_without_suspects,
)
from support.reviewing import (
    CONFLICT,
    COPIES,
    decisions,
    draw_wrong,
    reviewing,
    rows,
)
from tailorbird import scan
from tailorbird.cli.results import print_result
from tailorbird.dataset.table import Row
from tailorbird.errors import DatasetError, SettingsError, StorageFull
from tailorbird.files import write_bytes
from tailorbird.review import ChangedMeanwhile, Choice, default_manifest, open_review
from tailorbird.review import manifest as manifests
from tailorbird.training import train


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    return draw_wrong(tmp_path / "photos")


def test_decisions_change_the_scan_and_no_photo(wrong: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(wrong.rglob("*.jpg"))}
    review = open_without_suspects(wrong)
    assert review.manifest.path == tmp_path / "photos.reviewed.csv"
    fresh = rows(review.manifest.path)
    assert len(fresh) == len(before) == 74 and not decisions(review.manifest.path), (
        "a row for every photo, without a decision"
    )
    assert [item.kinds for item in review.items] == [("conflicting-label",), ("duplicate",)]
    decide(review, COPIES[1], "exclude")
    decide(review, CONFLICT[1], "relabel", "cross")
    decide(review, CONFLICT[0], "keep")
    found = scan(review.manifest.path)
    assert found.excluded == ("photos/box/copy.jpg",) and len(found) == 73
    assert {sample.name: sample.label for sample in found.samples}[
        "photos/disc/wrong.jpg"
    ] == "cross"
    assert {finding.kind for finding in found.findings} == {"duplicate"}, (
        "only the two duplicates are left; the conflict is resolved"
    )
    assert decisions(review.manifest.path) == {
        "photos/box/copy.jpg": ("exclude", "box", ""),
        "photos/disc/wrong.jpg": ("relabel", "cross", "disc"),
        "photos/cross/cross-021.jpg": ("keep", "cross", ""),
    }
    assert {path: path.read_bytes() for path in sorted(wrong.rglob("*.jpg"))} == before
    told = run("scan", review.manifest.path, code=3)
    assert "73 usable photos, 3 classes; 1 more excluded in a review" in told.stdout
    assert json.loads(run("scan", review.manifest.path, "--json", code=3).stdout)["excluded"] == [
        "photos/box/copy.jpg"
    ]


def test_train_reports_excluded_photos(
    wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review = open_without_suspects(wrong)
    decide(review, COPIES[1], "exclude")
    quick = {"inner": (), "dropout": 0.0, "learning_rate": 0.01, "l2": 0.0, "epochs": 3}
    result = train(review.manifest.path, tmp_path / "m.onnx", fixed=quick, backbone="pocket")
    assert {entry.path: entry.reason for entry in result.left_out}[
        "photos/box/copy.jpg"
    ] == "excluded in a review"
    print_result(result)
    assert "1 excluded in a review" in capsys.readouterr().out


def test_a_review_is_resumed(wrong: Path) -> None:
    review = open_without_suspects(wrong)
    decide(review, COPIES[1], "exclude")
    decide(review, CONFLICT[1], "relabel", "cross")
    decide(review, CONFLICT[0], "keep")
    (wrong / "box" / "box-001.jpg").unlink()
    shutil.copy(wrong / COPIES[0], wrong / "box" / "new.jpg")
    shutil.move(wrong / CONFLICT[1], wrong / "elsewhere.txt")
    again = open_without_suspects(wrong)
    said = " ".join(again.notes)
    assert (
        "2 of 73 photos have a decision" in said
        and "1 photo (photos/box/new.jpg) added since" in said
    )
    assert (
        "2 photos (photos/box/box-001.jpg, photos/disc/wrong.jpg) removed since; "
        "1 decisions about them stay" in said
    )
    assert decisions(again.manifest.path)["photos/disc/wrong.jpg"] == (
        "relabel",
        "cross",
        "disc",
    ), "the decision is kept"
    assert "photos/box/box-001.jpg" not in rows(again.manifest.path)
    shutil.move(wrong / "elsewhere.txt", wrong / CONFLICT[1])
    third = open_without_suspects(wrong)
    assert third.manifest.row(item_of(third, CONFLICT[1])[1]).label == "cross", (
        "the decision applies again"
    )
    assert not third.can_undo


def test_a_photo_with_a_new_label_in_the_dataset_is_reviewed_again(tmp_path: Path) -> None:
    photos = draw_dataset(tmp_path / "photos", count=3)
    shutil.copy(photos / "box/box-000.jpg", photos / "box/copy.jpg")
    table = tmp_path / "table.csv"
    names = [
        f"photos/{path.relative_to(photos).as_posix()}" for path in sorted(photos.rglob("*.jpg"))
    ]
    table.write_text(
        "path,label,split\n" + "".join(f"{name},{name.split('/')[1]},train\n" for name in names)
    )
    source = table.read_bytes()
    review = open_without_suspects(table)
    assert review.manifest.path == tmp_path / "table.reviewed.csv"
    decide(review, "photos/box/copy.jpg", "keep")
    decide(review, "photos/box/box-000.jpg", "exclude")
    assert table.read_bytes() == source
    assert {row["split"] for row in rows(review.manifest.path).values()} == {"train"}
    table.write_text(
        table.read_text()
        .replace("copy.jpg,box", "copy.jpg,disc")
        .replace("box-000.jpg,box", "box-000.jpg,disc")
    )
    again = open_without_suspects(table)
    assert any(
        "photos/box/copy.jpg) given another label in the dataset" in note for note in again.notes
    )
    assert decisions(again.manifest.path) == {"photos/box/box-000.jpg": ("exclude", "disc", "")}


def test_a_manifest_can_itself_be_reviewed(wrong: Path, tmp_path: Path) -> None:
    review = open_without_suspects(wrong)
    decide(review, COPIES[1], "exclude")
    decide(review, CONFLICT[1], "relabel", "cross")
    again = open_without_suspects(review.manifest.path)
    assert again.manifest.path == review.manifest.path
    assert [item.kinds[0] for item in again.items] == ["conflicting-label", "duplicate"], (
        "decided items are still listed"
    )
    assert again.counts().exclude == again.counts().relabel == 1
    (tmp_path / "sub").mkdir()
    other = open_without_suspects(review.manifest.path, tmp_path / "sub" / "other.csv")
    assert decisions(other.manifest.path) == {
        "../photos/box/copy.jpg": ("exclude", "box", ""),
        "../photos/disc/wrong.jpg": ("relabel", "cross", "disc"),
    }


def test_special_characters_in_names_and_a_manifest_in_another_folder(tmp_path: Path) -> None:
    photos = draw_dataset(
        tmp_path / "Fotos für mich, alle", ("Mützen & <b>Hüte</b>/disc", 'so "box"/box'), count=3
    )
    shutil.copy(photos / 'so "box"/box/box-000.jpg', photos / 'so "box"/box/=Kopie, 2.jpg')
    target = tmp_path / "Tabellen" / "meine.csv"
    review = open_without_suspects(photos, target)
    decide(review, 'so "box"/box/=Kopie, 2.jpg', "relabel", "Mützen & <b>Hüte</b>/disc")
    found = scan(target)
    assert len(found) == 7
    assert found.counts == {"Mützen & <b>Hüte</b>/disc": 4, 'so "box"/box': 3}
    assert open_without_suspects(photos, target).counts().relabel == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"path,label\na.jpg,b\n",
        b"my notes\n",
        b"\xff\xfeo",
        b"path,label,split,decision,was,more\n",
    ],
)
def test_a_file_that_is_not_a_manifest_is_not_overwritten(
    make_dataset: MakeDataset, tmp_path: Path, content: bytes
) -> None:
    photos = make_dataset(count=1)
    target = tmp_path / "photos.reviewed.csv"
    target.write_bytes(content)
    with pytest.raises(DatasetError, match=r"photos\.reviewed\.csv"):
        open_without_suspects(photos)
    assert target.read_bytes() == content


def test_the_review_of_other_photos_is_not_overwritten(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    target = tmp_path / "r.csv"
    open_without_suspects(make_dataset("one", count=1), target)
    before = target.read_bytes()
    with pytest.raises(
        DatasetError,
        match=r"is the review of other photos: none of its 3 is in .*two; give another name with "
        r"-o",
    ):
        open_without_suspects(make_dataset("two", count=1), target)
    assert target.read_bytes() == before
    with pytest.raises(SettingsError, match=r"r\.txt'; give the name of a \.csv file"):
        open_without_suspects(tmp_path / "two", tmp_path / "r.txt")


def test_default_path_of_the_manifest(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photos = make_dataset("shop.photos", count=1)
    assert default_manifest(photos) == tmp_path / "shop.photos.reviewed.csv"
    monkeypatch.chdir(photos)
    assert default_manifest(Path()) == tmp_path / "shop.photos.reviewed.csv"
    assert default_manifest(Path("table.csv")) == Path("table.reviewed.csv")
    assert default_manifest(Path("box")) == Path("box.reviewed.csv")
    monkeypatch.chdir(photos / "box")
    assert default_manifest(Path("..")) == tmp_path / "shop.photos.reviewed.csv", (
        "beside the folder, not in it"
    )


def test_a_misspelt_decision_in_a_table_is_refused(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset(count=1)
    table = tmp_path / "t.csv"
    table.write_text(
        "path,label,decision\n"
        "photos/box/box-000.jpg,box,exlude\nphotos/disc/disc-000.jpg,disc,Keep\n"
    )
    with pytest.raises(
        DatasetError,
        match="line 2: the decision is 'exlude'; it must be keep, relabel, exclude or empty",
    ):
        scan(table)
    table.write_text(table.read_text().replace("exlude", "Exclude").replace("Keep", "exclude"))
    with pytest.raises(DatasetError, match="all of its 2 photos are excluded"):
        scan(table)


def test_proposals_and_undo(tmp_path: Path) -> None:
    photos = draw_dataset(
        tmp_path / "photos", ("train/box", "train/disc", "validation/box", "test/box"), count=3
    )
    for number, name in enumerate(
        ("train/box/leak-1.jpg", "train/box/leak-2.jpg", "validation/box/leak.jpg")
    ):
        picture("test/box", 0).save(photos / name, quality=88 - 4 * number)
    review = open_without_suspects(photos)
    leak = next(item for item in review.items if "leak" in item.kinds)
    names = [review.dataset.samples[i].name for i in leak.keep]
    assert names == ["test/box/box-000.jpg"], "the copy in the test split is kept"
    assert (
        leak.proposal == "Exclude the training copies and the validation copy"
        and "anyway" in leak.reason
    )
    number = review.items.index(leak)
    review.decide(
        number,
        [Choice(photo, "keep" if photo in leak.keep else "exclude") for photo in leak.photos],
    )
    assert review.counts().done == 1 and review.counts().keep == 1
    before = decisions(review.manifest.path)
    review.decide(number, [Choice(leak.keep[0], "relabel", "disc")])
    assert decisions(review.manifest.path)["photos/test/box/box-000.jpg"] == (
        "relabel",
        "disc",
        "box",
    )
    assert review.undo() == (number, leak.keep) and decisions(review.manifest.path) == before
    assert review.undo() == (number, leak.photos) and not decisions(review.manifest.path)
    assert review.undo() is None
    review.decide(number, [Choice(leak.keep[0], "relabel", "box")])
    assert decisions(review.manifest.path) == {
        "photos/test/box/box-000.jpg": ("keep", "box", "")
    }, "relabelling to the present label means keep"


@pytest.mark.parametrize(
    ("item", "choices", "message"),
    [
        (99, [Choice(0, "keep")], "there is no item 99; valid: 0 to 1"),
        (0, [], "name at least one photo"),
        (0, [Choice(0, "keep")], "photo 0 does not belong to item 0"),
        (0, [Choice(-1, "keep")], "photo -1 does not belong to item 0"),
        (0, [Choice(45, "keep"), Choice(45, "keep")], "has two decisions"),
        (
            0,
            [Choice(45, "delete")],
            "the decision is 'delete'; it must be keep, relabel, exclude or empty",
        ),
        (0, [Choice(45, "relabel", "hat")], "there is no class 'hat'"),
    ],
)
def test_invalid_decisions_are_refused_and_change_nothing(
    wrong: Path, item: int, choices: list[Choice], message: str
) -> None:
    review = open_without_suspects(wrong)
    at, photo = item_of(review, CONFLICT[0])
    assert at == 0
    asked = [
        Choice(photo if choice.photo == 45 else choice.photo, choice.decision, choice.label)
        for choice in choices
    ]
    with pytest.raises(SettingsError, match=re.escape(message)):
        review.decide(item, asked)
    assert not decisions(review.manifest.path) and not review.can_undo


def test_a_manifest_changed_by_another_program_is_not_overwritten(wrong: Path) -> None:
    first, second = open_without_suspects(wrong), open_without_suspects(wrong)
    decide(first, COPIES[1], "exclude")
    with pytest.raises(ChangedMeanwhile, match="another program has changed"):
        decide(second, COPIES[0], "exclude")
    assert second.counts().exclude == 0 and not second.can_undo
    assert decisions(first.manifest.path) == {"photos/box/copy.jpg": ("exclude", "box", "")}
    first.manifest.path.unlink()
    decide(first, COPIES[0], "keep")
    assert len(decisions(first.manifest.path)) == 2, "a deleted file is written again"


def test_a_decision_that_cannot_be_saved_is_reverted(
    wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_without_suspects(wrong)
    decide(review, COPIES[0], "keep")

    def full(*_: object) -> None:
        raise StorageFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_bytes", full)
        with pytest.raises(StorageFull):
            decide(review, COPIES[1], "exclude")
        with pytest.raises(StorageFull):
            review.undo()
    assert review.counts().keep == 1 and review.counts().exclude == 0
    assert review.undo() is not None and not decisions(review.manifest.path)


def test_concurrent_decisions_share_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = draw_dataset(tmp_path / "photos", ("box",), count=1)
    for number in range(20):
        shutil.copy(photos / "box/box-000.jpg", photos / "box" / f"copy-{number:02}.jpg")
    review = open_without_suspects(photos)
    written: list[int] = []
    real = write_bytes

    def slow(path: Path, data: bytes) -> None:
        time.sleep(0.05)
        real(path, data)
        written.append(len(data))

    monkeypatch.setattr(manifests, "write_bytes", slow)
    seen: list[bool] = []

    def one(photo: int) -> None:
        review.decide(0, [Choice(photo, "exclude")])
        # Acknowledged, so the file on disk has it now.
        seen.append(
            any(
                row["decision"]
                for name, row in rows(review.manifest.path).items()
                if name.endswith(review.dataset.samples[photo].path.name)
            )
        )

    threads = [threading.Thread(target=one, args=(photo,)) for photo in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 20 and len(written) < 10, "twenty decisions share a few writes"
    assert len(decisions(review.manifest.path)) == 20


def test_ten_thousand_rows_are_written_quickly(tmp_path: Path) -> None:
    all_rows = [
        Row(f"photos/class {n % 100}/photo {n}.jpg", f"class {n % 100}", "train")
        for n in range(10_000)
    ]
    table = manifests.Manifest(tmp_path / "m.csv", all_rows, seen=None)
    start = time.perf_counter()
    for number in range(20):
        table.change({number: manifests.decided(all_rows[number], "exclude")})
    assert time.perf_counter() - start < 60, "at most three seconds each, on a slow and busy disk"
    assert len(decisions(tmp_path / "m.csv")) == 20


def test_a_kill_loses_no_acknowledged_decision(wrong: Path, tmp_path: Path) -> None:
    with reviewing(wrong, tmp_path / "log.txt", "--no-suspects") as running:
        cookie = running.page.cookie()
        overview = json.loads(running.page.ask("/api/review", Cookie=cookie)[2])
        for item, entry in enumerate(overview["items"]):
            for photo in entry["photos"]:
                body = {"item": item, "decisions": [{"photo": photo, "decision": "exclude"}]}
                status, _, said = running.page.ask("/api/decisions", body, Cookie=cookie)
                assert status == 200 and json.loads(said)["saved"] is True
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(20)
    assert sorted(decisions(tmp_path / "photos.reviewed.csv")) == sorted(
        f"photos/{name}" for name in (*COPIES, *CONFLICT)
    )
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_the_command_refuses_an_output_that_is_not_a_manifest(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    photos = make_dataset(count=1)
    (tmp_path / "mine.csv").write_text("mine\n")
    assert (
        "is not the manifest of a review"
        in run("review", photos, "-o", tmp_path / "mine.csv", *POCKET, code=2).stderr
    )


def test_a_manifest_escapes_formulas_and_reads_them_back(make_dataset: MakeDataset) -> None:
    photos = make_dataset()
    (photos / "disc").rename(photos / "=disc")
    first = open_review(photos, find_suspects=False)
    text = first.manifest.path.read_text(encoding="utf-8")
    assert ",'=disc," in text and ",=disc," not in text
    again = open_review(first.manifest.path, find_suspects=False)
    assert again.classes == first.classes and "=disc" in again.classes
