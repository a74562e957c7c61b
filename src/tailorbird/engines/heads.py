"""Convert heads between the core's dense layers and weights by name, for any framework.

In training a head is [dropout -> dense -> (batch norm) -> ReLU] x inner layers -> dropout -> dense.
Its weights are known by name: `head/0/kernel`, `head/0/bias` and, with batch norm behind an inner
layer, `head/0/gamma`, `beta`, `moving_mean` and `moving_variance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Arrays, Regularisation
from tailorbird.head import Dense, Head

EPSILON = 1e-5
MOMENTUM = 0.9
"""Epsilon and momentum of batch normalisation."""

MOST_INSERTED = 4096
"""Largest width at which a ReLU without a dense layer before it is folded as one of its own."""

Floats = npt.NDArray[np.float64]


def initial_weights(
    head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
) -> Arrays:
    """Return a head's weights by name, for training.

    Batch norm starts as the identity: its scale and shift undo the statistics of the features.

    features: float32 (N, K), used with batch norm only; None: mean 0 and variance 1.
    """
    found: Arrays = {}
    hidden = features
    for number, layer in enumerate(head.layers):
        at = f"head/{number}/"
        found[at + "kernel"] = layer.weight.astype(np.float32)
        found[at + "bias"] = layer.bias.astype(np.float32)
        if regularisation.batch_norm and number + 1 < len(head.layers):
            mean, variance = np.zeros(len(layer.bias)), np.ones(len(layer.bias))
            if hidden is not None:
                hidden = hidden @ layer.weight + layer.bias
                mean = hidden.mean(axis=0, dtype=np.float64)
                variance = hidden.var(axis=0, dtype=np.float64)
                hidden = np.maximum(hidden, 0)
            found[at + "gamma"] = np.sqrt(variance + EPSILON).astype(np.float32)
            found[at + "moving_variance"] = variance.astype(np.float32)
            found[at + "beta"] = found[at + "moving_mean"] = mean.astype(np.float32)
    return found


def head_of(weights: Mapping[str, npt.NDArray[Any]]) -> Head:
    """Return the head of these named weights for inference, with batch norm folded in."""
    layers: list[Dense] = []
    while (at := f"head/{len(layers)}/") + "kernel" in weights:
        values = {
            name.removeprefix(at): value.astype(np.float64)
            for name, value in weights.items()
            if name.startswith(at)
        }
        weight, bias = values["kernel"], values["bias"]
        if "gamma" in values:
            factor = values["gamma"] / np.sqrt(values["moving_variance"] + EPSILON)
            weight = weight * factor
            bias = (bias - values["moving_mean"]) * factor + values["beta"]
        layers.append(Dense(weight.astype(np.float32), bias.astype(np.float32)))
    return Head(tuple(layers))


@dataclass(frozen=True)
class HeadStep:
    """One operation of an imported head, in inference.

    scale, shift: weight (I, O) and bias (O,) of a dense step, both (O,) of an affine one.
    """

    kind: Literal["dense", "affine", "relu", "softmax", "sigmoid"]
    scale: npt.NDArray[Any] | None = None
    shift: Floats | None = None

    @property
    def ends(self) -> bool:
        """Return whether it turns logits into probabilities."""
        return self.kind in ("softmax", "sigmoid")


def can_fold(steps: Sequence[HeadStep], width: int) -> bool:
    """Return whether `fold` is possible, with or without a softmax or sigmoid at the end.

    width: number of inputs of the first step.
    """
    inner = steps[:-1] if steps and steps[-1].ends else steps
    is_open = False
    for number, step in enumerate(inner):
        if step.ends or (step.kind == "relu" and number + 1 == len(inner)):
            return False
        if step.kind == "relu" and not is_open and width > MOST_INSERTED:
            return False
        if step.kind == "dense":
            assert step.scale is not None
            width = step.scale.shape[1]
        is_open = step.kind == "dense" or (is_open and step.kind == "affine")
    return is_open or width <= MOST_INSERTED


def fold(steps: Sequence[HeadStep], width: int) -> Head:
    """Return steps without a softmax or sigmoid as dense layers with ReLU between them.

    Affine steps are multiplied into the dense layer before them or, behind a ReLU and on the
    features, into the next one.
    """
    layers: list[tuple[npt.NDArray[Any], Floats]] = []
    is_open = False  # whether the last layer's outputs have not passed a ReLU yet
    scale, shift = np.ones(width), np.zeros(width)  # affine, before the next dense layer
    for step in steps:
        idle = bool((scale == 1).all() and not shift.any())
        if step.kind == "relu":
            # On features, or an affine step on them, it needs its own layer; after a ReLU, none.
            if not is_open and not (layers and idle):
                layers.append((np.diag(scale), shift))
                scale, shift = np.ones(len(scale)), np.zeros(len(scale))
            is_open = False
            continue
        assert step.scale is not None and step.shift is not None
        if is_open:
            layers.append(_after(layers.pop(), step))
        elif step.kind == "dense":
            # Unchanged if possible: the first layer after a flattened map can be half a gigabyte.
            before = shift @ step.scale + step.shift
            layers.append(
                (step.scale, step.shift) if idle else (scale[:, None] * step.scale, before)
            )
            is_open = True
        else:
            scale, shift = scale * step.scale, shift * step.scale + step.shift
        if step.kind == "dense":
            scale, shift = np.ones(step.scale.shape[1]), np.zeros(step.scale.shape[1])
    if not is_open:
        layers.append((np.diag(scale), shift))
    return Head(
        tuple(
            Dense(weight.astype(np.float32, copy=False), bias.astype(np.float32))
            for weight, bias in layers
        )
    )


def _after(
    layer: tuple[npt.NDArray[Any], Floats], step: HeadStep
) -> tuple[npt.NDArray[Any], Floats]:
    """Return a dense layer followed by a dense or affine step as one layer."""
    (weight, bias), scale = layer, step.scale
    assert scale is not None and step.shift is not None
    if step.kind == "dense":
        return weight.astype(np.float64) @ scale, bias @ scale + step.shift
    return weight * scale, bias * scale + step.shift
