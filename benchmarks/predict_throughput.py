"""Photos per second of `tailorbird predict` over a folder, against the model's own ONNX Runtime
speed and against Keras `predict`.

    python benchmarks/predict_throughput.py [--photos FOLDER]

`Classifier.stream` reads, decodes, resizes and classifies files; the floor runs the same model file
on random pixels with as many threads as cores; Keras reads the same folder with its own loader. The
floor is measured before and after. "Bare" is the least that a program which decodes with Pillow can
do: read, decode, resize and run, without checks, order or answers, on every core.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import (
    KERAS_WEIGHTS,
    folder,
    keras_python,
    parser,
    photos_in,
    raw_images_per_second,
    report,
    tailorbird,
    train_model,
)
from PIL import Image

from tailorbird import parallel
from tailorbird.errors import ModelFileError
from tailorbird.inference import Runner
from tailorbird.model import Classifier, Prediction


def bare_photos_per_second(model: Path, files: Sequence[Path], size: int) -> float:
    """Return the speed of reading, decoding, resizing and running, and nothing else."""
    runner = Runner(model.read_bytes(), model.name, ModelFileError)

    def pixels(path: Path) -> np.ndarray:
        image = Image.open(path)
        image.draft("RGB", (size, size))
        squashed = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(squashed)

    def run(pair: Sequence[Path]) -> None:
        runner.run_batch(np.stack([pixels(path) for path in pair]), ["probabilities"])

    start = time.perf_counter()
    with ThreadPoolExecutor(parallel.cores()) as pool:
        list(pool.map(run, (files[n : n + 2] for n in range(0, len(files), 2))))
    return len(files) / (time.perf_counter() - start)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--weights", type=Path, default=KERAS_WEIGHTS)
    options.add_argument("--without-keras", action="store_true")
    given = options.parse_args()
    with folder() as place:
        model = place / "model.onnx"
        train_model(given.photos, model, given.backbone)
        classifier = Classifier(model)
        files = photos_in(given.photos)
        list(classifier.stream(files[:50]))
        ratios = []
        for _ in range(3):
            before = raw_images_per_second(model)
            start = time.perf_counter()
            found = sum(isinstance(result, Prediction) for result in classifier.stream(files))
            speed = found / (time.perf_counter() - start)
            floor = (before + raw_images_per_second(model)) / 2
            bare = bare_photos_per_second(model, files, classifier.info.resize.size)
            ratios.append((speed / floor, speed, floor, bare))
            print(
                f"predict {speed:.1f} photos/s, floor {floor:.1f}: {speed / floor:.3f}; bare "
                f"{bare:.1f}, {bare / floor:.3f} of the floor",
                flush=True,
            )
        ratio, speed, floor, bare = sorted(ratios)[1]
        whole, _ = tailorbird("predict", model, given.photos, "--json", "-q", cache=place / "cache")
        figures = {
            "photos_per_second": speed,
            "floor": floor,
            "bare": bare,
            "of_bare": speed / bare,
            "all": [round(r[0], 3) for r in ratios],
            "command_photos_per_second": len(files) / whole,
        }
        if not given.without_keras:
            script = Path(__file__).with_name("keras_notebook.py")
            done = subprocess.run(
                [
                    str(keras_python()),
                    str(script),
                    str(given.photos.resolve()),
                    str(given.weights.resolve()),
                    "predict",
                ],
                cwd=place,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            peer = json.loads(done.stdout.splitlines()[-1])["photos_per_second"]
            figures |= {"keras_photos_per_second": peer, "over_keras": speed / peer}
            print(
                f"Keras predict {peer:.1f} photos/s; tailorbird is {speed / peer:.2f} times as "
                "fast (target >= 2)"
            )
    report("predict_throughput", ratio, ">= 0.9 of the floor", **figures)


if __name__ == "__main__":
    main()
