"""Environment of a test's process on Keras' JAX backend, with little time spent on compilation."""

from __future__ import annotations

import os


def jax_environment(*flags: str) -> dict[str, str]:
    quick = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
    return {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": " ".join((*quick, *flags))}
