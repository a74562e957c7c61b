"""What the fine-tuning benchmarks share: both sides' commands, run with a clock beside their lines,
and kept in a folder.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

HERE = Path(__file__).resolve().parent
BEGUN = re.compile(r"stage 1/\d+: ")
SAID = re.compile(r"validation log-loss [\d.]+, accuracy ([\d.]+)%(, the best so far)?")
"""What `tailorbird train` says before the first stage, and after an epoch.

What is kept is the best by log-loss.
"""


@dataclass(frozen=True)
class Point:
    """Validation accuracy of the kept weights after some seconds."""

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Side:
    """One side of a comparison. seconds: the whole command, test scores and the finished model file
    included.
    """

    name: str
    seconds: float
    validation: float
    test: float
    points: tuple[Point, ...]

    def reached(self, level: float) -> float | None:
        """Return the seconds until the kept weights had this validation accuracy."""
        return next(
            (point.seconds for point in self.points if point.accuracy >= level - 1e-9), None
        )


def save(side: Side, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{side.name}.json").write_text(json.dumps(asdict(side), indent=1))


def saved(name: str, folder: Path) -> Side | None:
    """Return the side of an earlier run."""
    file = folder / f"{name}.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    return Side(**{**found, "points": tuple(Point(**point) for point in found["points"])})


def clocked(
    command: list[str], start: float, *, cwd: Path, environment: dict[str, str]
) -> tuple[list[tuple[float, str]], str]:
    """Run a command: its lines on standard error and output, each with the seconds since `start`,
    and its standard output.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[tuple[float, str]] = []
    out: list[str] = []

    def read(stream: TextIO, also: list[str] | None) -> None:
        for line in stream:
            lines.append((time.perf_counter() - start, line.rstrip("\n")))
            print(f"    {lines[-1][0]:7.1f} s  {line.rstrip()[:200]}", file=sys.stderr, flush=True)
            if also is not None:
                also.append(line)

    assert process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=read, args=(process.stdout, out)),
        threading.Thread(target=read, args=(process.stderr, None)),
    ]
    try:
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            reader.join()
    except BaseException:
        process.kill()
        raise
    if code not in (0, 3):
        sys.exit(f"{' '.join(command)} exited {code}")
    return lines, "".join(out)


def ours(
    photos: Path,
    weights: Path,
    size: int,
    options: list[str],
    place: Path,
    *,
    environment: dict[str, str] | None = None,
) -> Side:
    """`tailorbird backbones pull` for this size, then `train --engine keras --finetune`, from an
    empty cache; all of it counts.
    """
    place = place.resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    own = {**(environment or {}), "TAILORBIRD_CACHE": str(place / "cache")}
    start = time.perf_counter()
    run = [sys.executable, "-m", "tailorbird"]
    pull = [
        *run,
        "backbones",
        "pull",
        "keras:MobileNetV2",
        "--weights",
        str(weights.resolve()),
        "--size",
        str(size),
        "--json",
    ]
    _, out = clocked(pull, start, cwd=place, environment=own)
    backbone = json.loads(out.splitlines()[-1])["path"]
    train = [
        *run,
        "train",
        str(photos.resolve()),
        "-o",
        "m.onnx",
        "--engine",
        "keras",
        "--finetune",
        "--backbone",
        backbone,
    ]
    lines, out = clocked(
        [*train, "--size", str(size), *options, "--json"], start, cwd=place, environment=own
    )
    answer = json.loads(out.splitlines()[-1])
    points: list[Point] = []
    for seconds, line in lines:
        said = SAID.search(line)
        if BEGUN.search(line) and not points:
            points.append(Point(seconds, answer["finetune"]["start"]["accuracy"]))
        elif said and said[2]:
            points.append(Point(seconds, float(said[1]) / 100))
    total = time.perf_counter() - start
    scores = answer["scores"]
    points.append(Point(total, scores["validation"]["accuracy"]))
    return Side(
        "tailorbird",
        total,
        scores["validation"]["accuracy"],
        scores["test"]["accuracy"],
        tuple(points),
    )


def peer(
    python: str,
    photos: Path,
    weights: Path,
    size: int,
    head_epochs: int,
    epochs: int,
    rate: float,
    place: Path,
    *,
    jit: str = "none",
    environment: dict[str, str] | None = None,
) -> Side:
    """Run keras_finetune.py in a new process."""
    place = place.resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    start = time.perf_counter()
    lines, out = clocked(
        [
            python,
            str(HERE / "keras_finetune.py"),
            str(photos.resolve()),
            str(weights.resolve()),
            *map(str, (size, head_epochs, epochs, rate, jit)),
        ],
        start,
        cwd=place,
        environment=environment or {},
    )
    points, best = [], 0.0
    for seconds, line in lines:
        if line.startswith('{"stage"'):
            found = json.loads(line)["val_accuracy"]
            if found > best:
                best = found
                points.append(Point(seconds, best))
    test = json.loads(out.splitlines()[-1])["test"]
    return Side("keras", time.perf_counter() - start, best, test, tuple(points))


def levels(first: Side, second: Side) -> list[tuple[float, float, float]]:
    """(validation accuracy, seconds, seconds) at every level one of them names and both reach,
    rising.
    """
    # Cut off, not rounded: a side must be found to have reached the levels it names.
    named = sorted(
        {
            math.floor(point.accuracy * 10_000) / 10_000
            for side in (first, second)
            for point in side.points
        }
    )
    found = [(level, first.reached(level), second.reached(level)) for level in named]
    return [(level, a, b) for level, a, b in found if a is not None and b is not None]
