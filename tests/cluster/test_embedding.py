"""Training with photos that a cluster read and embedded is training without one."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import MakeDataset, encoded, picture
from tailorbird.backbone import open_backbone
from tailorbird.cluster.embedding import ClusterEmbedding
from tailorbird.cluster.running import RaySettings
from tailorbird.cluster.training import train as train_on_cluster
from tailorbird.dataset.duplicates.facts import open_facts
from tailorbird.errors import StorageError
from tailorbird.features import open_store
from tailorbird.files import RowStore
from tailorbird.head import Head
from tailorbird.progress import NoProgress
from tailorbird.training import TrainResult, TrainSettings, train

SETTINGS = TrainSettings(backbone="pocket", views=2, mirror=True, report=False)


@pytest.fixture
def photos(make_dataset: MakeDataset) -> Path:
    """Return photos with a copy, a file that is none, and a file that is empty."""
    folder = make_dataset(count=14)
    content = encoded(picture("disc", 7), "JPEG")
    (folder / "disc" / "copy 1 ä.jpg").write_bytes(content)
    (folder / "disc" / "copy 2.jpg").write_bytes(content)
    (folder / "box" / "notes.jpg").write_bytes(b"no photo")
    (folder / "box" / "empty.jpg").write_bytes(b"")
    return folder


def contents(store: RowStore | None) -> dict[bytes, bytes]:
    """Return the rows of a store by their keys."""
    assert store is not None
    keys = sorted(store.keys())
    return {key: row.tobytes() for key, row in zip(keys, store.get(keys), strict=True)}


def cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[bytes, bytes]]:
    """Return everything that is known of photos in a cache folder."""
    monkeypatch.setenv("TAILORBIRD_CACHE", str(folder))
    info = open_backbone("pocket").info
    stores = [
        open_store(info, view, mirrored=mirrored) for view in (0, 1) for mirrored in (False, True)
    ]
    return [contents(store) for store in (*stores, open_facts())]


def trained_here(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainResult:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(folder / "cache"))
    return train(photos, folder / "here.onnx", SETTINGS)


def weights(result: TrainResult) -> list[Any]:
    assert result.fit is not None
    head: Head = result.fit.head
    return [array for layer in head.layers for array in (layer.weight, layer.bias)]


def assert_same(there: TrainResult, here: TrainResult) -> None:
    """Two trainings have the same data, scores and weights."""
    assert there.dataset == here.dataset and there.info.scores == here.info.scores
    for mine, theirs in zip(weights(there), weights(here), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_cluster_fills_the_cache_as_one_process_does(
    cluster: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = trained_here(photos, tmp_path, monkeypatch)
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "shared"))
    there = train_on_cluster(
        photos,
        tmp_path / "there.onnx",
        SETTINGS,
        RaySettings("local", 2),
        progress=NoProgress(),
        run=train,
    )
    assert there.left_out == here.left_out and there.embedded == here.embedded
    assert_same(there, here)
    assert cached(tmp_path / "shared", monkeypatch) == cached(tmp_path / "cache", monkeypatch)


@pytest.mark.slow
def test_a_worker_killed_in_the_midst_changes_nothing(
    cluster: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = trained_here(photos, tmp_path, monkeypatch)
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "shared"))
    monkeypatch.setattr("tailorbird.cluster.embedding.FEWEST", 3)
    monkeypatch.setattr("tailorbird.cluster.embedding.MOST", 3)
    elsewhere = ClusterEmbedding(cluster, open_backbone("pocket", mirror=True), workers=2)
    killed: list[int] = []

    class Killing:
        def stage(self, name: str, total: int | None = None) -> None: ...

        def advance(self, done: int, total: int) -> None:
            if elsewhere.processes and not killed and done < total:
                killed.append(min(elsewhere.processes))
                os.kill(killed[0], signal.SIGKILL)

        def note(self, text: str) -> None: ...

        def metrics(self, **values: float) -> None: ...

    there = train(
        photos,
        tmp_path / "there.onnx",
        SETTINGS,
        elsewhere=lambda backbone: elsewhere,
        progress=Killing(),
    )
    assert killed
    assert_same(there, here)
    assert cached(tmp_path / "shared", monkeypatch) == cached(tmp_path / "cache", monkeypatch)


def test_what_is_cached_is_not_computed_again(
    cluster: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = trained_here(photos, tmp_path, monkeypatch)
    elsewhere = partial(ClusterEmbedding, cluster, workers=1)
    again = train(photos, tmp_path / "again.onnx", SETTINGS, elsewhere=elsewhere)
    assert again.embedded == 0 and again.dataset == here.dataset


def test_a_cache_that_workers_do_not_share_is_named(
    cluster: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.cluster.embedding.cache_folder", lambda: tmp_path / "other")
    elsewhere = partial(ClusterEmbedding, cluster, workers=1)
    with pytest.raises(StorageError, match="every machine must share that folder"):
        train(photos, tmp_path / "m.onnx", SETTINGS, elsewhere=elsewhere)
