"""The head as Keras layers, with dropout and batch norm; weights named as in `engines.heads`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tailorbird.engines.heads import EPSILON, MOMENTUM
from tailorbird.engines.keras import backend
from tailorbird.engines.protocol import Regularisation


@dataclass(frozen=True)
class HeadLayers:
    """The layers from the features on; norms: None behind dense layers without batch norm."""

    drops: tuple[Any, ...]
    dense: tuple[Any, ...]
    norms: tuple[Any | None, ...]

    def __call__(self, features: Any) -> Any:
        """Return the logits (B, C) of features (B, K), both Keras tensors."""
        hidden = features
        for drop, dense, norm in zip(self.drops, self.dense, self.norms, strict=True):
            hidden = dense(drop(hidden))
            hidden = hidden if norm is None else norm(hidden)
            hidden = backend.load().ops.relu(hidden) if dense is not self.dense[-1] else hidden
        return hidden

    def variables(self) -> dict[str, Any]:
        """Return the Keras variables by name."""
        found: dict[str, Any] = {}
        for number, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
            found |= {f"head/{number}/kernel": dense.kernel, f"head/{number}/bias": dense.bias}
            if norm is not None:
                names = ("gamma", "beta", "moving_mean", "moving_variance")
                found |= {f"head/{number}/{name}": getattr(norm, name) for name in names}
        return found

    def seeds(self) -> dict[str, Any]:
        """Return the states of the dropout layers' random generators, by name."""
        return {
            f"seed/{number}": drop.seed_generator.state
            for number, drop in enumerate(self.drops)
            if drop.rate > 0
        }


def build(
    weights: Mapping[str, npt.NDArray[Any]], regularisation: Regularisation, policy: str, seed: int
) -> HeadLayers:
    """Return layers with these weights, as `engines.heads.initial_weights` names them.

    policy: Keras' dtype policy; the logits are always float32.
    """
    keras = backend.load()
    layers = keras.layers
    # The penalty is strength / 2 * sum(weight^2); Keras' own has no factor 1/2.
    l2 = keras.regularizers.L2(regularisation.l2 / 2) if regularisation.l2 else None
    count = sum(name.endswith("/kernel") for name in weights if name.startswith("head/"))
    drops: list[Any] = []
    dense: list[Any] = []
    norms: list[Any] = []
    for number in range(count):
        inputs, units = weights[f"head/{number}/kernel"].shape
        drops.append(
            layers.Dropout(regularisation.dropout, seed=seed + number, name=f"head_dropout{number}")
        )
        dtype = policy if number + 1 < count else "float32"
        dense.append(
            layers.Dense(units, kernel_regularizer=l2, dtype=dtype, name=f"head_dense{number}")
        )
        dense[-1].build((None, inputs))
        norm = None
        if f"head/{number}/gamma" in weights:
            norm = layers.BatchNormalization(
                momentum=MOMENTUM, epsilon=EPSILON, dtype=policy, name=f"head_norm{number}"
            )
            norm.build((None, units))
        norms.append(norm)
    made = HeadLayers(tuple(drops), tuple(dense), tuple(norms))
    for name, variable in made.variables().items():
        variable.assign(weights[name])
    return made
