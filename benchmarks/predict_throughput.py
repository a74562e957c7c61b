"""Photos per second of `tailorbird predict` over a folder, against the model's own ONNX Runtime
speed and against Keras `predict`.

    python benchmarks/predict_throughput.py [--photos FOLDER]

`Classifier.stream` reads, decodes, resizes and classifies files; the floor runs the same model file
on random pixels with as many threads as cores; Keras reads the same folder with its own loader. The
floor is measured before and after.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

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

from tailorbird.model import Classifier, Prediction


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
            ratios.append((speed / floor, speed, floor))
            print(
                f"predict {speed:.1f} photos/s, floor {floor:.1f}: {speed / floor:.3f}", flush=True
            )
        ratio, speed, floor = sorted(ratios)[1]
        whole, _ = tailorbird("predict", model, given.photos, "--json", "-q", cache=place / "cache")
        figures = {
            "photos_per_second": speed,
            "floor": floor,
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
