"""Near-duplicate candidates among 100,000 perceptual hashes, against comparing all pairs in NumPy blocks.

    python benchmarks/near_duplicates.py [--count 100000]

Random hashes, then hashes with heavy collisions (a twentieth of them equal, a twentieth within a few bits, as blank pictures give).
The ratio is the time of the index over that of the vectorised comparison of all pairs, extrapolated from a part.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import report

from tailorbird.dataset.duplicates.groups import RADIUS
from tailorbird.dataset.duplicates.hash_neighbours import near_pairs


def all_pairs(hashes: np.ndarray, rows: int = 1000) -> float:
    """Seconds for every pair, from the first `rows` rows: blocks of Hamming distances, vectorised."""
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
