"""Group samples that show the same picture.

These are identical files, and copies that were re-encoded, resized, brightened, slightly cropped,
mirrored or turned by quarter turns. Four filters, from cheap to expensive: similar perceptual
hashes, similar sketches, sketches that agree when aligned, pixels that agree when aligned. Only
pairs that pass all are reported; photos are decoded again only for the last.

Copies that were turned by other angles or cropped by more are found by their corners: see
`altered_copies`.
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
from tailorbird.dataset.duplicates.altered_search import AlteredSearch
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.disjoint_sets import DisjointSets
from tailorbird.dataset.duplicates.facts import open_verdicts, oriented_hashes, remember
from tailorbird.dataset.duplicates.hash_neighbours import Pairs, near_pairs, near_pairs_between
from tailorbird.dataset.duplicates.known_copies import copies_file, read_copies, write_copies
from tailorbird.dataset.duplicates.similarity import (
    DECODED,
    ORIENTATIONS,
    SKETCH,
    Prepared,
    blur,
    compare,
    orient,
    prepare,
    sketches_agree,
)
from tailorbird.dataset.samples import SPLITS, Finding, Sample
from tailorbird.errors import ImageError

RADIUS: Final = 14
"""Maximum Hamming distance of candidates' hashes; 95% of crops by 3% on every side pass."""

GROUP_KINDS: Final = ("conflicting-label", "leak", "near-duplicate", "duplicate")
"""Kinds of findings about several photos, in the order of the report."""

_COSINE: Final = 0.75
"""Minimum cosine of band-passed sketches; 99.5% of copies that pass the hash reach 0.76."""

_REJECTIONS: Final = 3
"""Failed comparisons after which a photo is not compared with less likely candidates."""

_BATCH: Final = 256
_PREPARED: Final = 600
"""Maximum number of pictures kept ready to compare, about 65 KB each."""


def duplicate_groups(
    samples: Sequence[Sample],
    facts: npt.NDArray[Any],
    corners: CornerStore | None = None,
    *,
    workers: int = 1,
    store: bool = True,
) -> npt.NDArray[np.int64]:
    """Return the group number of each of N samples, int64 (N,); the same picture, the same group.

    Groups are transitive: where A equals B and B equals C, all three are one group.

    Args:
        samples: N samples.
        facts: facts of each sample, (N,) of type `facts.FACTS`.
        corners: corners of the samples; None: copies turned by odd angles or cropped by more than
            a few percent are not found.
        workers: threads that decode candidates.
        store: remember the results in the cache folder.
    """
    first: dict[str, int] = {}
    representative = [first.setdefault(sample.digest, i) for i, sample in enumerate(samples)]
    distinct = [first[digest] for digest in sorted(first)]
    kind = "hashes" if corners is None else "hashes and corners"
    result = copies_file([samples[i].digest for i in distinct], kind) if store else None
    groups = DisjointSets(len(samples))
    pairs = read_copies(result, len(distinct))
    if pairs is None:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            comparer = _PixelComparer(samples, pool, store)
            altered = AlteredSearch(samples, corners, pool, store=store) if corners else None
            _search(np.array(distinct, np.int64), facts["sketch"], groups, comparer, altered)
        at = {item: position for position, item in enumerate(distinct)}
        pairs = [(at[groups.root(i)], at[i]) for i in distinct if groups.root(i) != i]
        if comparer.complete and (altered is None or altered.complete):
            write_copies(result, pairs)
    for a, b in pairs:
        groups.join(distinct[a], distinct[b])
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(groups.root(i), len(numbers)) for i in representative], np.int64
    )


def _search(
    distinct: npt.NDArray[np.int64],
    sketches: npt.NDArray[np.uint8],
    groups: DisjointSets,
    comparer: _PixelComparer,
    altered: AlteredSearch | None,
) -> None:
    """Join in `groups` the distinct photos, sample numbers (D,), that show the same picture."""
    hashes = oriented_hashes(sketches[distinct])
    features = _features(sketches, distinct)
    try:
        for orientation in range(ORIENTATIONS):
            left, right = _candidates(hashes, features, orientation)
            pairs = (distinct[left], distinct[right])
            _join_same(pairs, sketches, groups, comparer, orientation)
        if altered is not None:
            for a, b in altered.run(distinct.tolist(), groups):
                groups.join(a, b)
    finally:
        comparer.finish()


