"""The course's deep-learning notebooks, step by step, in plain Keras: no tailorbird in this file.

    python notebook.py PLAN.json

It reads names of steps from standard input, like a notebook's kernel, and writes one JSON line for
each.

`run.py` writes the plan and asks for the steps; the table of steps stands at the end. `seconds` in
an answer are those of the recipe itself; what is measured besides, to show a pitfall, is not
counted.
"""

from __future__ import annotations

import csv
import json
import sys
import time
import traceback
from pathlib import Path

STARTED = time.perf_counter()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras.utils import img_to_array, load_img  # noqa: E402

import variants  # noqa: E402
from recipe import (  # noqa: E402
    BEST,
    CLASSES,
    EPOCHS,
    LARGE,
    LARGER,
    MODULE,
    NETWORK,
    OUT,
    PHOTOS,
    PLAN,
    SMALL,
    TUNED,
    accuracy,
    compiled,
    earlier,
    fit,
    make_model,
    photos,
    say,
    whole_network,
)

# The steps


def weights() -> dict:
    """For the shortened form: a network of random weights whose activations neither vanish nor
    explode, one step of batch norm long.
    """
    keras.utils.set_random_seed(0)
    network = NETWORK(weights=None)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    pooling = next(
        layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    base = keras.Model(network.input, pooling.input)
    pixels = np.concatenate(
        [np.asarray(x) for x, _ in photos("train", base.input_shape[1]).take(1)]
    )
    base(pixels, training=True)
    network.save_weights(PLAN["weights"])
    return {}


def imagenet() -> dict:
    network = whole_network()
    size = network.input_shape[1]
    pixels = np.array([img_to_array(load_img(PLAN["photo"], target_size=(size, size)))])
    probabilities = network.predict(MODULE.preprocess_input(pixels), verbose=0)
    if PLAN["imagenet_classes"] is None:
        return {
            "top": [
                [name, float(p)]
                for _, name, p in MODULE.decode_predictions(probabilities, top=5)[0]
            ]
        }
    with Path(PLAN["imagenet_classes"]).open(newline="", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    best = np.argsort(-probabilities[0])[:5]
    return {"top": [[names[number], float(probabilities[0, number])] for number in best]}


def frozen() -> dict:
    model = make_model(SMALL, 0.01)
    found = fit(model, photos("train", SMALL), photos("validation", SMALL), EPOCHS["frozen"])
    return {
        "validation": found[-1],
        "test": accuracy(model, photos("test", SMALL)),
        "by_epoch": found,
    }


def tried(name: str, values: list, make: object) -> dict:
    """Train the model once for each value, on all photos in every epoch."""
    found = {}
    for value in values[1:2] if PLAN["short"] else values:
        found[str(value)] = max(
            fit(make(value), photos("train", SMALL), photos("validation", SMALL), EPOCHS[name])
        )
        say(f"{name} {value}: validation accuracy {found[str(value)]:.3f}")
    best = max(found, key=found.get)
    return {"tried": found, "best": float(best), "validation": found[best]}


def learning_rate() -> dict:
    return tried("learning-rate", [0.0001, 0.001, 0.01, 0.1], lambda rate: make_model(SMALL, rate))


def checkpoint() -> dict:
    model = make_model(SMALL, earlier("learning-rate")["best"])
    found = fit(
        model, photos("train", SMALL), photos("validation", SMALL), EPOCHS["checkpoint"], BEST
    )
    best = keras.models.load_model(BEST)
    return {
        "validation": max(found),
        "test": accuracy(best, photos("test", SMALL)),
        "by_epoch": found,
    }


def inner() -> dict:
    rate = earlier("learning-rate")["best"]
    return tried("inner", [10, 100, 1000], lambda size: make_model(SMALL, rate, inner=size))


def dropout() -> dict:
    rate = earlier("learning-rate")["best"]
    return tried(
        "dropout",
        [0.0, 0.2, 0.5, 0.8],
        lambda share: make_model(SMALL, rate, inner=100, dropout=share),
    )


def augmentation() -> dict:
    model = make_model(
        SMALL, earlier("learning-rate")["best"], inner=100, dropout=earlier("dropout")["best"]
    )
    keep = OUT / "augmented.keras"
    train = photos("train", SMALL, augmented="strong")
    found = fit(model, train, photos("validation", SMALL), EPOCHS["augmentation"], keep)
    best = keras.models.load_model(keep)
    return {
        "validation": max(found),
        "test": accuracy(best, photos("test", SMALL)),
        "by_epoch": found,
    }


def larger() -> dict:
    """Train with more pixels, less augmentation and half the learning rate."""
    model = make_model(
        LARGE, earlier("learning-rate")["best"] / 2, inner=100, dropout=earlier("dropout")["best"]
    )
    train = photos("train", LARGE, augmented="light")
    found = fit(model, train, photos("validation", LARGE), EPOCHS["larger"], LARGER)
    return {"validation": max(found), "by_epoch": found}


def use() -> dict:
    model = keras.models.load_model(LARGER)
    found = accuracy(model, photos("test", LARGE))
    pixels = np.array([img_to_array(load_img(PLAN["photo"], target_size=(LARGE, LARGE)))])
    logits = model.predict(MODULE.preprocess_input(pixels), verbose=0)[0]
    return {
        "validation": earlier("larger")["validation"],
        "test": found,
        "label": CLASSES[int(logits.argmax())],
    }


def fine_tune() -> dict:
    """The best frozen model goes on with its base at a low rate. Batch normalisation stays frozen
    layer by layer, as `fit`
    overrules the `training=False` of the base's call."""
    model = keras.models.load_model(BEST)
    base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    train = photos("train", SMALL, augmented="light")
    found = fit(
        compiled(model, 1e-4), train, photos("validation", SMALL), EPOCHS["fine-tune"], TUNED
    )
    best = keras.models.load_model(TUNED)
    return {
        "validation": max(found),
        "test": accuracy(best, photos("test", SMALL)),
        "by_epoch": found,
    }


def hand_back() -> dict:
    """Use the exported Keras file: raw pixels in, probabilities out."""
    model = keras.models.load_model(Path(PLAN["out"]) / "tailorbird" / "fine-tuned.keras")
    size = model.input_shape[1] or SMALL

    def pixels(file: Path) -> np.ndarray:
        return img_to_array(
            load_img(file, target_size=(size, size), interpolation="bilinear"), dtype="uint8"
        )

    right = total = 0
    for number, name in enumerate(CLASSES):
        files = sorted((PHOTOS / "test" / name).iterdir())
        answers = model.predict(np.stack([pixels(file) for file in files]), verbose=0)
        right, total = right + int((answers.argmax(1) == number).sum()), total + len(files)
    probabilities = model.predict(pixels(Path(PLAN["photo"]))[None], verbose=0)[0]
    return {
        "test": right / total,
        "probabilities": dict(zip(CLASSES, map(float, probabilities), strict=True)),
    }


STEPS = {
    "weights": weights,
    "imagenet": imagenet,
    "frozen": frozen,
    "learning-rate": learning_rate,
    "checkpoint": checkpoint,
    "inner": inner,
    "dropout": dropout,
    "augmentation": augmentation,
    "larger": larger,
    "use": use,
    "fine-tune": fine_tune,
    "hand-back": hand_back,
    "footwear": variants.footwear,
    "homework": variants.homework,
    "pitfall-validation": variants.pitfall_validation,
    "pitfall-resume": variants.pitfall_resume,
    "pitfall-batch-norm": variants.pitfall_batch_norm,
    "pitfall-preprocess": variants.pitfall_preprocess,
}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    print(
        json.dumps({"ready": time.perf_counter() - STARTED, "keras": keras.__version__}), flush=True
    )
    for line in sys.stdin:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        start = time.perf_counter()
        try:
            found = STEPS[line.strip()]()
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"seconds": time.perf_counter() - start, **found}), flush=True)


if __name__ == "__main__":
    main()
