"""Find pairs of 64-bit hashes that differ in few bits, without comparing all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Indices of the first and of the second of each pair."""

_BANDS: Final = 4
_BAND_BITS: Final = 16
_FLIPS: Final = 2
_WINDOW: Final = 32  # members of one bucket that any hash is compared with
_EQUAL: Final = 32  # neighbours in order that a member of a set of equal hashes is paired with
_MEMBERS: Final = 4  # members of a set of equal hashes that stand for it towards other sets
_CHUNK: Final = 2_000_000


def near_pairs(hashes: Hashes, radius: int) -> Pairs:
    """Return the pairs among N hashes, (N,), that differ in at most `radius` bits, first < second.

    Multi-index hashing (Norouzi, Punjani and Fleet, 2012): two hashes are compared where one of
    their four bands of 16 bits differs in at most two bits. That finds every pair up to a radius of
    11, and 97%, 90% and 80% of those at 12, 13 and 14. Where many hashes are similar, the work is
    bounded to about 2,000 comparisons per hash: similar hashes are compared with their neighbours
    in sorted order instead of all with all, and pairs with the largest differences are lost first.
    """
    values, inverse, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    # Members of each set of equal hashes, side by side.
    members = np.argsort(inverse, kind="stable")
    starts = np.cumsum(sizes) - sizes
    found = [_equal_pairs(inverse[members], members)]
    first, second = _distinct_pairs(values, radius)
    for a, b in itertools.product(range(_MEMBERS), repeat=2):
        both = (sizes[first] > a) & (sizes[second] > b)
        found.append((members[starts[first[both]] + a], members[starts[second[both]] + b]))
    left = np.concatenate([pair[0] for pair in found])
    right = np.concatenate([pair[1] for pair in found])
    return np.minimum(left, right), np.maximum(left, right)


def near_pairs_between(a: Hashes, b: Hashes, radius: int) -> Pairs:
    """Return (index in a, index in b) of hashes that differ in at most `radius` bits.

    Two hashes are compared if one of their bands of 16 bits differs in at most one bit: every pair
    up to a radius of 7 is found. A hash of `a` is compared with at most 32 hashes of `b` that agree
    in a band.
    """
    n = max(len(b), 1)
    keys = [np.empty(0, np.int64)]
    for band in range(_BANDS):
        shift = np.uint64(_BAND_BITS * band)
        mine, other = (((v >> shift) & np.uint64(0xFFFF)).astype(np.int64) for v in (a, b))
        order = np.argsort(other.astype(np.uint16), kind="stable")
        size = np.bincount(other, minlength=1 << _BAND_BITS)
        for mask in (0, *(1 << bit for bit in range(_BAND_BITS))):
            for left, right in _bucketed(mine ^ mask, order, size):
                near = np.bitwise_count(a[left] ^ b[right]) <= radius
                keys.append(left[near] * n + right[near])
    found = _unique(np.concatenate(keys))
    return found // n, found % n


def _equal_pairs(keys: npt.NDArray[np.int64], members: npt.NDArray[np.int64]) -> Pairs:
    """Return pairs of members (sorted by key) with the same key, at most `_EQUAL` apart."""
    left, right = [members[:0]], [members[:0]]
    for apart in range(1, _EQUAL + 1):
        at = np.flatnonzero(keys[:-apart] == keys[apart:])
        if not len(at):
            break
        left.append(members[at])
        right.append(members[at + apart])
    return np.concatenate(left), np.concatenate(right)


def _distinct_pairs(values: npt.NDArray[np.uint64], radius: int) -> Pairs:
    """Return the near pairs among U distinct hashes, sorted."""
    n = len(values)
    kept = np.empty(0, np.int64)
    fresh: list[npt.NDArray[np.int64]] = []
    fresh_size = compared = 0
    for left, right in _compared(values):
        compared += len(left)
        near = np.bitwise_count(values[left] ^ values[right]) <= radius
        low, high = np.minimum(left[near], right[near]), np.maximum(left[near], right[near])
        fresh.append(low * n + high)
        fresh_size += len(low)
        if fresh_size > _CHUNK:
            kept = _unique(np.concatenate([kept, *fresh]))
            fresh, fresh_size = [], 0
        if compared > 2_000 * n + _CHUNK or len(kept) > 40 * n + _CHUNK:
            break
    kept = _unique(np.concatenate([kept, *fresh]))
    return kept // max(n, 1), kept % max(n, 1)


def _unique(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sort in place and drop repeats; several times faster than np.unique."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _compared(values: npt.NDArray[np.uint64]) -> Iterator[Pairs]:
    """Yield the pairs to compare in chunks, fewest flipped bits first; pairs may repeat."""
    bands = [
        ((values >> np.uint64(_BAND_BITS * band)) & np.uint64(0xFFFF)).astype(np.int64)
        for band in range(_BANDS)
    ]
    orders = [np.argsort(band.astype(np.uint16), kind="stable") for band in bands]
    sizes = [np.bincount(band, minlength=1 << _BAND_BITS) for band in bands]
    for band, order in zip(bands, orders, strict=True):
        for apart in range(1, min(_WINDOW, len(values) - 1) + 1):
            at = np.flatnonzero(band[order[:-apart]] == band[order[apart:]])
            if not len(at):
                break
            yield order[at], order[at + apart]
    for flips in range(1, _FLIPS + 1):
        for bits in itertools.combinations(range(_BAND_BITS), flips):
            mask = sum(1 << bit for bit in bits)
            for band, order, size in zip(bands, orders, sizes, strict=True):
                yield from _joined(band, order, size, mask)


def _joined(
    band: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    mask: int,
) -> Iterable[Pairs]:
    """Yield each hash with those whose band is its own with the bits of `mask` flipped."""
    flipped = band ^ mask
    return _bucketed(flipped, order, size, band < flipped)


def _bucketed(
    wanted: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    where: npt.NDArray[np.bool_] | bool = True,
) -> Iterator[Pairs]:
    """Yield pairs of each query and every member of its bucket, in chunks.

    order: members sorted by bucket. size: members of each bucket.
    """
    starts = np.cumsum(size) - size
    counts = np.where(where, np.minimum(size[wanted], _WINDOW), 0)
    query = np.flatnonzero(counts)
    ends = np.cumsum(counts[query])
    at = 0
    while at < len(query):
        done = ends[at - 1] if at else 0
        stop = max(at + 1, int(np.searchsorted(ends, done + _CHUNK)))
        part = query[at:stop]
        repeats = counts[part]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        yield np.repeat(part, repeats), order[np.repeat(starts[wanted[part]], repeats) + within]
        at = stop
