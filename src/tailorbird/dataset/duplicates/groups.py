"""Which samples show the same picture: identical files, and copies that were re-encoded, resized, brightened or cropped.

Four sieves, each finer and dearer than the one before: similar perceptual hashes, similar sketches, sketches that agree
when aligned, and pixels that agree when aligned. Only what passes all is reported; a sample is decoded again only for the last.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import images
from tailorbird.dataset.duplicates.hash_neighbours import Pairs, near_pairs
from tailorbird.dataset.duplicates.similarity import (
    DECODED,
    SKETCH,
    Prepared,
    blur,
    compare,
    prepare,
    sketches_agree,
)
from tailorbird.dataset.facts import open_verdicts, remember
from tailorbird.dataset.samples import SPLITS, Finding, Sample
from tailorbird.errors import ImageError

RADIUS: Final = 14
"""Bits in which the hashes of two candidates may differ: a crop of 3% on every side changes 14 or fewer 19 times in 20."""

GROUP_KINDS: Final = ("conflicting-label", "leak", "near-duplicate", "duplicate")
"""The kinds of findings about several photos, in the order in which they are reported."""

_COSINE: Final = 0.75  # of band-passed sketches; 99.5% of copies that pass the hash reach 0.76
_REJECTIONS: Final = (
    3  # comparisons in vain after which a photo is not compared with less likely candidates
)
_BATCH: Final = 256
_PREPARED: Final = 600  # pictures kept ready to compare, about 65 KB each


def duplicate_groups(
    samples: Sequence[Sample], facts: npt.NDArray[Any], *, workers: int = 1, store: bool = True
) -> npt.NDArray[np.int64]:
    """For each of N samples the number of its group, int64 (N,); samples of the same picture share it.

    facts: what is known of each, (N,) of type `facts.FACTS`. workers: threads that decode candidates. store: remember the
    verdicts in the cache folder. Nearness is handed on: where A equals B and B equals C, all three are one group.
    """
    first: dict[str, int] = {}
    representative = np.array(
        [first.setdefault(sample.digest, i) for i, sample in enumerate(samples)]
    )
    distinct = np.fromiter(first.values(), np.int64, len(first))
    groups = _Groups(len(samples))
    left, right = _candidates(facts, distinct)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        judge = _Judge(samples, pool, store)
        try:
            _sift(left, right, facts["sketch"], groups, judge)
        finally:
            judge.finish()
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(groups.root(i), len(numbers)) for i in representative.tolist()],
        np.int64,
    )


def _candidates(facts: npt.NDArray[Any], distinct: npt.NDArray[np.int64]) -> Pairs:
    """Pairs of the samples `distinct` with similar hashes and similar sketches, the likeliest first."""
    left, right = near_pairs(facts["phash"][distinct], RADIUS)
    features = _features(facts["sketch"], distinct)
    cosine = np.empty(len(left), np.float32)
    for start in range(0, len(left), 16_384):
        part = slice(start, start + 16_384)
        a, b = features[left[part]].astype(np.float32), features[right[part]].astype(np.float32)
        norm = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
        # Sketches without any structure, as of blank pictures, count as alike.
        cosine[part] = np.where(
            norm > 0,
            np.einsum("ij,ij->i", a, b) / np.maximum(norm, 1),
            np.maximum(0, 1 - np.abs(a - b).max(1)),
        )
    likely = np.flatnonzero(cosine >= _COSINE)
    likely = likely[np.argsort(-cosine[likely], kind="stable")]
    return distinct[left[likely]], distinct[right[likely]]


def _features(
    sketches: npt.NDArray[np.uint8], distinct: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """Band-passed sketches at half the side, scaled to int8: (N, 32, 32) to (N, 256). All zero where there is no structure."""
    half = SKETCH // 2
    result = np.empty((len(distinct), half * half), np.int8)
    for start in range(0, len(distinct), 256):
        grey = sketches[distinct[start : start + 256]].astype(np.float32)
        small = blur(grey).reshape(-1, half, 2, half, 2).mean((2, 4))
        band = (small - blur(blur(small))).reshape(len(grey), -1)
        spread = band.std(1, keepdims=True)
        result[start : start + 256] = np.where(
            spread > 0.5, np.clip(np.rint(band / np.maximum(spread, 1e-6) * 20), -127, 127), 0
        )
    return result


class _Groups:
    """Disjoint sets of N items."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)


def _sift(
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    sketches: npt.NDArray[np.uint8],
    groups: _Groups,
    judge: _Judge,
) -> None:
    """Join the pairs that are the same picture.

    The work is bounded: a pair is skipped when it is joined already, or when both photos were compared in vain often
    enough; and beyond as many comparisons as there are photos (at least 20,000) the less likely pairs are let go.
    """
    vain = np.zeros(len(sketches), np.int64)
    budget = max(20_000, len(sketches))
    for start in range(0, len(left), _BATCH):
        batch = [
            (a, b)
            for a, b in zip(
                left[start : start + _BATCH].tolist(),
                right[start : start + _BATCH].tolist(),
                strict=True,
            )
            if min(vain[a], vain[b]) < _REJECTIONS and groups.root(a) != groups.root(b)
        ]
        if not batch:
            continue
        budget -= len(batch)
        a, b = np.array(batch).T
        agree = sketches_agree(sketches[a], sketches[b])
        likely = [pair for pair, yes in zip(batch, agree, strict=True) if yes]
        same = set(judge.same(likely, groups))
        for pair in batch:
            if pair not in same:
                vain[list(pair)] += 1
        if budget < 0:
            return


