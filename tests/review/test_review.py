"""A review: its manifest through scan and train, going on with a former one, and the HTTP side with
what it must refuse.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.cli import run
from support.data import MakeDataset, draw_dataset, encoded, picture
from support.hostile_images import bomb
from support.reviewing import (
    CONFLICT,
    COPIES,
    Page,
    decisions,
    draw_wrong,
    reviewing,
    rows,
    shown,
    wait_for,
)
from tailorbird import scan
from tailorbird.cli.results import print_result
from tailorbird.dataset.table import Row
from tailorbird.errors import DatasetError, SettingsError, StorageFull
from tailorbird.files import write_bytes
from tailorbird.review import ChangedMeanwhile, Choice, Review, default_manifest, open_review
from tailorbird.review import manifest as manifests
from tailorbird.training import train


def opened(photos: Path, output: Path | None = None) -> Review:
    return open_review(photos, output, find_suspects=False)


def item_of(review: Review, name: str) -> tuple[int, int]:
    """The number of the item a photo is in, and the photo's."""
    photo = next(i for i, sample in enumerate(review.dataset.samples) if sample.name == name)
    return next(i for i, item in enumerate(review.items) if photo in item.photos), photo


def decide(review: Review, name: str, decision: str, label: str = "") -> None:
    item, photo = item_of(review, name)
    review.decide(item, [Choice(photo, decision, label)])


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    return draw_wrong(tmp_path / "photos")


# The manifest