def _candidates(
    hashes: npt.NDArray[np.uint64], features: npt.NDArray[np.int8], orientation: int
) -> Pairs:
    """Return pairs with similar hashes and sketches when the second is turned, likeliest first."""
    if orientation == 0:
        left, right = near_pairs(hashes[0], RADIUS)
    else:
        left, right = near_pairs_between(hashes[0], hashes[orientation], RADIUS)
        # The pair (j, i) comes with the inverse orientation as (i, j).
        left, right = left[left < right], right[left < right]
    half = SKETCH // 2
    cosine = np.empty(len(left), np.float32)
    for start in range(0, len(left), 16_384):
        part = slice(start, start + 16_384)
        turned = orient(features[right[part]].reshape(-1, half, half), orientation)
        a, b = (v.astype(np.float32).reshape(len(v), -1) for v in (features[left[part]], turned))
        norm = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
        # Sketches without any structure, as of blank pictures, count as alike.
        cosine[part] = np.where(
            norm > 0,
            np.einsum("ij,ij->i", a, b) / np.maximum(norm, 1),
            np.maximum(0, 1 - np.abs(a - b).max(1)),
        )
    likely = np.flatnonzero(cosine >= _COSINE)
    likely = likely[np.argsort(-cosine[likely], kind="stable")]
    return left[likely], right[likely]


def _features(
    sketches: npt.NDArray[np.uint8], distinct: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """Return band-passed sketches at half the side, scaled to int8: (N, 32, 32) to (N, 256).

    All zero where there is no structure.
    """
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


def _join_same(
    pairs: Pairs,
    sketches: npt.NDArray[np.uint8],
    groups: DisjointSets,
    comparer: _PixelComparer,
    orientation: int,
) -> None:
    """Join the pairs that show the same picture when the second is turned to `orientation`.

    The work is bounded: a pair is skipped when it is joined already, or when both photos failed
    often enough; beyond as many comparisons as there are photos (at least 20,000) the less likely
    pairs are skipped.
    """
    failed = np.zeros(len(sketches), np.int64)
    budget = max(20_000, len(sketches))
    for start in range(0, len(pairs[0]), _BATCH):
        left, right = (side[start : start + _BATCH].tolist() for side in pairs)
        batch = [
            (a, b)
            for a, b in zip(left, right, strict=True)
            if min(failed[a], failed[b]) < _REJECTIONS and groups.root(a) != groups.root(b)
        ]
        if not batch:
            continue
        budget -= len(batch)
        a, b = np.array(batch).T
        agree = sketches_agree(sketches[a], orient(sketches[b], orientation))
        likely = [pair for pair, yes in zip(batch, agree, strict=True) if yes]
        same = set(comparer.join(likely, groups, orientation))
        for pair in batch:
            if pair not in same:
                failed[list(pair)] += 1
        if budget < 0:
            return


class _PixelComparer:
    """Compares pairs by their pixels; caches prepared pictures and results."""

    def __init__(self, samples: Sequence[Sample], pool: ThreadPoolExecutor, store: bool) -> None:
        self._samples = samples
        self._pool = pool
        self._store = open_verdicts() if store else None
        self._new: dict[bytes, int] = {}
        self._prepared: OrderedDict[int, Prepared | None] = OrderedDict()
        self.complete = True
        """Whether all candidates could be read."""

    def join(
        self, pairs: list[tuple[int, int]], groups: DisjointSets, orientation: int
    ) -> list[tuple[int, int]]:
        """Join in `groups` and return the pairs that are the same, or joined through others."""
        keys = [self._key(a, b, orientation) for a, b in pairs]
        verdicts = self._remembered(keys)
        unknown = [pair for pair, key in zip(pairs, keys, strict=True) if key not in verdicts]
        self._decode([item for pair in unknown for item in pair])
        result = []
        for (a, b), key in zip(pairs, keys, strict=True):
            if groups.root(a) == groups.root(b):
                result.append((a, b))
                continue
            verdict = verdicts.get(key)
            if verdict is None:
                first, second = self._prepared.get(a), self._prepared.get(b)
                if first is None or second is None:
                    # A file that cannot be read now: nothing is learned about the pair.
                    self.complete = False
                    continue
                verdict = int(compare(first, second.turned(orientation)).same_in(orientation))
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

    def _key(self, a: int, b: int, orientation: int) -> bytes:
        digests = [self._samples[a].digest, self._samples[b].digest]
        if orientation == 0:
            digests.sort()
        else:
            digests.append(str(orientation))
        return hashlib.sha256("".join(digests).encode()).digest()

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
    how = f"{len(alike):,} {'identical photos' if identical else 'copies of one picture'}"
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
