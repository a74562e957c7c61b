"""The notebook's way (Keras, frozen MobileNetV2, dense head, 10 epochs) against `tailorbird train`:
same photos, same weights.

    python benchmarks/train_vs_keras.py [--epochs 10]

Both start with nothing cached and are whole processes. Keras runs on TensorFlow, its fastest
backend on a CPU, and reads photos with its own `image_dataset_from_directory`; the best epoch by
validation accuracy is scored on test.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from common import KERAS_WEIGHTS, folder, keras_python, parser, report, tailorbird


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--weights", type=Path, default=KERAS_WEIGHTS)
    options.add_argument("--epochs", type=int, default=10)
    given = options.parse_args()
    python = keras_python()
    with folder() as place:
        ours, out = tailorbird(
            "train",
            given.photos,
            "-o",
            place / "m.onnx",
            "--backbone",
            given.backbone,
            "--json",
            "-q",
            cache=place / "cache",
        )
        accuracy = json.loads(out)["scores"]["test"]["accuracy"]
        print(f"tailorbird train: {ours:.1f} s, test accuracy {accuracy:.4f}", flush=True)
        script = Path(__file__).with_name("keras_notebook.py")
        start = time.perf_counter()
        done = subprocess.run(
            [
                str(python),
                str(script),
                str(given.photos.resolve()),
                str(given.weights.resolve()),
                "train",
                str(given.epochs),
            ],
            cwd=place,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        theirs = time.perf_counter() - start
        peer = json.loads(done.stdout.splitlines()[-1])
    print(
        f"Keras {peer['keras']} on {peer['backend']}, {given.epochs} epochs: {theirs:.1f} s, "
        f"test accuracy {peer['accuracy']:.4f}"
    )
    report(
        "train_vs_keras",
        theirs / ours,
        ">= 8, at equal or better accuracy",
        tailorbird_seconds=ours,
        keras_seconds=theirs,
        tailorbird_accuracy=accuracy,
        keras_accuracy=peer["accuracy"],
        epochs=given.epochs,
    )


if __name__ == "__main__":
    main()
