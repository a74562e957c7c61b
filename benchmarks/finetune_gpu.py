"""Run finetune_vs_keras.py on a GPU: both sides on the same Keras backend and the same GPU.

    python benchmarks/finetune_gpu.py [--size 224] [--epochs 6] [--keras-python PYTHON]

The peer's interpreter (by default this one) needs Keras on JAX or PyTorch with CUDA; KERAS_BACKEND
chooses, else the first that sees a GPU. The peer is compiled as Keras chooses
(`jit_compile="auto"`: XLA on JAX); --mixed-precision is passed to tailorbird. Without a GPU it says
so and measures nothing.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from common import KERAS_WEIGHTS, parser
from finetune_vs_keras import compare
from finetuning import ours, peer, save

# Each framework in its own words: Keras' list of devices does not know PyTorch's.
LOOK = {
    "jax": "import jax; print([str(d) for d in jax.devices() if d.platform == 'gpu'])",
    "torch": "import torch; n = torch.cuda.device_count(); "
    "print([torch.cuda.get_device_name(i) for i in range(n)])",
    "tensorflow": "import tensorflow as tf; "
    "print([d.name for d in tf.config.list_physical_devices('GPU')])",
}


def gpus(python: str, backend: str) -> list[str]:
    """Return the GPUs that a Keras backend sees; none if it is not installed."""
    done = subprocess.run(
        [python, "-c", "import keras; " + LOOK[backend]],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return list(ast.literal_eval(found[-1])) if done.returncode == 0 and found else []


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--weights", type=Path, default=KERAS_WEIGHTS)
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--head-epochs", type=int, default=5)
    options.add_argument("--rate", type=float, default=1e-4)
    options.add_argument("--mixed-precision", action="store_true")
    options.add_argument("--keep", type=Path, default=Path("build/finetune_gpu"))
    options.add_argument("--keras-python", default=sys.executable)
    given = options.parse_args()
    asked = os.environ.get("KERAS_BACKEND")
    for backend in [asked] if asked else ["jax", "torch", "tensorflow"]:
        seen = gpus(given.keras_python, backend)
        if seen:
            break
    else:
        print("finetune_gpu: no GPU that Keras sees; nothing measured")
        return
    print(f"Keras on {backend}: {', '.join(seen)}")
    environment = {"KERAS_BACKEND": backend}
    wanted = ["--epochs", str(given.epochs), *["--mixed-precision"] * given.mixed_precision]
    mine = ours(
        given.photos,
        given.weights,
        given.size,
        wanted,
        given.keep / "tailorbird",
        environment=environment,
    )
    save(mine, given.keep)
    theirs = peer(
        given.keras_python,
        given.photos,
        given.weights,
        given.size,
        given.head_epochs,
        given.epochs,
        given.rate,
        given.keep / "keras",
        jit="auto",
        environment=environment,
    )
    save(theirs, given.keep)
    compare(
        mine,
        theirs,
        "finetune_gpu",
        size=given.size,
        epochs=given.epochs,
        backend=backend,
        gpus=len(seen),
    )


if __name__ == "__main__":
    main()
