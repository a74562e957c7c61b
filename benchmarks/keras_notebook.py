"""Train as in a notebook: frozen MobileNetV2, pooling, dense head, epochs over photos.

    python keras_notebook.py PHOTOS WEIGHTS.h5 train                 trains, scores on test
    python keras_notebook.py PHOTOS WEIGHTS.h5 predict MODEL.keras   photos/s of `model.predict`

Run by train_vs_keras.py in the Keras environment; prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

SIZE = 224


def photos(folder: str, shuffle: bool, labels: str | None = "inferred") -> object:
    mode = "categorical" if labels else None
    found = keras.utils.image_dataset_from_directory(
        folder,
        labels=labels,
        label_mode=mode,
        image_size=(SIZE, SIZE),
        batch_size=32,
        shuffle=shuffle,
        seed=1,
        verbose=False,
    )
    return found.prefetch(2)


def build(weights: str, classes: int) -> keras.Model:
    whole = keras.applications.MobileNetV2(weights=None, input_shape=(SIZE, SIZE, 3))
    whole.load_weights(weights)
    base = keras.Model(whole.input, whole.get_layer("out_relu").output)
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(100, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def train(folder: str, weights: str, epochs: int) -> None:
    start = time.perf_counter()
    parts = {
        name: photos(f"{folder}/{name}", name == "train")
        for name in ("train", "validation", "test")
    }
    classes = len(sorted(entry.name for entry in os.scandir(f"{folder}/train") if entry.is_dir()))
    model = build(weights, classes)
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    keep = keras.callbacks.ModelCheckpoint(
        "best.keras", monitor="val_accuracy", save_best_only=True
    )
    model.fit(
        parts["train"],
        validation_data=parts["validation"],
        epochs=epochs,
        callbacks=[keep],
        verbose=0,
    )
    best = keras.models.load_model("best.keras")
    accuracy = best.evaluate(parts["test"], verbose=0)[1]
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "accuracy": float(accuracy),
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            }
        )
    )


def predict(folder: str, weights: str) -> None:
    model = build(weights, 10)
    found = photos(folder, False, labels=None)
    model.predict(found.take(2), verbose=0)
    start = time.perf_counter()
    rows = model.predict(found, verbose=0)
    print(
        json.dumps(
            {"photos_per_second": len(rows) / (time.perf_counter() - start), "photos": len(rows)}
        )
    )


if __name__ == "__main__":
    if sys.argv[3] == "train":
        train(sys.argv[1], sys.argv[2], int(sys.argv[4]))
    else:
        predict(sys.argv[1], sys.argv[2])