def test_decisions_reach_scan_and_the_photos_stay(wrong: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(wrong.rglob("*.jpg"))}
    review = opened(wrong)
    assert review.manifest.path == tmp_path / "photos.reviewed.csv"
    fresh = rows(review.manifest.path)
    assert len(fresh) == len(before) == 74 and not decisions(review.manifest.path), (
        "a row for every photo, none decided"
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
        "the two crosses; the conflict is gone"
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


def test_train_says_what_was_excluded(
    wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review = opened(wrong)
    decide(review, COPIES[1], "exclude")
    quick = {"inner": (), "dropout": 0.0, "learning_rate": 0.01, "l2": 0.0, "epochs": 3}
    result = train(review.manifest.path, tmp_path / "m.onnx", fixed=quick)
    assert {entry.path: entry.reason for entry in result.left_out}[
        "photos/box/copy.jpg"
    ] == "excluded in a review"
    print_result(result)
    assert "1 excluded in a review" in capsys.readouterr().out


def test_a_review_is_gone_on_with(wrong: Path) -> None:
    review = opened(wrong)
    decide(review, COPIES[1], "exclude")
    decide(review, CONFLICT[1], "relabel", "cross")
    decide(review, CONFLICT[0], "keep")
    (wrong / "box" / "box-001.jpg").unlink()
    shutil.copy(wrong / COPIES[0], wrong / "box" / "new.jpg")
    shutil.move(wrong / CONFLICT[1], wrong / "elsewhere.txt")
    again = opened(wrong)
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
    ), "nobody's work is lost"
    assert "photos/box/box-001.jpg" not in rows(again.manifest.path)
    shutil.move(wrong / "elsewhere.txt", wrong / CONFLICT[1])
    third = opened(wrong)
    assert third.manifest.row(item_of(third, CONFLICT[1])[1]).label == "cross", (
        "and it is back with the photo"
    )
    assert not third.can_undo


def test_a_label_that_changed_at_the_source_is_judged_anew(tmp_path: Path) -> None:
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
    review = opened(table)
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
    again = opened(table)
    assert any(
        "photos/box/copy.jpg) given another label in the dataset" in note for note in again.notes
    )
    assert decisions(again.manifest.path) == {"photos/box/box-000.jpg": ("exclude", "disc", "")}


def test_a_manifest_can_itself_be_reviewed(wrong: Path, tmp_path: Path) -> None:
    review = opened(wrong)
    decide(review, COPIES[1], "exclude")
    decide(review, CONFLICT[1], "relabel", "cross")
    again = opened(review.manifest.path)
    assert again.manifest.path == review.manifest.path
    assert [item.kinds[0] for item in again.items] == ["conflicting-label", "duplicate"], (
        "as before it was decided"
    )
    assert again.counts().exclude == again.counts().relabel == 1
    (tmp_path / "sub").mkdir()
    other = opened(review.manifest.path, tmp_path / "sub" / "other.csv")
    assert decisions(other.manifest.path) == {
        "../photos/box/copy.jpg": ("exclude", "box", ""),
        "../photos/disc/wrong.jpg": ("relabel", "cross", "disc"),
    }


def test_names_with_umlauts_and_a_manifest_that_lies_elsewhere(tmp_path: Path) -> None:
    photos = draw_dataset(
        tmp_path / "Fotos für mich, alle", ("Mützen & <b>Hüte</b>/disc", 'so "box"/box'), count=3
    )
    shutil.copy(photos / 'so "box"/box/box-000.jpg', photos / 'so "box"/box/=Kopie, 2.jpg')
    target = tmp_path / "Tabellen" / "meine.csv"
    review = opened(photos, target)
    decide(review, 'so "box"/box/=Kopie, 2.jpg', "relabel", "Mützen & <b>Hüte</b>/disc")
    found = scan(target)
    assert len(found) == 7
    assert found.counts == {"Mützen & <b>Hüte</b>/disc": 4, 'so "box"/box': 3}
    assert opened(photos, target).counts().relabel == 1


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
def test_a_foreign_file_is_left_alone(
    make_dataset: MakeDataset, tmp_path: Path, content: bytes
) -> None:
    photos = make_dataset(count=1)
    target = tmp_path / "photos.reviewed.csv"
    target.write_bytes(content)
    with pytest.raises(DatasetError, match=r"photos\.reviewed\.csv"):
        opened(photos)
    assert target.read_bytes() == content


def test_the_review_of_other_photos_is_left_alone(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    target = tmp_path / "r.csv"
    opened(make_dataset("one", count=1), target)
    before = target.read_bytes()
    with pytest.raises(
        DatasetError,
        match=r"is the review of other photos: none of its 3 is in .*two; give another name with "
        r"-o",
    ):
        opened(make_dataset("two", count=1), target)
    assert target.read_bytes() == before
    with pytest.raises(SettingsError, match=r"r\.txt'; give the name of a \.csv file"):
        opened(tmp_path / "two", tmp_path / "r.txt")


def test_where_a_manifest_goes(
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


def test_a_table_with_a_misspelt_decision_is_refused(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    make_dataset(count=1)
    table = tmp_path / "t.csv"
    table.write_text(
        "path,label,decision\nphotos/box/box-000.jpg,box,exlude\nphotos/disc/disc-000.jpg,disc,Keep\n"
    )
    with pytest.raises(
        DatasetError,
        match="line 2: the decision is 'exlude'; it must be keep, relabel, exclude or empty",
    ):
        scan(table)
    table.write_text(table.read_text().replace("exlude", "Exclude").replace("Keep", "exclude"))
    with pytest.raises(DatasetError, match="all of its 2 photos are excluded"):
        scan(table)


# Items and answers


def test_proposals_and_undo(tmp_path: Path) -> None:
    photos = draw_dataset(
        tmp_path / "photos", ("train/box", "train/disc", "validation/box", "test/box"), count=3
    )
    for number, name in enumerate(
        ("train/box/leak-1.jpg", "train/box/leak-2.jpg", "validation/box/leak.jpg")
    ):
        picture("test/box", 0).save(photos / name, quality=88 - 4 * number)
    review = opened(photos)
    leak = next(item for item in review.items if "leak" in item.kinds)
    names = [review.dataset.samples[i].name for i in leak.keep]
    assert names == ["test/box/box-000.jpg"], "the copy in the split that is held out most strictly"
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
    }, "its label all along"


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
def test_what_cannot_be_decided_changes_nothing(
    wrong: Path, item: int, choices: list[Choice], message: str
) -> None:
    review = opened(wrong)
    at, photo = item_of(review, CONFLICT[0])
    assert at == 0
    asked = [
        Choice(photo if choice.photo == 45 else choice.photo, choice.decision, choice.label)
        for choice in choices
    ]
    with pytest.raises(SettingsError, match=re.escape(message)):
        review.decide(item, asked)
    assert not decisions(review.manifest.path) and not review.can_undo


# Saving


def test_a_file_somebody_else_wrote_is_not_written_over(wrong: Path) -> None:
    first, second = opened(wrong), opened(wrong)
    decide(first, COPIES[1], "exclude")
    with pytest.raises(ChangedMeanwhile, match="another program has changed"):
        decide(second, COPIES[0], "exclude")
    assert second.counts().exclude == 0 and not second.can_undo
    assert decisions(first.manifest.path) == {"photos/box/copy.jpg": ("exclude", "box", "")}
    first.manifest.path.unlink()
    decide(first, COPIES[0], "keep")
    assert len(decisions(first.manifest.path)) == 2, "a file that is gone is written again"


def test_a_full_disk_undoes_what_was_not_saved(
    wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = opened(wrong)
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


def test_decisions_that_come_together_share_a_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = draw_dataset(tmp_path / "photos", ("box",), count=1)
    for number in range(20):
        shutil.copy(photos / "box/box-000.jpg", photos / "box" / f"copy-{number:02}.jpg")
    review = opened(photos)
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
        # Acknowledged: whatever is on the disk now holds it.
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
    assert seen == [True] * 20 and len(written) < 10, "twenty decisions in a few writings"
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
    assert time.perf_counter() - start < 10, "half a second each, on the slowest disk"
    assert len(decisions(tmp_path / "m.csv")) == 20


def test_a_kill_loses_nothing_that_was_acknowledged(wrong: Path, tmp_path: Path) -> None:
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


# HTTP


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        photos = draw_wrong(tmp_path_factory.mktemp("data") / "photos")
        large = Image.new("RGB", (4000, 3000), "teal")
        exif = Image.Exif()
        exif[0x010E] = "taken at home"
        large.save(photos / "box" / "large.jpg", quality=92, exif=exif)
        (photos / "box" / "later-damaged.png").write_bytes(encoded(picture("box", 8), "PNG"))
        (photos / "box" / "later-gone.png").write_bytes(encoded(picture("box", 9), "PNG"))
        result = opened(photos)
        (photos / "box" / "later-damaged.png").write_bytes(bomb(60_000, 60_000))
        (photos / "box" / "later-gone.png").unlink()
        return result


@pytest.fixture(scope="module")
def page(review: Review) -> Iterator[Page]:
    with shown(review) as served:
        yield served


def code(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]["code"]


def test_without_the_key_nothing_is_told(page: Page) -> None:
    for path in ("/api/review", "/api/items/0", "/api/photos/0", "/api/progress", "/anything"):
        assert code(page.ask(path)) == (403, "forbidden")
        assert code(page.ask(path, Cookie="tailorbird-review-1=x; other=y")) == (403, "forbidden")
    assert code(page.ask("/api/decisions", {"item": 0})) == (403, "forbidden")
    status, _, body = page.ask("/")
    assert status == 403 and b"needs its key" in body
    assert (
        page.ask("/?key=wrong")[0]
        == page.ask("/?key=%ff%00")[0]
        == page.ask(f"/?key={page.key[:-1]}")[0]
        == 403
    )
    assert code(page.ask(f"/api/review?key={page.key}")) == (403, "forbidden"), (
        "the key opens the page, the cookie the rest"
    )
    for path in ("/static/review.js", "/static/base.css", "/favicon.ico"):
        assert page.ask(path)[0] == 200, "what tells nothing of the photos is open"


def test_the_cookie_and_what_every_answer_carries(page: Page) -> None:
    status, headers, _ = page.ask(page.path)
    port = page.address.rpartition(":")[2]
    name, _, rest = headers["set-cookie"].partition("=")
    assert status == 200 and name == f"tailorbird-review-{port}" and page.key not in rest
    assert {"httponly", "samesite=strict", "path=/"} <= {
        part.strip().lower() for part in rest.split(";")
    }
    assert (
        "script-src 'self'" in headers["content-security-policy"]
        and "unsafe" not in headers["content-security-policy"]
    )
    assert (
        headers["referrer-policy"] == "no-referrer"
        and headers["cross-origin-resource-policy"] == "same-origin"
    )
    assert page.ask("/", Cookie=page.cookie())[0] == 200, "a reload needs no key"


def test_a_browser_is_opened_with_a_key_that_works_once(tmp_path: Path) -> None:
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    browser = f"{sys.executable} -c '{script}' {tmp_path / 'opened.txt'} %s"
    photos = draw_dataset(tmp_path / "photos", count=1)
    with reviewing(
        photos, tmp_path / "log.txt", "--no-suspects", "--browser", BROWSER=browser, DISPLAY=":99"
    ) as running:
        wait_for(
            lambda: (tmp_path / "opened.txt").exists() and (tmp_path / "opened.txt").read_text()
        )
        launched = (tmp_path / "opened.txt").read_text()
        assert launched.startswith(running.page.address + "/?key=") and not launched.endswith(
            running.page.key
        )
        path = launched.removeprefix(running.page.address)
        assert [running.page.ask(path)[0] for _ in range(2)] == [200, 403]
        assert (
            running.page.ask(running.page.path)[0] == running.page.ask(running.page.path)[0] == 200
        )


def test_other_hosts_and_sites_are_refused(page: Page) -> None:
    cookie = page.cookie()
    assert code(page.ask("/api/review", Cookie=cookie, Host="evil.example")) == (400, "bad-host")
    body = {"item": 0, "decisions": [{"photo": 0, "decision": "keep"}]}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert code(page.ask("/api/decisions", body, Cookie=cookie, **headers)) == (
            403,
            "forbidden",
        )
        assert code(page.ask("/api/undo", {}, Cookie=cookie, **headers)) == (403, "forbidden")
    assert code(page.ask("/api/undo", {}, Cookie=cookie, Content_Type="text/plain")) == (
        415,
        "unsupported-media-type",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/api/photos/99999",
        "/api/photos/-1",
        "/api/photos/1e3",
        "/api/photos/../../etc/passwd",
        "/api/photos/..%2f..%2fetc%2fpasswd",
        "/api/photos/%2e%2e",
        "/static/..%2freview.py",
        "/static/../review.py",
        "/api/items/99999",
        "/api/items/x",
        "/api/photos/9" + "9" * 50,
    ],
)
def test_only_the_datasets_photos_are_found(page: Page, path: str) -> None:
    assert code(page.ask(path, Cookie=page.cookie())) == (404, "not-found")


def number(review: Review, name: str) -> int:
    return next(i for i, sample in enumerate(review.dataset.samples) if sample.name == name)


def test_photos_are_small_jpegs_without_their_metadata(page: Page, review: Review) -> None:
    cookie = page.cookie()
    large = number(review, "box/large.jpg")
    for asked, size in (("?side=64", (64, 48)), ("?side=2048", (2048, 1536)), ("", (1024, 768))):
        status, headers, data = page.ask(f"/api/photos/{large}{asked}", Cookie=cookie)
        image = Image.open(io.BytesIO(data))
        assert (
            status == 200
            and headers["content-type"] == "image/jpeg"
            and headers["cache-control"].startswith("private")
        )
        assert (
            image.format == "JPEG"
            and image.size == size
            and not image.getexif()
            and b"taken at home" not in data
        )
    for side in ("0", "63", "2049", "-1", "1e3", "", "9" * 4000, "٦٤٠"):
        path = f"/api/photos/{large}?side={side if side.isascii() else '%D9%A6%D9%A4%D9%A0'}"
        assert code(page.ask(path, Cookie=cookie)) == (400, "bad-request")
    assert code(page.ask(f"/api/photos/{number(review, 'box/later-gone.png')}", Cookie=cookie)) == (
        404,
        "photo-gone",
    )
    assert code(
        page.ask(f"/api/photos/{number(review, 'box/later-damaged.png')}", Cookie=cookie)
    ) == (
        413,
        "image-too-large",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"[" * 100_000,
        {"item": 0},
        {"item": "0", "decisions": []},
        {"item": 0, "decisions": [7]},
        {"item": True, "decisions": [{"photo": 1, "decision": "keep"}]},
        {"item": 0, "decisions": [{"photo": 1.0, "decision": "keep"}]},
        {"item": 0, "decisions": [{"photo": 1, "decision": None}]},
        {"item": 0, "decisions": [{"photo": 1, "decision": "keep", "label": 3}]},
        {"item": 0, "decisions": {"photo": 1}},
        {"item": 10**30, "decisions": [{"photo": 1, "decision": "keep"}]},
    ],
)
def test_what_is_no_decision_is_refused_in_words(page: Page, review: Review, body: Any) -> None:
    status, said = code(page.ask("/api/decisions", body, Cookie=page.cookie()))
    assert (status, said) in ((400, "bad-request"), (422, "invalid"))
    assert not decisions(review.manifest.path)


def test_a_large_body_is_refused(page: Page) -> None:
    assert code(page.ask("/api/decisions", b" " * (2**20 + 1), Cookie=page.cookie())) == (
        413,
        "body-too-large",
    )


def test_decisions_and_undo_over_http(page: Page, review: Review) -> None:
    cookie = page.cookie()
    overview = json.loads(page.ask("/api/review", Cookie=cookie)[2])
    assert overview["classes"] == ["box", "cross", "disc"] and overview["command"].startswith(
        "tailorbird train "
    )
    item, photo = item_of(review, CONFLICT[1])
    described = json.loads(page.ask(f"/api/items/{item}", Cookie=cookie)[2])
    assert described["kinds"] == ["conflicting-label"] and {
        each["label"] for each in described["photos"]
    } == {
        "cross",
        "disc",
    }
    body = {"item": item, "decisions": [{"photo": photo, "decision": "relabel", "label": "cross"}]}
    said = json.loads(page.ask("/api/decisions", body, Cookie=cookie)[2])
    assert (
        said["saved"] and said["photos"][0]["now"] == "cross" and said["progress"]["relabel"] == 1
    )
    assert decisions(review.manifest.path) == {
        "photos/disc/wrong.jpg": ("relabel", "cross", "disc")
    }
    assert json.loads(page.ask("/api/undo", {}, Cookie=cookie)[2])["item"] == item
    assert not decisions(review.manifest.path)
    assert code(page.ask("/api/undo", {}, Cookie=cookie)) == (409, "nothing-to-undo")


# The command


def test_the_command_refuses_what_it_cannot_use(make_dataset: MakeDataset, tmp_path: Path) -> None:
    photos = make_dataset(count=1)
    (tmp_path / "mine.csv").write_text("mine\n")
    assert (
        "is not the manifest of a review"
        in run("review", photos, "-o", tmp_path / "mine.csv", code=2).stderr
    )


def test_a_manifest_guards_formulas_and_reads_them_back(make_dataset: MakeDataset) -> None:
    photos = make_dataset()
    (photos / "disc").rename(photos / "=disc")
    opened = open_review(photos, find_suspects=False)
    text = opened.manifest.path.read_text(encoding="utf-8")
    assert ",'=disc," in text and ",=disc," not in text
    again = open_review(opened.manifest.path, find_suspects=False)
    assert again.classes == opened.classes and "=disc" in again.classes
