"""Train a head on Parquet shards of features, which need not fit in memory.

The shards are what `tailorbird features` writes of a manifest with labels and splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.cluster import storage
from tailorbird.errors import DatasetError
from tailorbird.head import SearchResult, search
from tailorbird.head.stored import StoredRows
from tailorbird.progress import Progress

_ROWS: Final = 4096
SPLITS: Final = ("train", "validation")


@dataclass(frozen=True)
class ShardHead:
    """A head trained on shards.

    classes: C labels, in the order of the logits. found: the head and all trials. samples: used of
    train and of validation.
    """

    classes: tuple[str, ...]
    found: SearchResult
    samples: Mapping[str, int]


def train_on_shards(
    folder: str | Path,
    *,
    fixed: Mapping[str, object] | None = None,
    seed: int = 0,
    scratch: str | Path | None = None,
    progress: Progress | None = None,
) -> ShardHead:
    """Search and train a head as `train` does, on the shards of a folder.

    Args:
        folder: of `*.parquet` files with the columns features, label and split; rows with an
            error, without a label or of another split are left out.
        fixed: fields of HeadSettings that are not searched.
        seed: of the search and the fits.
        scratch: folder for a temporary file as large as the features; None: the system's.
        progress: receives the stage `head`.

    Raises:
        DatasetError: there are no shards, fewer than two classes, or no validation.
        StorageError: there is no room for the temporary file.
        TrainingError: every configuration failed.
    """
    storage.pyarrow()
    paths = sorted(path for path in Path(folder).glob("*.parquet") if path.name[0] not in "_.")
    if not paths:
        raise DatasetError(f"{folder} holds no Parquet files; give the output of features")
    counts, names, width = _counted(paths)
    classes = tuple(sorted(names))
    if len(classes) < 2 or not all(counts.values()):
        raise DatasetError(
            f"{folder} has {len(classes)} classes, and {counts['train']:,} rows of train and "
            f"{counts['validation']:,} of validation; at least two classes and a row of each split "
            "are needed: the manifest needs the columns label and split"
        )
    number = {label: index for index, label in enumerate(classes)}
    rows = {name: StoredRows((1, counts[name], width), scratch) for name in SPLITS}
    labels = {name: np.empty(counts[name], np.int64) for name in SPLITS}
    filled = dict.fromkeys(SPLITS, 0)
    for split, features, found in _usable(paths):
        start = filled[split]
        rows[split].write(0, start, features)
        labels[split][start : start + len(found)] = [number[label] for label in found]
        filled[split] += len(found)
    result = search(
        rows["train"],
        labels["train"],
        rows["validation"],
        labels["validation"],
        classes=len(classes),
        fixed=fixed,
        seed=seed,
        progress=progress,
    )
    for one in rows.values():
        one.close()
    return ShardHead(classes, result, counts)


def _counted(paths: list[Path]) -> tuple[dict[str, int], set[str], int]:
    """Return the usable rows of each split, the labels of train, and the width of the features."""
    counts, labels, width = dict.fromkeys(SPLITS, 0), set(), 0
    for path in paths:
        with _opened(path) as file:
            width = file.schema_arrow.field("features").type.list_size
            for batch in file.iter_batches(_ROWS, columns=["label", "split", "error"]):
                for row in batch.to_pylist():
                    if row["error"] is None and row["label"] and row["split"] in counts:
                        counts[row["split"]] += 1
                        labels.add(row["label"])
    return counts, labels, width


def _usable(paths: list[Path]) -> Iterator[tuple[str, npt.NDArray[np.float32], list[str]]]:
    """Yield the split, the features (n, K) and the labels of usable rows, a few at a time."""
    for path in paths:
        with _opened(path) as file:
            for batch in file.iter_batches(_ROWS):
                columns = {name: batch.column(name) for name in ("label", "split", "error")}
                told = {name: column.to_pylist() for name, column in columns.items()}
                features = batch.column("features")
                width = features.type.list_size
                # The values of rows without features are there as well.
                values = features.values.slice(features.offset * width, len(features) * width)
                matrix = values.to_numpy(zero_copy_only=False).reshape(len(features), width)
                for split in SPLITS:
                    kept = [
                        i
                        for i in range(len(features))
                        if told["split"][i] == split
                        and told["label"][i]
                        and told["error"][i] is None
                    ]
                    if kept:
                        yield split, matrix[kept], [told["label"][i] for i in kept]


def _opened(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet

    try:
        file = parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {storage.reason(error)}") from None
    missing = {"features", "label", "split", "error"} - set(file.schema_arrow.names)
    if missing:
        raise DatasetError(
            f"{path} has no column {', '.join(sorted(missing))}; give the output of features"
        )
    return file
