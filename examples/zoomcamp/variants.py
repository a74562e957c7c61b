"""Beside the course's own steps, in plain Keras: the footwear variant, the homework's network from
scratch, and pitfalls measured.
"""

from __future__ import annotations

import time

import keras
import numpy as np

from recipe import (
    BEST,
    COMPILED,
    EPOCHS,
    LARGE,
    LARGER,
    MODULE,
    OUT,
    SMALL,
    accuracy,
    augmenting,
    compiled,
    fit,
    frozen_base,
    photos,
    table,
)

# What Keras' `preprocess_input` subtracts and divides by in its modes for other networks
# (keras.applications.imagenet_utils).
TORCH_MEAN, TORCH_DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])


# The footwear variant: three classes, L2, batch normalisation, early stopping, mixed precision


def footwear() -> dict:
    (x, y, classes), (vx, vy, _), (tx, ty, _) = (
        table("footwear.csv", s, SMALL) for s in ("train", "validation", "test")
    )
    prepare = MODULE.preprocess_input
    # float16 is fast on GPUs only; what a CPU has is bfloat16.
    policy = "mixed_float16" if keras.distribution.list_devices("gpu") else "mixed_bfloat16"
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((SMALL, SMALL, 3))
        vectors = keras.layers.GlobalAveragePooling2D()(frozen_base(SMALL)(inputs, training=False))
        vectors = keras.layers.Dense(100, kernel_regularizer=keras.regularizers.L2(0.01))(vectors)
        vectors = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(vectors))
        vectors = keras.layers.Dropout(0.2)(vectors)
        model = keras.Model(
            inputs, keras.layers.Dense(len(classes), activation="softmax", dtype="float32")(vectors)
        )
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(
        keras.optimizers.Adam(0.001),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **COMPILED,
    )
    stop = keras.callbacks.EarlyStopping(
        monitor="val_accuracy", patience=3, restore_best_weights=True
    )
    found = model.fit(
        prepare(x.copy()),
        y,
        validation_data=(prepare(vx.copy()), vy),
        epochs=EPOCHS["footwear"],
        callbacks=[stop],
        verbose=0,
    )
    answers = model.predict(prepare(tx.copy()), verbose=0).argmax(1)
    per_class = []
    for number, name in enumerate(classes):
        hits = int(((answers == number) & (ty == number)).sum())
        said, true = int((answers == number).sum()), int((ty == number).sum())
        precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        per_class.append(
            {"label": name, "precision": precision, "recall": recall, "f1": f1, "support": true}
        )
    validation = [float(value) for value in found.history["val_accuracy"]]
    return {
        "validation": max(validation),
        "test": float((answers == ty).mean()),
        "per_class": per_class,
        "policy": policy,
        "epochs": len(validation),
        "by_epoch": validation,
    }


# The homework: a small network from scratch, two classes


def homework() -> dict:
    (x, y, _), (vx, vy, _), (tx, ty, _) = (
        table("homework.csv", s, SMALL) for s in ("train", "validation", "test")
    )
    model = keras.Sequential(
        [
            keras.Input((SMALL, SMALL, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.002, momentum=0.8),
        "binary_crossentropy",
        metrics=["accuracy"],
        **COMPILED,
    )
    epochs, start = EPOCHS["homework"], time.perf_counter()
    plain = model.fit(
        x, y, validation_data=(vx, vy), epochs=epochs, batch_size=20, verbose=0
    ).history["val_accuracy"]
    middle, plain_test = time.perf_counter() - start, float(model.evaluate(tx, ty, verbose=0)[1])
    augment, start = augmenting("homework"), time.perf_counter()
    later = []
    for _ in range(epochs):
        views = np.concatenate(
            [np.asarray(augment(x[i : i + 64], training=True)) for i in range(0, len(x), 64)]
        )
        history = model.fit(
            views, y, validation_data=(vx, vy), epochs=1, batch_size=20, verbose=0
        ).history
        later.append(float(history["val_accuracy"][-1]))
    return {
        "validation": later[-1], "test": float(model.evaluate(tx, ty, verbose=0)[1]),
        "plain": {"seconds": middle, "validation": float(plain[-1]), "test": plain_test},
        "augmented": {"seconds": time.perf_counter() - start, "validation": later[-1]},
    }  # fmt: skip


# Pitfalls, measured


def pitfall_validation() -> dict:
    """Score one model on the same photos with and without augmentation."""
    model, start = keras.models.load_model(BEST), time.perf_counter()
    plain = accuracy(model, photos("validation", SMALL))
    through = [accuracy(model, photos("validation", SMALL, augmented="strong")) for _ in range(3)]
    return {"plain": plain, "augmented": through, "seconds": time.perf_counter() - start}


def pitfall_resume() -> dict:
    """After a restart the checkpoint callback is made again, and remembers no best: its first epoch
    is the best so far.
    """
    keep = OUT / "resumed.keras"
    model = keras.models.load_model(BEST)
    before = accuracy(model, photos("validation", SMALL))
    keep.write_bytes(BEST.read_bytes())
    train, validation = photos("train", SMALL, augmented="strong"), photos("validation", SMALL)
    found = fit(compiled(model, 0.01), train, validation, EPOCHS["resume"], keep)
    after = accuracy(keras.models.load_model(keep), photos("validation", SMALL))
    return {"before": before, "after": after, "by_epoch": found}


def pitfall_preprocess() -> dict:
    """One model, the same photos, pixels prepared in other networks' ways: nothing fails, only the
    accuracy does.
    """
    model = keras.models.load_model(LARGER)
    modes = {
        "torch (DenseNet)": lambda x: (x / 255.0 - TORCH_MEAN) / TORCH_DEVIATION,
        "caffe (VGG, ResNet50)": lambda x: x[..., ::-1] - CAFFE_MEAN,
        "none (EfficientNet)": lambda x: x,
    }
    found = {
        name: accuracy(model, photos("validation", LARGE, preprocess=mode))
        for name, mode in modes.items()
    }
    return {"right": accuracy(model, photos("validation", LARGE)), "with": found}


def pitfall_batch_norm() -> dict:
    """The base was called with `training=False`, then unfrozen: what the model answers in use, and
    while `fit` runs it.

    On the validation photos, without a step of training: the difference is batch normalisation
    alone, as this model has no dropout.
    """
    model = keras.models.load_model(BEST)
    base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    base.trainable = True
    right = {"in use": 0, "in fit": 0}
    total = 0
    for pixels, labels in photos("validation", SMALL):
        wanted = np.asarray(labels).argmax(1)
        for name, training in (("in use", False), ("in fit", True)):
            answers = keras.ops.convert_to_numpy(model(pixels, training=training)).argmax(1)
            right[name] += int((answers == wanted).sum())
        total += len(wanted)
    return {name: count / total for name, count in right.items()}
