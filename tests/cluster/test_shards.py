"""A head trained on Parquet shards is the head of the same features in memory."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from support.data import MakeDataset
from tailorbird.cluster.partitions import Job
from tailorbird.cluster.running import run
from tailorbird.cluster.shards import train_on_shards
from tailorbird.cluster.work import Features
from tailorbird.errors import DatasetError
from tailorbird.head import search


@pytest.fixture
def shards(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    """Return features of 60 photos; each fifth is for validation, one is none, one has no label."""
    photos = make_dataset(count=20)
    (photos / "disc" / "none.jpg").write_bytes(b"nothing")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
            label = path.parent.name if number != 7 else ""
            rows.writerow([path, label, "train" if number % 5 else "validation"])
    run(Job([str(tmp_path / "list.csv")], str(tmp_path / "out"), rows=9), Features.of("pocket"))
    return tmp_path / "out"


def test_a_head_on_shards_is_that_of_features_in_memory(shards: Path) -> None:
    found = train_on_shards(shards, fixed={"epochs": 5}, seed=1)
    assert found.classes == ("box", "cross", "disc")
    table = pa.concat_tables([parquet.read_table(one) for one in sorted(shards.glob("part-*"))])
    rows = [row for row in table.to_pylist() if row["error"] is None and row["label"]]
    assert found.samples == {
        name: sum(row["split"] == name for row in rows) for name in ("train", "validation")
    }

    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        some = [row for row in rows if row["split"] == name]
        labels = [found.classes.index(row["label"]) for row in some]
        return np.array([row["features"] for row in some], np.float32), np.array(labels)

    train, labels = part("train")
    held, held_labels = part("validation")
    here = search(train[None], labels, held, held_labels, classes=3, fixed={"epochs": 5}, seed=1)
    np.testing.assert_allclose(
        found.found.best.head.logits(held), here.best.head.logits(held), atol=1e-4
    )


def test_shards_without_labels_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no Parquet files"):
        train_on_shards(tmp_path)
    (tmp_path / "bare").mkdir()
    for part in shards.glob("part-*.parquet"):
        table = parquet.read_table(part)
        bare = table.set_column(1, "label", pa.nulls(len(table), pa.string()))
        parquet.write_table(bare, tmp_path / "bare" / part.name)
    with pytest.raises(DatasetError, match="the manifest needs the columns label and split"):
        train_on_shards(tmp_path / "bare")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "bare" / "a.parquet")
    with pytest.raises(DatasetError, match="has no column error, features, label, split"):
        train_on_shards(tmp_path / "bare")
