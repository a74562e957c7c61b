"""Fine-tune as in a notebook: a dense head on the frozen base, then the base too.

    python keras_finetune.py PHOTOS WEIGHTS.h5 SIZE HEAD_EPOCHS EPOCHS RATE JIT

Run by finetune_vs_keras.py in the Keras environment; prints a JSON line after every epoch, and one
at the end. Plain `fit`: Adam, augmentation layers before the base, ModelCheckpoint on validation
accuracy. Photos are decoded once and kept in memory, which is faster than a generator that reads
them every epoch. Batch normalisation is frozen layer by layer: in Keras 3 `fit` overrides
`training=False` in the call of the base. JIT is `none` (jit_compile=False: on a CPU, TensorFlow
trains this network about ten times slower with XLA) or `auto`, Keras' own choice.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras.utils import img_to_array, load_img


def photos(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8 (N, size, size, 3) and one-hot labels."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    pixels, labels = [], []
    for number, name in enumerate(classes):
        for file in sorted((folder / name).iterdir()):
            pixels.append(
                img_to_array(
                    load_img(file, target_size=(size, size), interpolation="bilinear"),
                    dtype="uint8",
                )
            )
            labels.append(number)
    return np.stack(pixels), keras.utils.to_categorical(labels, len(classes))


def build(weights: str, size: int, classes: int) -> tuple[keras.Model, keras.Model]:
    """Return the model and its backbone."""
    whole = keras.applications.MobileNetV2(weights=None)
    whole.load_weights(weights)
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(size, size, 3)
    )
    base.set_weights(whole.get_weights()[:-2])
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.RandomRotation(0.03)(x)
    x = keras.layers.RandomZoom(0.1)(x)
    x = keras.layers.RandomTranslation(0.05, 0.05)(x)
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(100, activation="relu")(x))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x)), base


class Say(keras.callbacks.Callback):
    """Print a line after every epoch, for the benchmark."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        found = {name: round(float(value), 5) for name, value in (logs or {}).items()}
        print(json.dumps({"stage": self._stage, "epoch": epoch + 1, **found}), flush=True)


def main() -> None:
    folder, weights, size, head_epochs, epochs, rate, jit = sys.argv[1:8]
    parts = {
        name: photos(Path(folder) / name, int(size)) for name in ("train", "validation", "test")
    }
    model, base = build(weights, int(size), parts["train"][1].shape[1])
    keep = keras.callbacks.ModelCheckpoint(
        "best.keras", monitor="val_accuracy", save_best_only=True
    )

    def fit(stage: str, learning_rate: float, rounds: int) -> None:
        model.compile(
            keras.optimizers.Adam(learning_rate),
            "categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False if jit == "none" else "auto",
        )
        model.fit(
            *parts["train"],
            validation_data=parts["validation"],
            epochs=rounds,
            batch_size=32,
            verbose=0,
            callbacks=[keep, Say(stage)],
        )

    fit("head", 1e-3, int(head_epochs))
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    fit("base", float(rate), int(epochs))
    accuracy = float(keras.models.load_model("best.keras").evaluate(*parts["test"], verbose=0)[1])
    print(
        json.dumps(
            {"test": accuracy, "keras": keras.__version__, "backend": keras.backend.backend()}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
