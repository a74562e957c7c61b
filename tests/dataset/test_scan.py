"""The scan: what it reads, caches, shows to a visitor, and reports."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.data import CLOTHING, MakeDataset, draw_dataset, encoded, needs_shared, picture
from support.progress import RecordedProgress
from tailorbird import images
from tailorbird.dataset import KINDS, Dataset, Finding, Sample, scan
from tailorbird.dataset.checks import class_findings
from tailorbird.errors import DatasetError

# The package exports a function of the same name, so the module is fetched by name.
scan_module = importlib.import_module("tailorbird.dataset.scanner")


def messages(dataset: Dataset, kind: str) -> dict[str, str]:
    return {
        path: finding.message
        for finding in dataset.findings
        if finding.kind == kind
        for path in finding.paths
    }


def test_counts_digests_and_json(shapes: Path) -> None:
    dataset = scan(shapes)
    assert dataset.counts == {"box": 24, "cross": 24, "disc": 24}
    sample = dataset.samples[0]
    assert sample.digest == hashlib.sha256(sample.path.read_bytes()).hexdigest()
    assert not dataset.findings
    assert json.loads(json.dumps(dataset.as_dict())) == {
        "images": 72,
        "classes": dataset.counts,
        "splits": {},
        "findings": [],
        "excluded": [],
    }


def test_fingerprint_depends_on_content_label_and_split_only(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    root = make_dataset(labels=("a", "b"), count=3)
    first = scan(root).fingerprint
    (root / "a" / "a-000.jpg").rename(root / "a" / "renamed.jpg")
    assert scan(root).fingerprint == first
    (root / "a" / "renamed.jpg").rename(root / "b" / "renamed.jpg")
    assert scan(root).fingerprint != first
    (root / "train").mkdir()
    for name in "ab":
        (root / name).rename(root / "train" / name)
    assert len({first, scan(root).fingerprint}) == 2


def test_a_bad_file_is_named_and_skipped(make_dataset: MakeDataset) -> None:
    root = make_dataset(labels=("a", "b"), count=12)
    good = (root / "a" / "a-000.jpg").read_bytes()
    bad = {
        "empty.jpg": b"",
        "short.jpg": good[: len(good) // 2],
        "noise.jpg": bytes(range(256)) * 9,
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "layers.psd": b"8BPS" + bytes(60),
        "huge.png": encoded(Image.new("1", (30_000, 30_000)), "PNG"),
    }
    for name, data in bad.items():
        (root / "a" / name).write_bytes(data)
    (root / "b" / "again.jpg").write_bytes(bad["short.jpg"])
    dataset = scan(root)
    assert len(dataset) == 24
    assert set(messages(dataset, "unreadable")) == {"a/empty.jpg", "a/short.jpg", "b/again.jpg"}
    assert set(messages(dataset, "unsupported")) == {"a/noise.jpg", "a/page.jpg", "a/layers.psd"}
    assert set(messages(dataset, "too-large")) == {"a/huge.png"}
    assert "0 bytes" in messages(dataset, "unreadable")["a/empty.jpg"]
    assert scan(root).as_dict() == dataset.as_dict(), (
        "the second scan, from the cache, says the same"
    )


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(4):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"")
    (tmp_path / "a" / "x.jpg").write_text("text")
    with pytest.raises(DatasetError) as caught:
        scan(tmp_path)
    assert "none of the 5 files" in str(caught.value)
    assert "4 unreadable, 1 unsupported" in str(caught.value)
    assert "a/0.jpg: the file is empty" in str(caught.value)


def test_a_file_far_too_large_is_not_read(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(labels=("a", "b"), count=2)
    with (root / "a" / "film.jpg").open("wb") as file:
        file.truncate(3 * 2**30)  # sparse: it takes no space on the disk
    assert "3,072 MiB" in messages(scan(root), "too-large")["a/film.jpg"]


def test_a_file_without_permission(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(labels=("a", "b"), count=2)
    (root / "a" / "a-000.jpg").chmod(0)
    (root / "locked").mkdir()
    (root / "locked" / "x.jpg").write_bytes(b"")
    (root / "locked").chmod(0)
    code = """
        import json, os, sys
        import tailorbird.dataset, tailorbird.files.store, platformdirs, PIL.JpegImagePlugin
        if os.getuid() == 0:
            os.chdir("/")
            os.setgid(65534)
            os.setuid(65534)
        print(json.dumps(tailorbird.dataset.scan(sys.argv[1], store=False).as_dict()))
    """
    for folder in (tmp_path, *tmp_path.parents):
        if (
            folder.stat().st_uid == os.getuid()
            and folder.parts[1:2] == ("tmp",)
            and len(folder.parts) > 2
        ):
            folder.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(root)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        (root / "locked").chmod(0o755)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    reported = {
        finding["paths"][0]: finding["message"] for finding in found["findings"] if finding["paths"]
    }
    assert "permission denied" in reported["a/a-000.jpg"]
    assert "cannot be read: Permission denied" in reported["locked"]
    assert found["images"] == 3


def test_a_file_that_fails_while_it_is_read(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(labels=("a", "b"), count=2)
    original = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "a-001.jpg":
            raise OSError(5, "Input/output error")
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert "Input/output error" in messages(scan(root), "unreadable")["a/a-001.jpg"]


class Watcher:
    """A visitor that notes what it is shown."""

    def __init__(
        self, at_least: int = 0, wants: Callable[[bytes], bool] = lambda digest: True
    ) -> None:
        self.at_least = at_least
        self.wants = wants
        self.seen: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []

    def see(self, digest: bytes, image: Image.Image) -> None:
        assert image.mode == "RGB"
        self.sizes.append(image.size)
        self.seen.append(digest)


def test_a_visitor_sees_each_distinct_photo_once(make_dataset: MakeDataset) -> None:
    root = make_dataset(labels=("a", "b"), count=5)
    shutil.copy(root / "a" / "a-000.jpg", root / "a" / "copy.jpg")
    (root / "a" / "bad.jpg").write_bytes(b"")
    for _ in range(
        2
    ):  # the second time the facts are cached, and the photos are decoded all the same
        visitor = Watcher()
        dataset = scan(root, visitor=visitor)
        assert sorted(visitor.seen) == sorted(
            {bytes.fromhex(sample.digest) for sample in dataset.samples}
        )
    wanted = visitor.seen[0]
    picky = Watcher(wants=lambda digest: digest == wanted)
    scan(root, visitor=picky)
    assert picky.seen == [wanted]


def test_a_visitor_gets_pictures_as_large_as_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture("box", 1, (1600, 1200)).save(tmp_path / "a" / "large.jpg")
    for at_least in (0, 200, 500):
        visitor = Watcher(at_least)
        scan(tmp_path, visitor=visitor)
        assert max(128, at_least) <= min(visitor.sizes[0]) <= 2 * max(200, at_least)


def test_nothing_is_decoded_the_second_time(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(labels=("a", "b"), count=5)
    for seed, name in ((0, "a"), (1, "b")):
        picture(name, seed).save(root / name / "resaved.jpg", quality=70)
    first = scan(root)
    assert any(finding.kind == "near-duplicate" for finding in first.findings)

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("decoded although the facts are cached")

    monkeypatch.setattr(images, "decode", refuse)
    assert scan(root).as_dict() == first.as_dict()
    with pytest.raises(AssertionError):
        scan(root, store=False)


def test_without_store_nothing_is_written(make_dataset: MakeDataset, own_cache: Path) -> None:
    scan(make_dataset(labels=("a", "b"), count=3), store=False)
    assert not list(own_cache.iterdir())


def test_damaged_and_vanished_caches_only_cost_time(
    make_dataset: MakeDataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(labels=("a", "b"), count=5)
    expected = scan(root).as_dict()
    for chunk in own_cache.rglob("*.rows"):
        chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    assert scan(root).as_dict() == expected
    opened = scan_module.open_facts

    def vanishing() -> object:
        store = opened()
        shutil.rmtree(own_cache)
        return store

    monkeypatch.setattr(scan_module, "open_facts", vanishing)
    visitor = Watcher()
    assert scan(root, visitor=visitor).as_dict() == expected
    assert len(visitor.seen) == len(set(visitor.seen)) == 10


def test_a_cache_that_cannot_be_written_only_costs_time(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "file"))
    assert len(scan(make_dataset(labels=("a", "b"), count=3))) == 6


def test_what_a_visitor_raises_stops_the_scan(make_dataset: MakeDataset) -> None:
    class Failing(Watcher):
        def see(self, digest: bytes, image: Image.Image) -> None:
            super().see(digest, image)
            raise RuntimeError("no space for features")

    visitor = Failing()
    with pytest.raises(RuntimeError, match="no space for features"):
        scan(make_dataset(labels=("a", "b"), count=40), visitor=visitor, workers=2)
    assert len(visitor.seen) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan-")]


def test_progress_is_called_from_this_thread_and_may_stop_the_scan(shapes: Path) -> None:
    threads = set()
    progress = RecordedProgress(lambda done, total: threads.add(threading.current_thread()))
    scan(shapes, progress=progress)
    assert progress.stages == ["scan"] and progress.steps[-1] == (72, 72)
    assert progress.steps == sorted(progress.steps)
    assert threads == {threading.current_thread()}

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        scan(shapes, progress=RecordedProgress(stop))


def test_ctrl_c_ends_the_scan_and_keeps_what_was_computed(
    make_dataset: MakeDataset, own_cache: Path
) -> None:
    root = make_dataset(labels=("a", "b"), count=60)
    code = """
        import sys, time
        from tailorbird.dataset import scan
        class Slow:
            at_least = 0
            def wants(self, digest): return True
            def see(self, digest, image): print("seen", flush=True); time.sleep(0.2)
        scan(sys.argv[1], visitor=Slow(), workers=2)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    seen, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said
    assert seen.count("seen") < 119, "not all photos were decoded first"
    assert list(own_cache.glob("facts-v*/*.rows"))
    assert not list(own_cache.rglob("*.tmp"))


