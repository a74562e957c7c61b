"""A store of corrections on both databases: rows, photos, statistics, concurrency, crashes."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.answers import MODEL, add, photo
from support.correction_writer import (
    acknowledged,
    writer,
)
from tailorbird.corrections import (
    NONE_OF_THESE,
    Corrections,
    labelled,
    open_store,
    photos,
    statistics,
)
from tailorbird.corrections.store import MOST_NEW_LABELS
from tailorbird.errors import (
    InputError,
    SettingsError,
)


def test_rows_are_read_back_as_stored(store: Corrections, tmp_path: Path) -> None:
    data = photo(1)
    before = datetime.datetime.now(datetime.UTC)
    number = add(
        store,
        data,
        "hat & [bold]ü</b>",
        "shirt 帽",
        "r-1",
        probability=0.123456789012345,
        photo=data,
    )
    again = add(store, data, "shirt 帽", "shirt 帽", "r-2")
    first, second = store.rows()
    assert (first.id, second.id) == (number, again) and again > number
    assert before <= first.created <= second.created <= datetime.datetime.now(datetime.UTC)
    assert (
        first.sha256 == hashlib.sha256(data).hexdigest() and first.probability == 0.123456789012345
    )
    assert (first.answer, first.predicted, first.right) == (
        "hat & [bold]ü</b>",
        "shirt 帽",
        False,
    ) and second.right
    assert first.top == (("shirt 帽", 0.75), ("hat & [bold]ü</b>", 0.25))
    assert (first.model, first.model_sha256, first.receipt) == ("shop", MODEL, "r-1")
    assert first.photo_kept and not second.photo_kept and first.newest
    assert list(store.rows(since=second.created)) == [second]
    assert json.loads(json.dumps(first.as_dict()))["top"][0] == {
        "label": "shirt 帽",
        "probability": 0.75,
    }
    with pytest.raises(SettingsError, match="without a time zone"):
        next(store.rows(since=datetime.datetime(2026, 1, 1)))


def test_each_photo_is_kept_once_under_its_digest(store: Corrections, tmp_path: Path) -> None:
    for kind, ending in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("AVIF", "avif"),
    ):
        data = photo(2, kind=kind)
        digest = hashlib.sha256(data).hexdigest()
        add(store, data, "disc", photo=data)
        path = tmp_path / "shop.photos" / digest[:2] / f"{digest}.{ending}"
        assert path.read_bytes() == data
        written = path.stat().st_ino
        add(store, data, "disc", photo=data)
        assert path.stat().st_ino == written, "not written again"
        path.write_bytes(data[:-3])
        add(store, data, "disc", photo=data)
        assert path.read_bytes() == data, "a damaged file is written again"
    assert len(photos.kept_photos(tmp_path / "shop.photos")) == 6
    assert (tmp_path / "shop.photos").stat().st_mode & 0o77 == 0, (
        "other users of the machine cannot read the photos"
    )


def test_without_a_folder_no_photo_is_kept(url: str, tmp_path: Path) -> None:
    data = photo(3)
    with open_store(url) as store:
        add(store, data, "disc", photo=data)
        assert [row.photo_kept for row in store.rows()] == [False]
        with pytest.raises(SettingsError, match="is not known; name it with --photos"):
            labelled(store)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_invalid_values_are_refused_and_nothing_is_stored(
    store: Corrections, tmp_path: Path
) -> None:
    data = photo(4)
    digest = hashlib.sha256(data).hexdigest()
    good: dict[str, Any] = {
        "sha256": digest,
        "predicted": "box",
        "probability": 0.5,
        "top": [("box", 0.5)],
        "answer": "disc",
        "model": "m",
        "model_sha256": MODEL,
        "receipt": "r",
    }
    for bad, words in (
        ({"sha256": digest[:-1]}, "64 hexadecimal digits"),
        ({"sha256": "../" + digest[3:]}, "64 hexadecimal digits"),
        ({"model_sha256": "A" * 64}, "model's SHA-256"),
        ({"probability": math.nan}, "probability is nan"),
        ({"probability": 1.5}, "from 0 to 1"),
        ({"answer": ""}, "1 to 4000"),
        ({"answer": "a\0b"}, "zero byte"),
        ({"predicted": "\udcff"}, "UTF-8"),
        ({"receipt": "x" * 201}, "201 characters"),
        ({"photo": data + b"x"}, "do not have the SHA-256"),
    ):
        with pytest.raises(SettingsError, match=words):
            store.add(**{**good, **bad})
    text = b"no photo"
    with pytest.raises(InputError, match="must be one of jpg, png"):
        store.add(**{**good, "sha256": hashlib.sha256(text).hexdigest(), "photo": text})
    assert list(store.rows()) == [] and not [
        p for p in tmp_path.rglob("*") if p.is_file() and "photos" in str(p)
    ]


def test_none_of_these_is_an_answer_of_its_own(store: Corrections) -> None:
    add(store, photo(5), NONE_OF_THESE, "hat", "r0", photo=photo(5))
    add(store, photo(6), "hat", "hat", "r1", photo=photo(6))
    found = store.stats()
    assert (found.total, found.right, found.none_of_these, found.mistaken) == (2, 1, 1, ())
    assert [row.label for row in found.per_class] == ["hat"]
    answered = labelled(store)
    assert [each.label for each in answered.photos] == ["hat"]
    assert [each.label for each in answered.none] == ["none of these"]
    assert answered.without_photo == 0


def test_none_of_these_is_right_where_the_model_said_so(store: Corrections) -> None:
    add(store, photo(5), NONE_OF_THESE, "hat", "r0", refused=True)
    add(store, photo(6), NONE_OF_THESE, "hat", "r1")
    add(store, photo(7), "hat", "hat", "r2", refused=True)
    found = store.stats()
    assert (found.total, found.right, found.none_of_these, found.none_refused) == (3, 2, 2, 1)
    assert found.mistaken == ()
    assert store.counts()[NONE_OF_THESE, True] == 1


def test_a_typed_label_is_spelled_as_an_earlier_one_and_their_number_is_bounded(
    store: Corrections,
) -> None:
    known = ("hat", "shirt")
    assert store.label_for(" HAT ", known) == "hat"
    assert store.label_for("Cafe\u0301", known) == "Caf\u00e9"
    add(store, photo(5), "Scarf", "hat", "n0")
    assert store.label_for("scarf", known) == "Scarf"
    for number in range(1, MOST_NEW_LABELS):
        add(store, photo(5), f"label {number}", "hat", f"n{number}")
    assert store.label_for("Scarf", known) == "Scarf", "a label that is there costs nothing"
    with pytest.raises(SettingsError, match="people have named 100 new categories"):
        store.label_for("one more", known)


def test_statistics_count_the_newest_answer_for_each_receipt(store: Corrections) -> None:
    empty = store.stats()
    assert empty.as_dict() == {
        "total": 0,
        "right": 0,
        "accuracy": None,
        "interval": [0.0, 1.0],
        "none_of_these": 0,
        "none_refused": 0,
        "per_class": [],
        "by_day": [],
        "mistaken": [],
    }
    data = photo(5)
    for number in range(12):
        add(store, data, "hat", "hat" if number < 9 else "shirt", f"r{number}")
    add(store, data, "shirt", "shirt", "r9")  # a changed answer
    add(store, data, "t-shirt", "shirt", "s0")
    add(store, data, "pants", "shirt", "s0")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = store.stats().as_dict()
    low, high = found.pop("interval")
    assert found == {
        "total": 13,
        "right": 10,
        "accuracy": 10 / 13,
        "none_of_these": 0,
        "none_refused": 0,
        "per_class": [
            {"label": "hat", "total": 11, "right": 9},
            {"label": "pants", "total": 1, "right": 0},
            {"label": "shirt", "total": 1, "right": 1},
        ],
        "by_day": [{"day": today, "total": 13, "right": 10}],
        "mistaken": [
            {"predicted": "shirt", "answer": "hat", "count": 2},
            {"predicted": "shirt", "answer": "pants", "count": 1},
        ],
    }
    # Wilson's interval for 10 of 13, from the formula: centre 0.7078, half width 0.2105.
    assert (low, high) == pytest.approx((0.4974, 0.9182), abs=5e-4)
    assert store.counts() == {
        ("hat", True): 9,
        ("hat", False): 2,
        ("pants", False): 1,
        ("shirt", True): 1,
    }


def test_statistics_list_at_most_ninety_days_and_twenty_confusions(store: Corrections) -> None:
    data = photo(6)
    for number in range(25):
        for _ in range(1 + (number == 7)):
            add(store, data, f"c{number:02}", "other")
    with store.reading() as connection:
        tomorrow = datetime.datetime.now(datetime.UTC).date()
        near = statistics.read(connection, tomorrow + datetime.timedelta(days=89))
        far = statistics.read(connection, tomorrow + datetime.timedelta(days=90))
    assert [day.total for day in near.by_day] == [26] and far.by_day == () and far.total == 26
    assert len(near.mistaken) == 20 and near.mistaken[0] == statistics.Mistaken("other", "c07", 2)
    assert [m.answer for m in near.mistaken[1:4]] == ["c00", "c01", "c02"]


def test_rows_are_streamed_page_by_page(
    store: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.corrections.store._PAGE", 7)
    ids = [add(store, photo(7), "disc") for _ in range(21)]
    assert [row.id for row in store.rows()] == ids
    stream = store.rows()
    next(stream)
    late = add(store, photo(7), "disc")  # the open reader does not block it and returns it
    assert [row.id for row in stream][-1] == late


def test_threads_share_the_secret_and_write_concurrently(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(url, photos=tmp_path / "p"), range(8)))
        secrets = set(pool.map(lambda store: store.secret(), stores))
        assert len(secrets) == 1 and len(secrets.pop()) == 32
        data = photo(8)
        ids = list(pool.map(lambda n: add(stores[n % 2], data, "disc", photo=data), range(40)))
    assert len(set(ids)) == 40 and {row.id for row in stores[0].rows()} == set(ids)
    for store in stores:
        store.close()


START = """
import sys
from tailorbird.corrections import open_store
store = open_store(sys.argv[1])
print(store.secret().hex())
"""


def test_processes_that_start_together_share_the_secret(url: str) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", START, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60) for process in runs]
    assert [process.returncode for process in runs] == [0] * 4, said
    assert len({out for out, _ in said}) == 1 and len(said[0][0].strip()) == 64


def test_kill_9_loses_no_acknowledged_row(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    said: dict[int, str] = {}
    for name in ("a", "b"):
        process = writer(url, folder, name)
        said |= acknowledged(process, killed_after=60)
        assert process.returncode == -signal.SIGKILL
    with open_store(url, photos=folder) as store:
        rows = {row.id: row.sha256 for row in store.rows()}
        assert len(said) >= 120 and said.items() <= rows.items() and len(rows) <= len(said) + 2
        found = labelled(store)
        assert found.missing == () and {photo.row.id for photo in found.photos} == set(rows), (
            "each row has its complete photo"
        )
        for entry in found.photos:
            assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.row.sha256
        add(store, photo(9), "disc")


def test_two_processes_write_concurrently(url: str, tmp_path: Path) -> None:
    runs = [writer(url, tmp_path / "kept", name, 80) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(acknowledged, runs)
    assert [process.returncode for process in runs] == [0, 0] and len(first) == len(second) == 80
    with open_store(url) as store:
        assert {row.id: row.sha256 for row in store.rows()} == first | second
