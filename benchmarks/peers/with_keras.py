"""Fine-tune as Keras' guide to transfer learning does: the head on the frozen base, then all of it.

Network, augmentation and loss are those of keras_finetune.py, at 224 pixels: Adam at 1e-3 for the
head, for a fifth of the time, then at 1e-4 with batch normalisation frozen, until the time is up
(the guide's 1e-5 needs more epochs than fit: see finetune_vs_keras.py).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from common import SIZE, given, left, say

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
from keras_finetune import build
from keras_finetune import photos as read


class UntilEnd(keras.callbacks.Callback):  # type: ignore[misc]
    """Print the accuracy after each epoch; stop when another would end too late."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        say(epoch=epoch + 1, validation=float((logs or {})["val_accuracy"]))
        if left(self._seconds) < time.perf_counter() - self._begun:
            self.model.stop_training = True


def main() -> None:
    folder, weights, seconds = given()
    parts = {name: read(folder / name, SIZE) for name in ("train", "validation", "test")}
    model, base = build(str(weights), SIZE, parts["train"][1].shape[1])
    keep = keras.callbacks.ModelCheckpoint(
        "best.keras", monitor="val_accuracy", save_best_only=True
    )

    def fit(rate: float, until: float) -> None:
        model.compile(
            keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"],
            jit_compile=False,
        )  # fmt: skip
        model.fit(
            *parts["train"], validation_data=parts["validation"], epochs=1000, batch_size=32,
            verbose=0, callbacks=[keep, UntilEnd(until)],
        )  # fmt: skip

    fit(1e-3, seconds * 0.2)
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    fit(1e-4, seconds)
    best = keras.models.load_model("best.keras")
    say(test=float(best.evaluate(*parts["test"], verbose=0)[1]))


if __name__ == "__main__":
    main()