def test_memory_of_five_thousand_photos_is_bounded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
    header = encoded(Image.new("RGB", (8, 8)), "BMP")[:54]
    for number in range(5_000):
        pixels = random.integers(0, 256, 192, dtype=np.uint8).tobytes()
        (tmp_path / "set" / "ab"[number % 2] / f"{number}.bmp").write_bytes(header + pixels)
    code = """
        import resource, sys
        from tailorbird.dataset import clean, scan, split
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        dataset, _ = clean(split(scan(sys.argv[1])))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(len(dataset), (after - before) / 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "set")],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, mebibytes = (float(word) for word in done.stdout.split())
    assert kept == 5_000
    assert mebibytes < 250


def test_findings_about_classes(tmp_path: Path) -> None:
    for name, count in (
        ("train/many", 60),
        ("train/few", 5),
        ("train/Shirt", 12),
        ("test/many", 3),
        ("test/shirt", 2),
        ("test/few", 1),
    ):
        draw_dataset(tmp_path, (name,), count, seed=len(name))
    dataset = scan(tmp_path)
    found = {(finding.kind, finding.message) for finding in dataset.findings}
    assert found == {
        (
            "missing-class",
            "Shirt has no photo in test; 'shirt' differs only in upper and lower case",
        ),
        (
            "missing-class",
            "shirt has no photo in train; 'Shirt' differs only in upper and lower case",
        ),
        (
            "similar-labels",
            "'Shirt' (12 photos) and 'shirt' (2 photos) differ only in upper and lower case: "
            "they are different classes; rename them if they are one",
        ),
        ("small-class", "few has 5 photos in train; at least 10 are needed, 50 are recommended"),
        ("imbalance", "many has 60 photos, few 5: 12 times as many"),
    }


def test_one_class_and_one_photo(make_dataset: MakeDataset) -> None:
    dataset = scan(make_dataset(labels=("only",), count=1))
    assert [finding.kind for finding in dataset.findings] == ["small-class", "small-class"]
    assert "1 photo;" in dataset.findings[0].message
    assert "at least two" in dataset.findings[1].message
    assert class_findings(Dataset(Path(), ())) == []


def test_invalid_records_are_refused() -> None:
    with pytest.raises(DatasetError, match="'dev'; it must be one of train, validation, test"):
        Sample(Path("a"), "a", "dev", "0" * 64, "a")
    with pytest.raises(DatasetError, match="64 hexadecimal digits"):
        Sample(Path("a"), "a", None, "0", "a")
    with pytest.raises(ValueError, match="must be one of"):
        Finding("bug", (), "")
    with pytest.raises(DatasetError, match="as many groups"):
        Dataset(Path(), (Sample(Path("a"), "a", None, "0" * 64, "a"),), (), (0, 1))
    assert all(Finding(kind, (), "").as_dict()["kind"] == kind for kind in KINDS)


@needs_shared
def test_the_clothing_photos() -> None:
    dataset = scan(CLOTHING)
    assert len(dataset) == 3781
    assert dataset.counts["t-shirt"] == 928
    assert {name: sum(counts.values()) for name, counts in dataset.splits.items()} == {
        "train": 3068,
        "validation": 341,
        "test": 372,
    }
    # The pair of dresses is one photo and a crop of it.
    found = {finding.kind: finding.paths for finding in dataset.findings}
    assert len(dataset.findings) == 2 and found.keys() == {"conflicting-label", "near-duplicate"}
    assert [path[:13] for path in found["near-duplicate"]] == ["train/dress/b", "train/dress/e"]
    assert scan(CLOTHING).as_dict() == dataset.as_dict()
