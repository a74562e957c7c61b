"""Print images/s of each epoch of Keras `fit`, on JAX unless KERAS_BACKEND says otherwise.

    python epochs_keras.py PHOTOS NETWORK SIZE BATCH EPOCHS

As in its guides: `image_dataset_from_directory`, decoded once and cached, augmentation layers in
the model, Adam; on a GPU `mixed_bfloat16`. Random weights. NETWORK is a name in Keras Applications
that takes pixels from -1 to 1.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import tensorflow
from common import say


class Say(keras.callbacks.Callback):  # type: ignore[misc]
    """Print the rate of each epoch."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count, self._begun = count, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        rate = self._count / (time.perf_counter() - self._begun)
        say(epoch=epoch + 1, images_per_second=rate)


def on_gpu() -> bool:
    """Say whether the backend of Keras computes on a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() == "gpu")
    return bool(tensorflow.config.list_physical_devices("GPU"))


def main() -> None:
    photos, network = sys.argv[1:3]
    size, batch, epochs = map(int, sys.argv[3:6])
    if on_gpu():
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    data = keras.utils.image_dataset_from_directory(
        photos, image_size=(size, size), batch_size=None, verbose=False
    )
    count, classes = int(data.cardinality()), len(data.class_names)
    # Batches of one size: JAX compiles the step once.
    batches = data.cache().shuffle(1024).batch(batch, drop_remainder=True)
    x = inputs = keras.Input((size, size, 3))
    for layer in (
        keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.03),
        keras.layers.RandomZoom(0.1), keras.layers.RandomTranslation(0.05, 0.05),
        keras.layers.Rescaling(1 / 127.5, offset=-1.0),
        getattr(keras.applications, network)(weights=None, include_top=False, pooling="avg"),
        keras.layers.Dense(classes, dtype="float32"),
    ):  # fmt: skip
        x = layer(x)
    model = keras.Model(inputs, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile="auto")
    model.fit(
        batches.prefetch(tensorflow.data.AUTOTUNE), epochs=epochs, verbose=0,
        callbacks=[Say(count // batch * batch)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
