from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from support.data import MakeDataset, encoded, picture
from tailorbird.backbone import Backbone, open_backbone
from tailorbird.dataset import scan
from tailorbird.errors import BackboneError, StorageError, UnreadableImage
from tailorbird.features import CHUNK_ROWS, Embedder, embed, open_store
from tailorbird.files.cache import cache_entries, clear_cache
from tailorbird.images import Augmentation, load, resize


@pytest.fixture(scope="module")
def pocket() -> Backbone:
    return open_backbone("pocket")


def test_scan_embeds_in_the_same_pass_and_rows_match_the_backbone(
    pocket: Backbone, shapes: Path
) -> None:
    embedder = Embedder(pocket)
    dataset = scan(shapes, visitor=embedder)
    embedder.flush()
    assert embedder.embedded == len(dataset.samples) == 72
    found = embedder.matrix(dataset.samples)
    for i in (0, 31, 71):
        pixels = load(dataset.samples[i].path, pocket.info.rule)
        assert np.allclose(found[i], pocket.features(pixels[None])[0], atol=1e-4)
    again = Embedder(pocket)
    scan(shapes, visitor=again)
    again.flush()
    assert again.embedded == 0, "the second run finds everything"


def test_views_differ_and_are_the_same_every_time(pocket: Backbone, shapes: Path) -> None:
    dataset = scan(shapes)
    matrices = []
    for view in (1, 2):
        embedder = Embedder(pocket, view=view)
        embed(dataset.samples, embedder)
        matrices.append(embedder.matrix(dataset.samples))
    assert np.abs(matrices[0] - matrices[1]).mean() > 0.01
    clear_cache()
    embedder = Embedder(pocket, view=1)
    embed(dataset.samples, embedder)
    assert np.allclose(embedder.matrix(dataset.samples), matrices[0], atol=1e-4)


def test_a_key_is_content_backbone_rule_and_view(pocket: Backbone) -> None:
    plain, view = open_store(pocket.info), open_store(pocket.info, 1)
    other = open_store(pocket.info, 1, Augmentation(rotation=30))
    assert len({plain.folder, view.folder, other.folder}) == 3
    assert (
        pocket.info.sha256[:32] in plain.folder.parent.name
        and pocket.info.rule.key in plain.folder.parent.name
    )


def test_a_full_disk_keeps_what_was_written(
    pocket: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(pocket)
    image = picture("disc", 1)
    for number in range(CHUNK_ROWS):
        embedder.see(number.to_bytes(32, "big"), image)
    assert len(open_store(pocket.info)) == CHUNK_ROWS

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    embedder.see((10**6).to_bytes(32, "big"), image)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            embedder.flush()
    assert len(open_store(pocket.info)) == CHUNK_ROWS


def test_a_photo_that_changed_since_the_scan_is_named(
    pocket: Backbone, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(labels=("disc", "box"), count=4)
    dataset = scan(folder)
    victim = dataset.samples[5].path
    original = victim.read_bytes()
    victim.write_bytes(encoded(picture("disc", 77)))
    with pytest.raises(
        UnreadableImage,
        match=rf"{victim.name}: the file has changed since; it was fine when the dataset was "
        "scanned; run again",
    ):
        embed(dataset.samples, Embedder(pocket, view=1))
    victim.write_bytes(original)
    embed(dataset.samples, Embedder(pocket, view=1))


def test_a_disk_that_fills_during_the_views_is_named(
    pocket: Backbone, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = scan(shapes)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            embed(dataset.samples, Embedder(pocket, view=1))


def test_a_cache_cleared_under_way_is_an_error_that_says_so(pocket: Backbone, shapes: Path) -> None:
    dataset = scan(shapes)
    embedder = Embedder(pocket)
    embed(dataset.samples, embedder)
    clear_cache()
    with pytest.raises(
        StorageError,
        match="the feature cache was cleared or damaged while it was in use; run the command again",
    ):
        embedder.matrix(dataset.samples)


def test_cache_entries_and_clear(pocket: Backbone, shapes: Path, own_cache: Path) -> None:
    assert cache_entries() == []
    embedder = Embedder(pocket)
    scan(shapes, visitor=embedder)
    embedder.flush()
    (own_cache / "backbones").mkdir()
    (own_cache / "backbones" / "mine.backbone.onnx").write_bytes(b"x" * 10)
    kinds = {entry.kind: entry for entry in cache_entries()}
    assert set(kinds) - {"pairs"} == {
        "facts",
        "corners",
        "summaries",
        "copies",
        "features",
        "backbone",
    }
    assert (
        kinds["features"].name == f"pocket ({pocket.info.rule.key})"
        and kinds["features"].bytes > 72 * 512 * 4
    )
    assert clear_cache() > 72 * 512 * 4
    assert [entry.kind for entry in cache_entries()] == ["backbone"]
    assert [path.name for path in own_cache.iterdir()] in (
        ["backbones"],
        ["features", "backbones"],
        ["backbones", "features"],
    )
    assert clear_cache(backbones=True) == 10 and cache_entries() == []


EMBED = """
import itertools, sys, time
from tailorbird import features
from tailorbird.backbone import open_backbone
from tailorbird.dataset import scan
features.CHUNK_ROWS = 16
seen = itertools.count(1)
class Stopping(features.Embedder):
    def see(self, digest, image):
        if next(seen) > 40:
            time.sleep(600)
        super().see(digest, image)
embedder = Stopping(open_backbone("pocket"))
scan(sys.argv[1], visitor=embedder)
embedder.flush()
"""


def test_kill_9_while_embedding_costs_at_most_a_chunk(pocket: Backbone, shapes: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", EMBED, str(shapes)])
    folder = open_store(pocket.info).folder
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.rows"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = open_store(pocket.info)
    assert kept.damaged == 0 and len(kept) == 32, "two chunks of 16 were finished"
    embedder = Embedder(pocket)
    dataset = scan(shapes, visitor=embedder)
    embedder.flush()
    assert embedder.embedded == 72 - len(kept), "the second run does only what is missing"
    assert np.isfinite(embedder.matrix(dataset.samples)).all()


def test_pixels_come_from_the_one_resize_rule(pocket: Backbone) -> None:
    embedder = Embedder(pocket)
    image = picture("cross", 3)
    embedder.see(b"a" * 32, image)
    seen = embedder._batch[0][1]
    assert np.array_equal(seen, resize(image, pocket.info.rule))


def test_features_that_are_not_finite_are_not_cached_and_their_photo_is_named(
    pocket: Backbone, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = scan(make_dataset(labels=("disc", "box"), count=10))
    honest = pocket.features
    bad = load(dataset.samples[13].path, pocket.info.rule)

    def damaged(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = honest(images)
        rows[(images == bad).all(axis=(1, 2, 3)), 7] = np.nan
        return rows

    monkeypatch.setattr(pocket, "features", damaged)
    embedder = Embedder(pocket)
    embed(dataset.samples, embedder)
    name = dataset.samples[13].name
    with pytest.raises(BackboneError, match=rf"pocket gives features of {name} that are NaN"):
        embedder.matrix(dataset.samples)
    assert len(open_store(pocket.info)) == 19
