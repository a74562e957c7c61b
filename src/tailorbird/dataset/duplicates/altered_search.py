"""Search a dataset for copies that were turned by any angle, mirrored, cropped or resized.

The verdict on each pair is cached, so that adding photos costs only the new pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird import images
from tailorbird.dataset.duplicates.altered_copies import confirmed, moves, neighbours
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.disjoint_sets import DisjointSets
from tailorbird.dataset.duplicates.facts import open_verdicts, remember
from tailorbird.dataset.duplicates.similarity import DECODED
from tailorbird.dataset.samples import Sample
from tailorbird.errors import ImageError
from tailorbird.images import DECODING
from tailorbird.parallel import one_blas_thread

Pair = tuple[int, int]

_VERSION: Final = f"altered-2-{DECODING}"
"""Part of every key; raised when the search finds other copies."""

_LOADED: Final = 20_000
"""Pairs whose corners are in memory at the same time, at most 110 MB."""

_BATCH: Final = 256


class AlteredSearch:
    """Search samples for pairs that show the same picture, altered."""

    def __init__(
        self,
        samples: Sequence[Sample],
        corners: CornerStore,
        pool: ThreadPoolExecutor,
        *,
        store: bool,
    ) -> None:
        """Prepare a search.

        Args:
            samples: photos; the numbers of items below are their positions.
            corners: corners of all of them.
            pool: threads that decode candidates.
            store: read and write the cache folder.
        """
        self._samples = samples
        self._corners = corners
        self._pool = pool
        self._store = store
        self.complete = True
        """Whether all candidates could be read."""

    def run(self, items: Sequence[int], groups: DisjointSets) -> list[Pair]:
        """Return pairs of items that are copies, beyond those that `groups` has united already."""
        items = sorted(items, key=lambda item: self._samples[item].digest)
        digests = [bytes.fromhex(self._samples[item].digest) for item in items]
        left, right = neighbours(self._corners.vectors(digests))
        candidates = [
            (a, b)
            for a, b in zip(left.tolist(), right.tolist(), strict=True)
            if groups.root(items[a]) != groups.root(items[b])
        ]
        return [(items[a], items[b]) for a, b in self._verified(items, candidates)]

    def _verified(self, items: Sequence[int], pairs: list[Pair]) -> list[Pair]:
        """Return the pairs that are copies; positions in `items`."""
        digests = [self._samples[item].digest for item in items]
        keys = {
            (a, b): hashlib.sha256(f"{_VERSION}{digests[a]}{digests[b]}".encode()).digest()
            for a, b in pairs
        }
        store = open_verdicts() if self._store else None
        verdicts: dict[Pair, int] = {}
        if store is not None:
            stored = [pair for pair in pairs if keys[pair] in store]
            with contextlib.suppress(KeyError):
                values = store.get([keys[pair] for pair in stored])[:, 0].tolist()
                verdicts = dict(zip(stored, values, strict=True))
        unknown = [pair for pair in pairs if pair not in verdicts]
        for start in range(0, len(unknown), _LOADED):
            with one_blas_thread():
                new = self._compared(items, unknown[start : start + _LOADED])
            remember(store, [keys[pair] for pair in new], list(new.values()))
            verdicts.update(new)
        return [pair for pair in pairs if verdicts.get(pair)]

    def _compared(self, items: Sequence[int], pairs: list[Pair]) -> dict[Pair, int]:
        """Return whether pairs are copies, by corners and then pixels; without unreadable ones."""
        row = {a: number for number, a in enumerate(sorted({a for pair in pairs for a in pair}))}
        rows = self._corners.corners([bytes.fromhex(self._samples[items[a]].digest) for a in row])
        verdicts: dict[Pair, int] = {}
        likely: list[tuple[Pair, int, npt.NDArray[np.float64]]] = []
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            found = moves(*(rows[[row[pair[side]] for pair in part]] for side in (0, 1)))
            verdicts.update(dict.fromkeys(part, 0))
            likely += [
                (part[i], int(found.agreeing[i]), found.matrix[i])
                for i in np.flatnonzero(found.likely)
            ]

        def confirm(one: tuple[Pair, int, npt.NDArray[np.float64]]) -> bool | None:
            pair, agreeing, matrix = one
            paths = (self._samples[items[a]].path for a in pair)
            try:
                first, second = (images.decode(path, at_least=DECODED).image for path in paths)
            except ImageError:
                return None  # gone or changed since it was scanned
            return confirmed(first, second, matrix, agreeing)

        for (pair, *_), same in zip(likely, self._pool.map(confirm, likely), strict=True):
            if same is None:
                self.complete = False
                del verdicts[pair]
            else:
                verdicts[pair] = int(same)
        return verdicts
