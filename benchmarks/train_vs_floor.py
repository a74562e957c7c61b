"""The whole `tailorbird train` with an empty cache over the floor: photos x views / raw ONNX
Runtime images per second.

    python benchmarks/train_vs_floor.py [--photos FOLDER] [--backbone FILE.onnx] [--views K]
        [--repeat N]

Process start, scan, decoding, hashing, head search, scores and the verified model file all count;
the floor does nothing but run the backbone on random pixels, with as many threads as cores. The
floor is measured before and after each run and averaged. Also prints one session on all threads
against single-threaded runs side by side, which is how training runs it.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
from common import cores, folder, parser, photos_in, raw_images_per_second, report, tailorbird

from tailorbird.backbone import find, open_backbone


def side_by_side(path: Path, seconds: float = 4.0) -> float:
    """Return images per second of single-threaded runs on all cores, batches of 4, one session."""
    backbone = open_backbone(path)
    done = [0] * cores()
    pixels = np.random.default_rng(0).integers(
        0, 256, (4, backbone.info.size, backbone.info.size, 3), np.uint8
    )
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            backbone.features(pixels)
            done[number] += 4

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--views", type=int, default=1)
    options.add_argument("--repeat", type=int, default=3)
    given = options.parse_args()
    path = find(given.backbone)
    ratios, walls, floors, stages = [], [], [], {}
    for _ in range(given.repeat):
        before = raw_images_per_second(path)
        with folder() as place:
            wall, out = tailorbird(
                "train",
                given.photos,
                "-o",
                place / "model.onnx",
                "--backbone",
                path,
                "--views",
                given.views,
                "--json",
                "-q",
                cache=place / "cache",
            )
        speed = (before + raw_images_per_second(path)) / 2
        found = json.loads(out)
        stages = found["seconds"]
        floor = found["embedded"] / speed
        ratios.append(wall / floor)
        walls.append(wall)
        floors.append(floor)
        print(
            f"train {wall:.1f} s, floor {floor:.1f} s ({speed:.0f} images/s): {wall / floor:.3f}",
            flush=True,
        )
    print(
        f"one session, {cores()} threads: {raw_images_per_second(path):.0f} images/s; {cores()} "
        f"single-threaded: {side_by_side(path):.0f} images/s"
    )
    middle = sorted(range(len(ratios)), key=ratios.__getitem__)[len(ratios) // 2]
    report(
        "train_vs_floor",
        ratios[middle],
        "<= 1.15",
        photos=len(photos_in(given.photos)),
        views=given.views,
        train_seconds=walls[middle],
        floor_seconds=floors[middle],
        all=[round(r, 3) for r in ratios],
        stages_of_last=stages,
    )


if __name__ == "__main__":
    main()
