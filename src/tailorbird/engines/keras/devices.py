"""Choose GPUs, arithmetic precision, compilation and devices for Keras' backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tailorbird.engines.keras import backend
from tailorbird.errors import SettingsError


def gpus() -> int:
    """Return the number of GPUs that the backend sees."""
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
    """Return the Keras dtype policy; weights are float32 in each.

    mixed: sixteen-bit arithmetic, float16 on a GPU and bfloat16 on a CPU.
    """
    if not mixed:
        return "float32"
    return "mixed_float16" if gpus() else "mixed_bfloat16"


def compilation() -> bool | str:
    """Return `jit_compile` for `Model.compile`.

    On a CPU, TensorFlow trains depthwise convolutions ten times slower with XLA than without
    (MobileNetV2 at 160 px on two cores: 3.8 against 36 images/s). JAX without compilation runs
    operation by operation. PyTorch's compiler needs a C++ compiler.
    """
    name = backend.load().backend.backend()
    if name == "tensorflow":
        return "auto" if gpus() else False
    return bool(name == "jax")


def several(count: int) -> Any:
    """Return Keras' distribution of batches over devices of this machine; None for one device.

    Raises SettingsError if the backend supports a single device only, or has fewer devices.
    """
    if count == 1:
        return None
    if count < 1:
        raise SettingsError(f"devices is {count}; it must be 1 or more")
    keras = backend.load()
    name = keras.backend.backend()
    if name != "jax":
        raise SettingsError(
            f"devices is {count}, but Keras trains on several devices on its JAX backend only, and "
            f"the backend here is {name}; set KERAS_BACKEND=jax (pip install 'jax[cuda12]' for "
            "GPUs), or train with devices 1"
        )
    there = keras.distribution.list_devices()
    if count > len(there):
        raise SettingsError(
            f"devices is {count}, but JAX sees {len(there)} here ({', '.join(there)}); use at most "
            f"{len(there)}"
        )
    return keras.distribution.DataParallel(devices=there[:count], auto_shard_dataset=False)


@contextlib.contextmanager
def over(distribution: Any) -> Iterator[None]:
    """Create and run everything in the block on the devices of `several`."""
    if distribution is None:
        yield
    else:
        with distribution.scope():
            yield