class _Judge:
    """Decides pairs on their pixels, and remembers pictures and verdicts."""

    def __init__(self, samples: Sequence[Sample], pool: ThreadPoolExecutor, store: bool) -> None:
        self._samples = samples
        self._pool = pool
        self._store = open_verdicts() if store else None
        self._new: dict[bytes, int] = {}
        self._prepared: OrderedDict[int, Prepared | None] = OrderedDict()

    def same(self, pairs: list[tuple[int, int]], groups: _Groups) -> list[tuple[int, int]]:
        """The pairs that are the same picture, or joined already through others; they are joined in `groups`."""
        keys = [self._key(a, b) for a, b in pairs]
        verdicts = self._remembered(keys)
        self._decode(
            [
                item
                for pair, key in zip(pairs, keys, strict=True)
                if key not in verdicts
                for item in pair
            ]
        )
        result = []
        for (a, b), key in zip(pairs, keys, strict=True):
            if groups.root(a) == groups.root(b):
                result.append((a, b))
                continue
            verdict = verdicts.get(key)
            if verdict is None:
                first, second = self._prepared.get(a), self._prepared.get(b)
                if first is None or second is None:
                    continue  # a file that could not be read just now; nothing is learned about the pair
                verdict = int(compare(first, second).same)
                self._new[key] = verdict
            if verdict:
                groups.join(a, b)
                result.append((a, b))
        return result

    def finish(self) -> None:
        """Write the new verdicts to the cache."""
        keys = list(self._new)
        for start in range(0, len(keys), 65_536):
            part = keys[start : start + 65_536]
            remember(self._store, part, [self._new[key] for key in part])

    def _key(self, a: int, b: int) -> bytes:
        return hashlib.sha256(
            "".join(sorted((self._samples[a].digest, self._samples[b].digest))).encode()
        ).digest()

    def _remembered(self, keys: list[bytes]) -> dict[bytes, int]:
        known = [key for key in keys if self._store is not None and key in self._store]
        if self._store is None or not known:
            return {}
        try:
            return dict(zip(known, self._store.get(known)[:, 0].tolist(), strict=True))
        except KeyError:
            return {}

    def _decode(self, items: list[int]) -> None:
        missing = [item for item in dict.fromkeys(items) if item not in self._prepared]
        self._prepared.update(zip(missing, self._pool.map(self._ready, missing), strict=True))
        for item in items:
            self._prepared.move_to_end(item)
        while len(self._prepared) > max(_PREPARED, len(set(items))):
            self._prepared.popitem(last=False)

    def _ready(self, item: int) -> Prepared | None:
        try:
            return prepare(images.decode(self._samples[item].path, at_least=DECODED).image)
        except ImageError:
            return None  # gone or changed since it was scanned


def same_pictures(pictures: Sequence[int]) -> list[list[int]]:
    """Return the groups of two and more samples with the same picture, as sample numbers."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        members[picture].append(i)
    return [alike for alike in members.values() if len(alike) > 1]


def group_findings(alike: Sequence[Sample]) -> list[Finding]:
    """Return what is wrong with samples that show the same picture, under its most serious kind.

    conflicting-label and leak are both serious: a group that is both is reported under both. The
    rest is duplicate where all files are identical, else near-duplicate.
    """
    paths = tuple(sample.name for sample in alike)
    identical = len({sample.digest for sample in alike}) == 1
    how = f"{len(alike):,} {'identical' if identical else 'nearly identical'} photos"
    labels = sorted({sample.label for sample in alike})
    splits = [name for name in SPLITS if any(sample.split == name for sample in alike)]
    found = []
    if len(labels) > 1:
        found.append(Finding("conflicting-label", paths, f"{how} labelled {' and '.join(labels)}"))
    if len(splits) > 1:
        found.append(Finding("leak", paths, f"{how} in {' and '.join(splits)}"))
    if not found:
        where = f" in {splits[0]}" if splits else ""
        kind = "duplicate" if identical else "near-duplicate"
        found.append(Finding(kind, paths, f"{how} of {labels[0]}{where}"))
    return found


def picture_findings(samples: Sequence[Sample], pictures: Sequence[int]) -> list[Finding]:
    """Return the findings of each picture that several samples show, most serious kinds first."""
    found = [
        finding
        for alike in same_pictures(pictures)
        for finding in group_findings([samples[i] for i in alike])
    ]
    return sorted(found, key=lambda finding: GROUP_KINDS.index(finding.kind))
