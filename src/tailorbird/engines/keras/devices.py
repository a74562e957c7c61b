"""What the backend computes on: GPUs, precision, compilation, and several devices side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tailorbird.engines.keras import backend
from tailorbird.errors import SettingsError


def gpus() -> int:
    """How many GPUs the backend sees."""
    name = backend.load().backend.backend()
    if name == "tensorflow":
        import tensorflow

        return len(tensorflow.config.list_physical_devices("GPU"))
    if name == "jax":
        import jax

        return sum(device.platform in ("gpu", "cuda", "rocm") for device in jax.devices())
    import torch

    return int(torch.cuda.device_count())


def precision(mixed: bool) -> str:
    """The Keras dtype policy: weights are float32 in each; float16 is fast on GPUs only, CPUs know bfloat16."""
    if not mixed:
        return "float32"
    return "mixed_float16" if gpus() else "mixed_bfloat16"


def compilation() -> bool | str:
    """`jit_compile` for `Model.compile`.

    TensorFlow's XLA on a CPU trains depthwise convolutions ten times slower than without (MobileNetV2 at 160 px on two cores: 3.8
    against 36 images/s). JAX runs operation by operation without compilation. PyTorch's compiler needs a C++ compiler.
    """
    name = backend.load().backend.backend()
    if name == "tensorflow":
        return "auto" if gpus() else False
    return bool(name == "jax")


def several(count: int) -> Any:
    """Keras' distribution over `count` devices of this machine, each taking a share of every batch; None for one device.

    Raises SettingsError where the backend cannot, or has fewer devices, naming what is possible.
    """
    if count == 1:
        return None
    if count < 1:
        raise SettingsError(f"devices is {count}; it must be 1 or more")
    keras = backend.load()
    name = keras.backend.backend()
    if name != "jax":
        raise SettingsError(
            f"devices is {count}, but Keras spreads training over several devices on its JAX backend only and runs on {name} here; "
            "set KERAS_BACKEND=jax (pip install 'jax[cuda12]' for GPUs), or train with devices 1"
        )
    there = keras.distribution.list_devices()
    if count > len(there):
        raise SettingsError(
            f"devices is {count}, but JAX sees {len(there)} here ({', '.join(there)}); at most {len(there)}"
        )
    return keras.distribution.DataParallel(devices=there[:count], auto_shard_dataset=False)


@contextlib.contextmanager
def over(distribution: Any) -> Iterator[None]:
    """What is made and run inside is spread over the devices of `several`."""
    if distribution is None:
        yield
    else:
        with distribution.scope():
            yield
