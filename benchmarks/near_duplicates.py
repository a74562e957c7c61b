"""Near-duplicate candidates among 100,000 hashes, against comparing all pairs in NumPy blocks.

    python benchmarks/near_duplicates.py [--count 100000]

Random hashes, then hashes with heavy collisions (a twentieth of them equal, a twentieth within a
few bits, as blank pictures give); then what the search for mirrored and turned copies adds: the
hashes of 100,000 random sketches in eight orientations and the candidates of the seven turned ones.
The ratio is the time of the index over that of the vectorised comparison of all pairs, extrapolated
from a part.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import report

from tailorbird.dataset.duplicates.facts import oriented_hashes
from tailorbird.dataset.duplicates.groups import RADIUS
from tailorbird.dataset.duplicates.hash_neighbours import near_pairs, near_pairs_between
from tailorbird.dataset.duplicates.similarity import SKETCH


def all_pairs(hashes: np.ndarray, rows: int = 1000) -> float:
    """Estimate the seconds for every pair from the first `rows` rows of Hamming distances."""
    start = time.perf_counter()
    for first in range(0, rows, 100):
        distance = np.bitwise_count(hashes[first : first + 100, None] ^ hashes[None, :])
        np.flatnonzero(distance <= RADIUS)
    # Each pair once: half the table.
    return (time.perf_counter() - start) / rows * len(hashes) / 2


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=100_000)
    count = options.parse_args().count
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, count, np.uint64)
    crowded = hashes.copy()
    crowded[: count // 20] = crowded[0]
    noise = np.uint64(1) << random.integers(0, 64, (count // 20, 3)).astype(np.uint64)
    crowded[count // 20 : count // 10] = crowded[-1] ^ np.bitwise_or.reduce(noise, axis=1)
    seconds = {}
    for name, values in (("random", hashes), ("crowded", crowded)):
        start = time.perf_counter()
        left, _ = near_pairs(values, RADIUS)
        seconds[name] = time.perf_counter() - start
        print(
            f"{name}: {count:,} hashes in {seconds[name]:.1f} s, {len(left):,} candidate pairs",
            flush=True,
        )
    sketches = random.integers(0, 256, (count, SKETCH, SKETCH), np.uint8)
    start = time.perf_counter()
    turned = oriented_hashes(sketches)
    candidates = sum(
        len(near_pairs_between(turned[0], turned[orientation], RADIUS)[0])
        for orientation in range(1, len(turned))
    )
    seconds["turned"] = time.perf_counter() - start
    print(f"turned: {seconds['turned']:.1f} s, {candidates:,} candidate pairs", flush=True)
    blocks = all_pairs(hashes)
    report(
        "near_duplicates",
        seconds["random"] / blocks,
        "< 1",
        count=count,
        seconds=seconds,
        all_pairs_seconds=blocks,
    )


if __name__ == "__main__":
    main()
