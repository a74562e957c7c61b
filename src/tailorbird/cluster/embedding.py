"""Scan and embed on a cluster, for `train`: workers read photos and write to the shared cache.

    driver    lists the files, gives runs of them to workers, receives digests and errors
    workers   read, hash, decode and embed as a scan does, and write facts, corners and features
    driver    reads what is new in the cache, and trains as if it had computed it

All machines share the photos and the cache folder under the same names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tailorbird
from tailorbird import parallel
from tailorbird.backbone import Backbone, open_backbone
from tailorbird.cluster.running import Spread, check_version, reported
from tailorbird.dataset.scanner import FileReader, ReadFile
from tailorbird.errors import BackboneError, ImageError
from tailorbird.features import Embedder
from tailorbird.files import cache_folder
from tailorbird.images import decode, read_bytes
from tailorbird.inference import DeviceChoice, chosen, use_device

FEWEST: Final = 32
MOST: Final = 1024
"""Photos that a worker gets at a time; a worker that dies costs as many."""


@dataclass(frozen=True)
class Embedding:
    """What the workers open.

    Attributes:
        backbones: the files, which every machine reaches.
        mirror: as for `open_backbone`.
        device: where the backbones run.
        cache: the cache folder, which every machine shares.
        view: the view to embed; 0 is the photo itself.
        version: of tailorbird.
    """

    backbones: tuple[str, ...]
    mirror: bool
    device: DeviceChoice
    cache: str
    view: int
    version: str


class ClusterEmbedding:
    """Reads and embeds photos on a cluster: the `Elsewhere` of a scan and of an Embedder."""

    def __init__(
        self,
        ray: Any,
        backbone: Backbone,
        *,
        device: DeviceChoice | None = None,
        workers: int | None = None,
    ) -> None:
        """Prepare for a connected cluster.

        Args:
            ray: the module, connected.
            backbone: whose files the workers reach under the same names.
            device: where workers run it; None: as asked for by `use_device`.
            workers: number of workers; None: one for each core or GPU.
        """
        self._device = device or chosen()
        self._spread = Spread(ray, self._device, workers)
        self._backbones = tuple(str(part.path.absolute()) for part in backbone.parts)
        self._mirror = backbone.info.mirror
        self.processes: set[int] = set()
        """The workers so far, by the number of their process on their machine."""

    def read(self, paths: Sequence[Path]) -> Iterator[ReadFile]:
        """Read, hash and embed files; yield one result for each."""
        for row in self._rows(paths, 0):
            digests, errors = row["digests"], json.loads(row["errors"])
            for i in range(row["files"]):
                error = errors.get(str(i))
                yield ReadFile(
                    row["start"] + i,
                    digests[32 * i : 32 * i + 32],
                    None if error is None else (error[0], error[1]),
                )

    def embed(self, paths: Sequence[Path], view: int) -> Iterator[int]:
        """Compute features of a view; yield how many photos more are in the cache."""
        for row in self._rows(paths, view):
            yield row["files"]

    def _rows(self, paths: Sequence[Path], view: int) -> Iterator[dict[str, Any]]:
        size = -(-len(paths) // (4 * self._spread.share.workers))
        size = min(MOST, max(FEWEST, size))
        items = [
            {"start": start, "paths": [os.fsencode(path.absolute()) for path in part]}
            for start in range(0, len(paths), size)
            if (part := paths[start : start + size])
        ]
        task = Embedding(
            self._backbones,
            self._mirror,
            self._device,
            str(cache_folder().absolute()),
            view,
            tailorbird.__version__,
        )
        for row in self._spread.over(EmbeddingWorker, (task,), items):
            self.processes.add(row["process"])
            yield row


class EmbeddingWorker:
    """A worker process of Ray: opens the backbone and the cache once, and embeds runs of files."""

    def __init__(self, task: Embedding) -> None:
        self._task = task
        self._embedder: Embedder | None = None
        self._reader: FileReader | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Embed the files of one item."""
        start, (names,) = int(batch["start"][0]), batch["paths"]
        paths = [Path(os.fsdecode(name)) for name in names]
        row = {
            "start": start,
            "files": len(paths),
            "digests": b"",
            "errors": "{}",
            "process": os.getpid(),
        }
        return reported(row, lambda: self._row(paths))

    def _opened(self) -> Embedder:
        if self._embedder is None:
            task = self._task
            check_version(task.version)
            os.environ["TAILORBIRD_CACHE"] = task.cache
            with use_device(task.device.name, half=task.device.half):
                backbone = open_backbone(",".join(task.backbones), mirror=task.mirror)
                self._embedder = Embedder(backbone, view=task.view)
            self._reader = FileReader(self._embedder)
        return self._embedder

    def _row(self, paths: Sequence[Path]) -> dict[str, Any]:
        embedder = self._opened()
        assert self._reader is not None
        if self._task.view:
            list(parallel.ordered(lambda path: _see(embedder, path), paths))
            embedder.flush()
            return {}
        found = self._reader.read(paths)
        embedder.flush()
        for file in found:
            if file.digest in embedder.not_finite:
                raise BackboneError(
                    f"the backbone {embedder.backbone.info.name} gives features of "
                    f"{paths[file.number]} that are NaN or infinite; use another backbone, or "
                    "leave the photo out"
                )
        return {
            "digests": b"".join(file.digest for file in found),
            "errors": json.dumps({file.number: file.error for file in found if file.error}),
        }


def _see(embedder: Embedder, path: Path) -> None:
    """Embed a view of one photo. Raises ImageError."""
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).digest()
        if embedder.wants(digest):
            embedder.see(digest, decode(data, at_least=embedder.at_least).image)
    except ImageError as error:
        raise type(error)(f"{path}: {error}; it was fine when the dataset was scanned") from None
