"""Check the Keras engine on every backend: Keras' probabilities against those of the written file.

    python benchmarks/engine_parity.py                             makes an environment per backend
    python benchmarks/engine_parity.py --python .venv/bin/python   uses existing environments

MobileNetV2 with its ImageNet weights and a head with one inner layer, 224 px: as it was pulled, and
after two steps of fine-tuning at the pixels. Compared on each backend are Keras' probabilities and
those of the written backbone and head in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np
import onnx

BACKENDS = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}
TARGET = 1e-3
SIZE = 224
CLASSES = 10


def environment(backend: str) -> Path:
    """Return the interpreter for a backend, creating its environment if needed."""
    folder = common.HERE / f".venv-keras-{backend}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = ["--editable", str(common.HERE.parent), "keras>=3", BACKENDS[backend]]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def backends_of(python: Path) -> list[str]:
    """Return the backends that an interpreter can import."""
    code = f"import importlib.util as u; print(*[n for n in {list(BACKENDS)} if u.find_spec(n)])"
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def measure(source: Path, count: int) -> dict[str, float]:
    """Measure the largest differences on the backend named by KERAS_BACKEND."""
    from tailorbird.engines.keras.network import KerasNetwork
    from tailorbird.engines.keras.pull import pull
    from tailorbird.engines.protocol import Regularisation, Training
    from tailorbird.head import Dense, Head
    from tailorbird.images import ResizeRule, load

    paths = common.photos_in(source)
    images = np.stack(
        [load(path, ResizeRule(SIZE)) for path in paths[:: max(1, len(paths) // count)][:count]]
    )
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = pull("keras:MobileNetV2", weights=common.KERAS_WEIGHTS, folder=Path(folder))
        network = KerasNetwork(onnx.load(file))
        features = answers(file.read_bytes(), images)
    # Logits some units apart, as a trained head gives them.
    widths = [(features.shape[1], 64), (64, CLASSES)]
    layers = [
        Dense((random.normal(0, 1.5 / i**0.5, (i, o))).astype(np.float32), np.zeros(o, np.float32))
        for i, o in widths
    ]
    head = Head(tuple(layers))
    regularisation = Regularisation(batch_norm=True)
    network.attach(head, regularisation, features)
    network.begin(Training(size=SIZE, cut=0, regularisation=regularisation))
    pulled = gap(network.logits(images), head.logits(features))
    for start in (0, 8):
        network.step(images[start : start + 8], np.arange(8) % CLASSES, 1e-3)
    tuned = network.logits(images)
    written = network.backbone(SIZE).SerializeToString()
    return {
        "pulled": pulled,
        "tuned": gap(tuned, network.head().logits(answers(written, images))),
        "moved": gap(tuned, head.logits(features)),
        "spread": float(softmax(tuned).std(axis=0).mean()),
    }


def answers(content: bytes, images: np.ndarray) -> np.ndarray:
    from tailorbird.errors import BackboneError
    from tailorbird.inference import Runner

    rows: np.ndarray = Runner(content, "the backbone", BackboneError).run(images, ["features"])[0]
    return rows


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def gap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(softmax(one) - softmax(other)).max())


def main() -> None:
    options = common.parser(__doc__)
    options.add_argument(
        "--python",
        type=Path,
        action="append",
        help="an interpreter with tailorbird and Keras; repeat it",
    )
    options.add_argument("--count", type=int, default=32, help="photos to compare on, at least 16")
    options.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measure(given.photos, given.count)))
        return
    if given.python:
        runs = [(backend, python) for python in given.python for backend in backends_of(python)]
    else:
        runs = [(backend, environment(backend)) for backend in BACKENDS]
    worst = 0.0
    print(
        f"{'backend':<12}{'as pulled':>12}{'fine-tuned':>12}{'moved by tuning':>18}{'spread':>9}"
        f"   largest |dp|, {given.count} photos"
    )
    for backend, python in runs:
        command = [
            str(python),
            __file__,
            "--measure",
            "--photos",
            str(given.photos),
            "--count",
            str(given.count),
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        worst = max(worst, found["pulled"], found["tuned"])
        print(
            f"{backend:<12}{found['pulled']:>12.1e}{found['tuned']:>12.1e}"
            f"{found['moved']:>18.2f}{found['spread']:>9.3f}",
            flush=True,
        )
    print(
        f"largest of all: {worst:.1e} (target < {TARGET:g}): "
        f"{'met' if worst < TARGET else 'MISSED'}"
    )
    common.report(
        "engine_parity",
        worst / TARGET,
        "< 1",
        worst=f"{worst:.1e}",
        backends=[backend for backend, _ in runs],
    )
    sys.exit(worst >= TARGET)


if __name__ == "__main__":
    main()
