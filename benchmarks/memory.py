"""100,000 small pictures, made on the fly, through scan and features: peak memory flat, time
linear.

    python benchmarks/memory.py [--counts 25000,50000,100000]

Each count runs in a process of its own with an empty cache. Prints peak memory and time per picture
of the largest count over those of the smallest; both ratios are 1 when memory is flat and time
linear.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import folder, report
from PIL import Image


def draw(root: Path, count: int) -> None:
    """`count` distinct JPEG files of 40 x 40 pixels in ten classes, cheap to make: smooth random
    blobs.
    """
    random = np.random.default_rng(0)
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
    for number in range(count):
        pixels = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize(
            (40, 40), Image.Resampling.BICUBIC
        )
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=80)
        (root / str(number % 10) / f"{number:06}.jpg").write_bytes(buffer.getvalue())


def work(root: str) -> None:
    """Scan and embed with pocket as training does; print time and memory."""
    from tailorbird.backbone import open_backbone
    from tailorbird.dataset import scan
    from tailorbird.features import Embedder

    start = time.perf_counter()
    embedder = Embedder(open_backbone())
    dataset = scan(root, visitor=embedder)
    embedder.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "peak_mb": peak,
                "images": len(dataset.samples),
                "embedded": embedder.embedded,
            }
        )
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--counts", default="25000,50000,100000")
    counts = [int(part) for part in options.parse_args().counts.split(",")]
    results = []
    for count in counts:
        with folder() as place:
            draw(place / "photos", count)
            done = subprocess.run(
                [sys.executable, __file__, "--work", str(place / "photos")],
                env={**os.environ, "TAILORBIRD_CACHE": str(place / "cache")},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        found = json.loads(done.stdout.splitlines()[-1])
        results.append(found)
        print(
            f"{count:,} pictures: {found['seconds']:.0f} s ({1e3 * found['seconds'] / count:.2f} "
            f"ms each), peak {found['peak_mb']:.0f} MB",
            flush=True,
        )
    first, last = results[0], results[-1]
    per_picture = (last["seconds"] / last["images"]) / (first["seconds"] / first["images"])
    report(
        "memory",
        last["peak_mb"] / first["peak_mb"],
        "flat, < 1,000 MB; time per picture ratio about 1",
        counts=counts,
        peak_mb=[round(r["peak_mb"]) for r in results],
        seconds=[round(r["seconds"], 1) for r in results],
        time_per_picture_ratio=per_picture,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
    else:
        main()
