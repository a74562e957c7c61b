"""Keras optimisers with a learning rate per variable and decoupled weight decay on kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailorbird.engines.keras import backend
from tailorbird.errors import SettingsError

NAMES = ("adamw", "adam", "sgd", "rmsprop")
"""Valid values of `Training.optimizer`."""

SGD_MOMENTUM = 0.9


def make(
    name: str,
    factors: Sequence[float],
    decays: Sequence[float],
    *,
    clip: float | None = None,
    accumulate: int = 1,
) -> Any:
    """Return an optimiser whose rate for variable i is learning_rate * factors[i].

    Before each update, variable i is multiplied by 1 - learning_rate * factors[i] * decays[i]
    (decoupled weight decay, Loshchilov and Hutter 2019). The factors are constants of the compiled
    step; `learning_rate` can be assigned between steps without compiling again.

    Args:
        name: one of NAMES.
        factors, decays: one per trainable variable, in the order of `model.trainable_variables`.
        clip: maximum global norm of the gradients.
        accumulate: number of calls whose mean gradient makes one update.

    Raises SettingsError for an unknown name.
    """
    keras = backend.load()
    optimizers = keras.optimizers
    stock: dict[str, tuple[Any, dict[str, Any]]] = {
        # AdamW's decay is applied below, per variable, so the base class is Adam for both.
        "adamw": (optimizers.Adam, {}),
        "adam": (optimizers.Adam, {}),
        "sgd": (optimizers.SGD, {"momentum": SGD_MOMENTUM}),
        "rmsprop": (optimizers.RMSprop, {}),
    }
    if name not in stock:
        raise SettingsError(f"optimizer is {name!r}; it must be one of {', '.join(NAMES)}")
    kind: Any
    kind, options = stock[name]

    # A subclass on every backend: on PyTorch, Keras replaces its own classes by fused ones without
    # `update_step`, but not subclasses.
    class Rated(kind):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            rate = keras.ops.cast(learning_rate, variable.dtype) * factors[index]
            if decays[index]:
                self.assign_sub(variable, keras.ops.multiply(variable, rate * decays[index]))
            super().update_step(gradient, variable, rate)

    if accumulate > 1:
        options["gradient_accumulation_steps"] = accumulate
    return Rated(learning_rate=1e-3, name=name, global_clipnorm=clip, **options)
