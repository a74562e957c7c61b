"""The whole `tailorbird train` with an empty cache over the floor: photos x views / raw ONNX
Runtime images per second; then once more with everything cached: the fixed cost.

    python benchmarks/train_vs_floor.py [--photos FOLDER] [--backbone FILE.onnx] [--views K]
        [--repeat N]

Process start, scan, decoding, hashing, head search, scores and the verified model file all count;
the floor does nothing but run the backbone on random pixels, with as many threads as cores. The
floor is measured before and after each run and averaged. Also prints one session on all threads
against single-threaded runs side by side by batch size; training runs batches of two that way. On
a machine that does other work, compare the processor times. About 40 s a repetition on two cores.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import cores, folder, parser, photos_in, raw_images_per_second, report, tailorbird

from tailorbird.backbone import find, open_backbone


def side_by_side(path: Path, batch: int, seconds: float = 2.0) -> tuple[float, float]:
    """Return images per second, and processor seconds per image, of single-threaded runs on all
    cores in one session.
    """
    backbone = open_backbone(path)
    done = [0] * cores()
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch, backbone.info.size, backbone.info.size, 3), np.uint8
    )
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            backbone.runner.run_batch(pixels, ["features"])
            done[number] += batch

    start, processor = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (
        sum(done) / (time.perf_counter() - start),
        (time.process_time() - processor) / sum(done),
    )


def side_by_side_of_batches(path: Path, repeat: int = 3) -> dict[int, tuple[float, float]]:
    """Return the medians of `side_by_side` by batch size, taking turns."""
    found: dict[int, list[tuple[float, float]]] = {batch: [] for batch in (1, 2, 4, 8)}
    for _ in range(repeat):
        for batch, runs in found.items():
            runs.append(side_by_side(path, batch))
    return {
        batch: (
            statistics.median(run[0] for run in runs),
            statistics.median(run[1] for run in runs),
        )
        for batch, runs in found.items()
    }


@dataclass
class Run:
    """Seconds of one `train`: elapsed, of both kinds of processor time, and by stage."""

    wall: float
    processor: float
    found: dict[str, Any]


def train(photos: Path, backbone: Path, views: int, place: Path) -> Run:
    """Run `train` once."""
    before = os.times()
    wall, out = tailorbird(
        "train", photos, "-o", place / "model.onnx", "--backbone", backbone,
        "--views", views, "--json", "-q", cache=place / "cache",
    )  # fmt: skip
    after = os.times()
    processor = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    return Run(wall, processor, json.loads(out))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--views", type=int, default=1)
    options.add_argument("--repeat", type=int, default=3)
    given = options.parse_args()
    path = find(given.backbone)
    cold, cached, floors = [], [], []
    for _ in range(given.repeat):
        before = raw_images_per_second(path)
        with folder() as place:
            first = train(given.photos, path, given.views, place)
            speed = (before + raw_images_per_second(path)) / 2
            second = train(given.photos, path, given.views, place)
        cold.append(first)
        cached.append(second)
        floors.append(first.found["embedded"] / speed)
        print(
            f"train {first.wall:.1f} s ({first.processor:.1f} s of processor time), floor "
            f"{floors[-1]:.1f} s ({speed:.0f} images/s): {first.wall / floors[-1]:.3f}; cached "
            f"{second.wall:.2f} s ({second.processor:.2f} s of processor time)",
            flush=True,
        )
    speeds = side_by_side_of_batches(path)
    print(
        f"one session, {cores()} threads: {raw_images_per_second(path):.0f} images/s; {cores()} "
        "single-threaded runs at once, by batch size: "
        + ", ".join(f"{batch}: {speed:.0f}" for batch, (speed, _) in speeds.items())
    )
    least = min(seconds for _, seconds in speeds.values())
    ratios = [run.wall / floor for run, floor in zip(cold, floors, strict=True)]
    middle = sorted(range(len(ratios)), key=ratios.__getitem__)[len(ratios) // 2]
    report(
        "train_vs_floor",
        ratios[middle],
        "<= 1.3; cached <= 2 s",
        photos=len(photos_in(given.photos)),
        views=given.views,
        train_seconds=cold[middle].wall,
        train_processor_seconds=cold[middle].processor,
        floor_seconds=floors[middle],
        cached_seconds=statistics.median(run.wall for run in cached),
        cached_processor_seconds=statistics.median(run.processor for run in cached),
        all=[round(r, 3) for r in ratios],
        stages_cold=cold[middle].found["seconds"],
        stages_cached=cached[middle].found["seconds"],
        # The same ratio in processor time, which other work on the machine changes less.
        processor_ratio=statistics.median(
            run.processor / (run.found["embedded"] * least) for run in cold
        ),
        by_batch={
            str(batch): {"images_per_second": round(speed), "milliseconds": round(1e3 * used, 2)}
            for batch, (speed, used) in speeds.items()
        },
    )


if __name__ == "__main__":
    main()
