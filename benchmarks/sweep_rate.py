"""Fits a minute of a sweep, against the same fits one after the other through `head.fit`.

The features are computed first and are not part of either side.

    python benchmarks/sweep_rate.py
"""

from __future__ import annotations

import time

from common import parser, report

from tailorbird.experiments import read_data, sweep
from tailorbird.experiments.cross_validation import partitions
from tailorbird.head import fit

ALTERNATIVES = {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1], "inner": [(), (10,), (100,)]}


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    photos = read_data(options.photos, backbone=options.backbone)
    start, busy = time.perf_counter(), time.process_time()
    result = sweep(photos, ALTERNATIVES, grid=True, folds=5, seeds=1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    parts = partitions(photos.labels, photos.groups, folds=5, seeds=1, seed=0)
    start = time.perf_counter()
    for score in result.settings:
        for part in parts:
            fit(
                photos.features[:, part.train],
                photos.labels[part.train],
                photos.features[0, part.held_out],
                photos.labels[part.held_out],
                classes=len(photos.classes),
                settings=score.settings,
                seed=0,
            )
    sequential = time.perf_counter() - start
    report(
        "sweep_rate",
        seconds / sequential,
        "<= 0.6 on two cores; 200 fits a minute",
        fits=len(result.fits),
        fits_per_minute=60 * len(result.fits) / seconds,
        seconds=seconds,
        cpu_seconds=cpu,
        sequential_seconds=sequential,
    )


if __name__ == "__main__":
    main()
