"""`tailorbird predict` on one photo: the whole process, seconds and peak memory, over starting
Python and importing onnxruntime alone.

python benchmarks/cold_start.py [--repeat 7]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import folder, parser, photos_in, report, train_model


def measured(command: list[str]) -> tuple[float, float, float]:
    """Return the seconds, the peak resident memory in MB (1e6 bytes) and the processor seconds of a
    process.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_maxrss * 1024 / 1e6, usage.ru_utime + usage.ru_stime


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--repeat", type=int, default=7)
    given = options.parse_args()
    for backbone in ("pocket", "lite", given.backbone):
        with folder() as place:
            model = place / "model.onnx"
            train_model(given.photos, model, backbone, "--inner", 0, "--no-report")
            photo = str(photos_in(given.photos)[0])
            runs = [
                measured([sys.executable, "-m", "tailorbird", "predict", str(model), photo])
                for _ in range(given.repeat)
            ]
            bare = [
                measured([sys.executable, "-c", "import onnxruntime, numpy, PIL.Image"])
                for _ in range(given.repeat)
            ]
        seconds, memory = statistics.median(r[0] for r in runs), max(r[1] for r in runs)
        floor = statistics.median(r[0] for r in bare)
        processor, least = (statistics.median(r[2] for r in rows) for rows in (runs, bare))
        print(
            f"{Path(backbone).name}: {seconds:.2f} s (target <= 0.7; {processor:.2f} s of "
            f"processor time), {memory:.0f} MB (target <= 200); importing onnxruntime alone "
            f"{floor:.2f} s ({least:.2f} s)"
        )
        report(
            "cold_start",
            seconds / floor,
            "<= 0.7 s and <= 200 MB",
            seconds=seconds,
            peak_mb=memory,
            processor_seconds=processor,
            bare_import_seconds=floor,
            bare_import_processor_seconds=least,
            backbone=Path(backbone).name,
        )


if __name__ == "__main__":
    main()
