"""Shared by the benchmarks: data and weights, the machine, one line of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
CLOTHING = SHARED / "data" / "clothing-dataset-small"
MOBILENET = SHARED / "weights" / "mobilenetv2_imagenet.backbone.onnx"
KERAS_WEIGHTS = SHARED / "weights" / "mobilenetv2_imagenet.weights.h5"


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark: photos and backbone."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--photos", type=Path, default=CLOTHING, help="class folders or split/class folders"
    )
    made.add_argument("--backbone", default=str(MOBILENET), help="a backbone's name or .onnx file")
    return made


def cores() -> int:
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )


def machine() -> str:
    """Return a description of the machine."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (
                line.split(":")[1].strip()
                for line in info.read_text().splitlines()
                if line.startswith("model name")
            ),
            name,
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{name}, {cores()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"load {load:.1f}"
    )


def tailorbird(*arguments: object, cache: Path) -> tuple[float, str]:
    """Run a `tailorbird` command; return its seconds and its standard output."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *map(str, arguments)],
        env={**os.environ, "TAILORBIRD_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):
        sys.exit(f"tailorbird {arguments[0]} exited {done.returncode}")
    return time.perf_counter() - start, done.stdout


def train_model(photos: Path, model: Path, backbone: str, *more: object) -> None:
    """Train a model file quietly; its cache is in the folder of the model."""
    tailorbird(
        "train", photos, "-o", model, "--backbone", backbone, "-q", *more,
        cache=model.parent / "cache",
    )  # fmt: skip


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a temporary folder."""
    made = Path(tempfile.mkdtemp(prefix="tailorbird-benchmark-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def raw_images_per_second(path: Path, *, seconds: float = 8.0) -> float:
    """The floor: one ONNX Runtime session with as many threads as cores, random pixels, the best of
    several batch sizes.
    """
    import onnxruntime  # the floor is measured without any code of ours

    import tailorbird  # noqa: F401  disables the runtime's telemetry

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    best = 0.0
    for batch in (1, 2, 4, 8, 32):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        session.run(None, {"images": pixels})
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 5:
            session.run(None, {"images": pixels})
            done += batch
        best = max(best, done / (time.perf_counter() - start))
    return best


def photos_in(source: Path) -> list[Path]:
    return sorted(
        path for path in source.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"}
    )


def keras_python() -> Path:
    """Return the Keras peer's interpreter, creating its environment if needed."""
    environment = HERE / ".venv-keras"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "-r",
                str(HERE / "requirements-keras.txt"),
            ],
            check=True,
        )
    return python


def report(name: str, ratio: float, target: str, **figures: object) -> None:
    """Print the result: a line for people and one of JSON."""
    print(f"{name}: ratio {ratio:.3f} (target {target})")
    rounded = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in figures.items()
    }
    print(
        json.dumps(
            {
                "benchmark": name,
                "ratio": round(ratio, 3),
                "target": target,
                **rounded,
                "machine": machine(),
            }
        )
    )
