"""The head as Keras layers: features -> [dropout -> dense -> (batch norm) -> ReLU] x inner layers -> dropout -> dense -> logits.

Its weights are known by name: `head/0/kernel`, `head/0/bias` and, behind an inner layer with batch norm, `head/0/gamma`, `beta`,
`moving_mean` and `moving_variance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend
from tailorbird.engines.protocol import Arrays, Regularisation
from tailorbird.head import Dense, Head

EPSILON = 1e-5
MOMENTUM = 0.9


@dataclass(frozen=True)
class Stack:
    """The layers, from the features on. norms: None where a dense layer has no batch norm behind it."""

    drops: tuple[Any, ...]
    dense: tuple[Any, ...]
    norms: tuple[Any | None, ...]

    def __call__(self, features: Any) -> Any:
        """Keras tensor (B, K) -> logits (B, C)."""
        hidden = features
        for drop, dense, norm in zip(self.drops, self.dense, self.norms, strict=True):
            hidden = dense(drop(hidden))
            hidden = hidden if norm is None else norm(hidden)
            hidden = backend.load().ops.relu(hidden) if dense is not self.dense[-1] else hidden
        return hidden

    def variables(self) -> dict[str, Any]:
        """Keras variables by name."""
        found: dict[str, Any] = {}
        for number, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
            found |= {f"head/{number}/kernel": dense.kernel, f"head/{number}/bias": dense.bias}
            if norm is not None:
                names = ("gamma", "beta", "moving_mean", "moving_variance")
                found |= {f"head/{number}/{name}": getattr(norm, name) for name in names}
        return found

    def seeds(self) -> dict[str, Any]:
        """The states of dropout's random generators, by name."""
        return {
            f"seed/{number}": drop.seed_generator.state
            for number, drop in enumerate(self.drops)
            if drop.rate > 0
        }


def start(
    head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
) -> Arrays:
    """The weights a head starts from. Batch norm begins as the identity: its scale and shift undo the features' own statistics.

    features: float32 (N, K), used only with batch norm; None where none are known: mean 0 and variance 1 are assumed.
    """
    found: Arrays = {}
    hidden = features
    for number, layer in enumerate(head.layers):
        found[f"head/{number}/kernel"] = layer.weight.astype(np.float32)
        found[f"head/{number}/bias"] = layer.bias.astype(np.float32)
        if regularisation.batch_norm and number + 1 < len(head.layers):
            mean, variance = np.zeros(len(layer.bias)), np.ones(len(layer.bias))
            if hidden is not None:
                hidden = hidden @ layer.weight + layer.bias
                mean, variance = (
                    hidden.mean(axis=0, dtype=np.float64),
                    hidden.var(axis=0, dtype=np.float64),
                )
                hidden = np.maximum(hidden, 0)
            found[f"head/{number}/gamma"] = np.sqrt(variance + EPSILON).astype(np.float32)
            found[f"head/{number}/moving_variance"] = variance.astype(np.float32)
            found[f"head/{number}/beta"] = found[f"head/{number}/moving_mean"] = mean.astype(
                np.float32
            )
    return found


def build(
    weights: Mapping[str, npt.NDArray[Any]], regularisation: Regularisation, policy: str, seed: int
) -> Stack:
    """Layers with these weights. policy: Keras' dtype policy; the logits are float32 in each."""
    layers = backend.load().layers
    count = sum(name.endswith("/kernel") for name in weights if name.startswith("head/"))
    drops: list[Any] = []
    dense: list[Any] = []
    norms: list[Any] = []
    for number in range(count):
        kernel = weights[f"head/{number}/kernel"]
        drops.append(
            layers.Dropout(regularisation.dropout, seed=seed + number, name=f"head_dropout{number}")
        )
        dense.append(
            layers.Dense(
                kernel.shape[1],
                kernel_regularizer=_l2(regularisation.l2),
                dtype=policy if number + 1 < count else "float32",
                name=f"head_dense{number}",
            )
        )
        dense[-1].build((None, kernel.shape[0]))
        norm = None
        if f"head/{number}/gamma" in weights:
            norm = layers.BatchNormalization(
                momentum=MOMENTUM, epsilon=EPSILON, dtype=policy, name=f"head_norm{number}"
            )
            norm.build((None, kernel.shape[1]))
        norms.append(norm)
    stack = Stack(tuple(drops), tuple(dense), tuple(norms))
    for name, variable in stack.variables().items():
        variable.assign(weights[name])
    return stack


def _l2(strength: float) -> Any:
    """The penalty strength / 2 * sum(weight^2); Keras' own has no half."""
    return backend.load().regularizers.L2(strength / 2) if strength else None


def folded(weights: Mapping[str, npt.NDArray[Any]]) -> Head:
    """The head these weights are in use, batch norm written into its dense layers."""
    layers = []
    number = 0
    while f"head/{number}/kernel" in weights:
        at = f"head/{number}/"
        weight, bias = (
            weights[at + "kernel"].astype(np.float64),
            weights[at + "bias"].astype(np.float64),
        )
        if at + "gamma" in weights:
            factor = weights[at + "gamma"] / np.sqrt(
                weights[at + "moving_variance"].astype(np.float64) + EPSILON
            )
            weight = weight * factor
            bias = (bias - weights[at + "moving_mean"]) * factor + weights[at + "beta"]
        layers.append(Dense(weight.astype(np.float32), bias.astype(np.float32)))
        number += 1
    return Head(tuple(layers))
