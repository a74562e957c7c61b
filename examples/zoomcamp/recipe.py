"""What the notebook's steps share, in plain Keras: reading photos, the frozen base with a dense
head, fitting with a checkpoint.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras.utils import img_to_array, load_img

warnings.filterwarnings(
    "ignore", message=".*shuffle=True.*"
)  # Keras says so of every data set that it reads itself
PLAN = json.loads(Path(sys.argv[1]).read_text())
PHOTOS, OUT = Path(PLAN["photos"]), Path(PLAN["out"]) / "notebook"
SMALL, LARGE = PLAN["sizes"]
EPOCHS = PLAN["epochs"]
NETWORK = getattr(keras.applications, PLAN["network"])
MODULE = {
    "Xception": keras.applications.xception,
    "MobileNetV2": keras.applications.mobilenet_v2,
    "MobileNet": keras.applications.mobilenet,
}[PLAN["network"]]
CLASSES = sorted(entry.name for entry in os.scandir(PHOTOS / "train") if entry.is_dir())
BEST, LARGER, TUNED = OUT / "best.keras", OUT / "larger.keras", OUT / "fine-tuned.keras"

# TensorFlow on a CPU trains these networks many times slower compiled with XLA, which is what Keras
# chooses by itself.
# The short form has so few batches that building the graph would cost more than it saves.
COMPILED = {"jit_compile": False, "run_eagerly": PLAN["short"]}


def say(text: str) -> None:
    print(f"  notebook: {text}", file=sys.stderr, flush=True)


# Photos


def augmenting(kind: str) -> keras.Sequential:
    """The course's augmentation, on pixels 0 to 255. `strong`: up to 30 degrees, a tenth of zoom,
    10 pixels of shift and 10 degrees of
    shear, upside down now and then; `light`: what it keeps for the larger size; `homework`: up to
    50 degrees, mirrored.
    """
    layers = keras.layers
    light = [layers.RandomShear(0.17, 0.17), layers.RandomZoom(0.1)]
    strong = [
        layers.RandomFlip("vertical"),
        layers.RandomRotation(30 / 360),
        layers.RandomTranslation(0.067, 0.067),
    ]
    homework = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(50 / 360),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomZoom(0.1),
    ]
    return keras.Sequential({"light": light, "strong": strong + light, "homework": homework}[kind])


def photos(
    split: str, size: int, *, augmented: str | None = None, preprocess: object = None
) -> object:
    """Return batches of 32: preprocessed photos float32 (32, size, size, 3), one-hot labels."""
    found = keras.utils.image_dataset_from_directory(
        PHOTOS / split,
        label_mode="categorical",
        image_size=(size, size),
        batch_size=32,
        shuffle=split == "train",
        seed=1,
        verbose=False,
    )
    if augmented:
        augment = augmenting(augmented)
        found = found.map(lambda x, y: (augment(x, training=True), y))
    prepare = preprocess or MODULE.preprocess_input
    return found.map(lambda x, y: (prepare(x), y)).prefetch(2)


def table(name: str, split: str, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A CSV's photos of a split as pixels float32 (N, size, size, 3) in 0 to 255, and their class
    numbers.
    """
    path = Path(PLAN["out"]) / "tailorbird" / name
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    rows = [row for row in rows if row["split"] == split]
    pixels = [
        img_to_array(load_img(path.parent / row["path"], target_size=(size, size))) for row in rows
    ]
    return np.stack(pixels), np.array([classes.index(row["label"]) for row in rows]), classes


# The model


def whole_network() -> keras.Model:
    """Return the network with its 1000 classes."""
    if PLAN["weights"] is None:
        return NETWORK(weights="imagenet")
    network = NETWORK(weights=None)
    network.load_weights(PLAN["weights"])
    return network


@functools.cache
def base_weights() -> list[np.ndarray]:
    """Those of the file, without the last layer; read once, as files for a network without its top
    are.
    """
    return list(whole_network().get_weights()[:-2])


def frozen_base(size: int) -> keras.Model:
    """The network without its pooling and classes, for photos of this size, nothing of it
    trainable.
    """
    if PLAN["weights"] is None:
        base = NETWORK(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    else:
        base = NETWORK(weights=None, include_top=False, input_shape=(size, size, 3))
        base.set_weights(base_weights())
    base.trainable = False
    return base


def make_model(
    size: int, learning_rate: float, inner: int = 0, dropout: float = 0.0
) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    vectors = keras.layers.GlobalAveragePooling2D()(frozen_base(size)(inputs, training=False))
    if inner:
        vectors = keras.layers.Dense(inner, activation="relu")(vectors)
    if dropout:
        vectors = keras.layers.Dropout(dropout)(vectors)
    model = keras.Model(inputs, keras.layers.Dense(len(CLASSES))(vectors))
    return compiled(model, learning_rate)


def compiled(model: keras.Model, learning_rate: float) -> keras.Model:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"], **COMPILED)
    return model


def fit(
    model: keras.Model, train: object, validation: object, epochs: int, keep: Path | None = None
) -> list[float]:
    """Train; return the validation accuracy per epoch, saving the best if a file is named."""
    callbacks = (
        [keras.callbacks.ModelCheckpoint(keep, monitor="val_accuracy", save_best_only=True)]
        if keep
        else []
    )
    history = model.fit(
        train, validation_data=validation, epochs=epochs, callbacks=callbacks, verbose=0
    ).history
    return [float(value) for value in history["val_accuracy"]]


def accuracy(model: keras.Model, data: object) -> float:
    return float(model.evaluate(data, verbose=0)[1])


def earlier(step: str) -> dict:
    """Return the results of an earlier step."""
    return json.loads((Path(PLAN["out"]) / "results" / f"{step}.notebook.json").read_text())
