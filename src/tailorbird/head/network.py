"""The head's network: parameters, forward pass, loss, backward pass, and the exported form.

Shapes: N samples, B in a batch, K features, C classes, P parameters in all. Features are float32
(N, K), labels int64 (N,) in 0..C-1, logits (N, C). Training runs in the dtype of the parameters:
float32, or float64 in the tests that check the gradients.

    features -> scale -> [dense -> (batch norm) -> ReLU -> dropout] x inner -> dense -> logits

Without an inner layer, dropout is applied to the scaled features, the input of the only layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tailorbird.metrics.calibration import PROBABILITY_FLOOR

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


@dataclass(frozen=True)
class Dense:
    """One exported layer, `inputs @ weight + bias`.

    weight: float32 (inputs, outputs). bias: float32 (outputs,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(
                "a dense layer needs weight (I, O) and bias (O,), "
                f"not {self.weight.shape}, {self.bias.shape}"
            )


@dataclass(frozen=True)
class Head:
    """The exported head: dense layers with ReLU between them; scaling and batch norm folded in."""

    layers: tuple[Dense, ...]

    def __post_init__(self) -> None:
        """Refuse layers that do not fit each other."""
        for before, after in itertools.pairwise(self.layers):
            if before.weight.shape[1] != after.weight.shape[0]:
                raise ValueError(
                    f"layers do not fit: {before.weight.shape} before {after.weight.shape}"
                )

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 (N, C) for unscaled features of the backbone, float32 (N, K)."""
        hidden = features
        for layer in self.layers[:-1]:
            hidden = np.maximum(hidden @ layer.weight + layer.bias, 0)
        return hidden @ self.layers[-1].weight + self.layers[-1].bias


@dataclass(frozen=True)
class Layer:
    """A layer in training; its arrays are views of the flat buffers of a `Network`.

    With batch norm the output is `scale * normalised(inputs @ weight) + bias`: the bias is batch
    norm's shift, and the dense layer has none of its own. The running statistics are (outputs,),
    and empty without batch norm.
    """

    weight: Floats
    bias: Floats
    scale: Floats | None
    running_mean: Floats
    running_variance: Floats


@dataclass(frozen=True)
class Network:
    """All parameters in one vector (P,): an optimiser step is one array operation."""

    flat: Floats
    running: Floats
    layers: tuple[Layer, ...]

    def like(self) -> Network:
        """Return the same layout on new zeroed buffers, for gradients and checkpoints."""
        return _lay_out(
            self.shapes,
            np.zeros_like(self.flat),
            np.zeros_like(self.running),
            self.layers[0].scale is not None,
        )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The (inputs, outputs) of each layer."""
        return [(layer.weight.shape[0], layer.weight.shape[1]) for layer in self.layers]

    def copy_from(self, other: Network) -> None:
        """Copy parameters and running statistics from `other`."""
        np.copyto(self.flat, other.flat)
        np.copyto(self.running, other.running)


def initialise(
    sizes: Sequence[int],
    *,
    batch_norm: bool,
    generator: np.random.Generator,
    dtype: type[np.floating] = np.float32,
) -> Network:
    """Return a network of layers of `sizes` (K, inner..., C).

    ReLU layers are initialised as in He et al. 2015. The last layer is zero: every class starts
    with the same probability.
    """
    shapes = list(itertools.pairwise(sizes))
    normed = batch_norm and len(shapes) > 1
    inner_width = sum(outputs for _, outputs in shapes[:-1]) if normed else 0
    parameters = sum(inputs * outputs + outputs for inputs, outputs in shapes) + inner_width
    network = _lay_out(
        shapes, np.zeros(parameters, dtype), np.zeros(2 * inner_width, dtype), normed
    )
    for layer in network.layers[:-1]:
        layer.weight[:] = generator.standard_normal(layer.weight.shape) * np.sqrt(
            2.0 / layer.weight.shape[0]
        )
        if layer.scale is not None:
            layer.scale[:] = 1
            layer.running_variance[:] = 1
    return network


def _lay_out(
    shapes: Sequence[tuple[int, int]], flat: Floats, running: Floats, batch_norm: bool
) -> Network:
    layers = []
    start = run = 0
    for index, (inputs, outputs) in enumerate(shapes):
        normed = batch_norm and index < len(shapes) - 1
        bias = start + inputs * outputs
        scale = bias + outputs
        end = scale + (outputs if normed else 0)
        statistics = running[run : run + 2 * outputs] if normed else running[:0]
        layers.append(
            Layer(
                weight=flat[start:bias].reshape(inputs, outputs),
                bias=flat[bias:scale],
                scale=flat[scale:end] if normed else None,
                running_mean=statistics[: statistics.size // 2],
                running_variance=statistics[statistics.size // 2 :],
            )
        )
        start, run = end, run + statistics.size
    return Network(flat, running, tuple(layers))


@dataclass(frozen=True)
class Tape:
    """Values of one layer's forward pass that the backward pass needs; arrays are (B, width)."""

    inputs: Floats
    mask: Floats | None = None
    normalised: Floats | None = None
    deviation: Floats | None = None
    positive: NDArray[np.bool_] | None = None


def dropout_mask(
    shape: tuple[int, int], rate: float, dtype: np.dtype, generator: np.random.Generator
) -> Floats:
    """Return an inverted dropout mask: 0 with probability `rate`, else 1 / (1 - rate)."""
    # 16 random bits per entry cost a quarter of a float64, and are fine enough for a rate.
    bits = generator.integers(0, 65536, size=shape, dtype=np.uint16)
    return np.multiply(bits >= round(rate * 65536), 1.0 / (1.0 - rate), dtype=dtype)


def forward_training(
    network: Network,
    inputs: Floats,
    *,
    dropout: float = 0.0,
    generator: np.random.Generator | None = None,
) -> tuple[Floats, list[Tape]]:
    """Return logits (B, C) of scaled features (B, K) and the tape; update running statistics."""
    tape: list[Tape] = []
    hidden = inputs
    last = len(network.layers) - 1
    for index, layer in enumerate(network.layers):
        mask = None
        if dropout and generator is not None and (index > 0 or last == 0):
            mask = dropout_mask(hidden.shape, dropout, hidden.dtype, generator)
            hidden = hidden * mask
        entry = Tape(hidden, mask)
        hidden = hidden @ layer.weight
        if layer.scale is not None:
            normalised, deviation = _batch_normalise(layer, hidden)
            entry = replace(entry, normalised=normalised, deviation=deviation)
            hidden = normalised * layer.scale
        hidden += layer.bias
        if index < last:
            entry = replace(entry, positive=hidden > 0)
            np.maximum(hidden, 0, out=hidden)
        tape.append(entry)
    return hidden, tape


def _batch_normalise(layer: Layer, values: Floats) -> tuple[Floats, Floats]:
    """Return columns (B, width) with mean 0 and variance 1, and their deviations (width,).

    Ioffe and Szegedy 2015.
    """
    mean, variance = values.mean(axis=0), values.var(axis=0)
    for running, batch in ((layer.running_mean, mean), (layer.running_variance, variance)):
        running *= BATCH_NORM_MOMENTUM
        running += (1 - BATCH_NORM_MOMENTUM) * batch
    deviation = np.sqrt(variance + BATCH_NORM_EPSILON)
    return (values - mean) / deviation, deviation


def forward(network: Network, inputs: Floats) -> Floats:
    """Return logits (N, C) of scaled features (N, K) in inference mode: running statistics."""
    hidden = inputs
    for layer in network.layers[:-1]:
        hidden = hidden @ layer.weight
        if layer.scale is not None:
            hidden -= layer.running_mean
            hidden *= layer.scale / np.sqrt(layer.running_variance + BATCH_NORM_EPSILON)
        hidden += layer.bias
        np.maximum(hidden, 0, out=hidden)
    return hidden @ network.layers[-1].weight + network.layers[-1].bias


def log_softmax(logits: Floats) -> Floats:
    """Return the natural logarithms of the probabilities (N, C)."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def cross_entropy(
    logits: Floats, labels: Labels, *, smoothing: float, weights: Floats | None
) -> tuple[float, Floats]:
    """Return the mean weighted cross-entropy of a batch and its gradient (B, C) in the logits.

    Targets are (1 - smoothing) * one-hot + smoothing / C (Szegedy et al. 2016). weights: of the
    classes (C,).
    """
    rows = np.arange(len(labels))
    log_probabilities = log_softmax(logits)
    losses = -(1 - smoothing) * log_probabilities[rows, labels]
    gradient = np.exp(log_probabilities)
    gradient[rows, labels] -= 1 - smoothing
    if smoothing:
        losses -= smoothing * log_probabilities.mean(axis=1)
        gradient -= smoothing / logits.shape[1]
    if weights is not None:
        losses *= weights[labels]
        gradient *= weights[labels][:, None]
    gradient /= len(labels)
    return float(losses.mean(dtype=np.float64)), gradient


def backward(
    network: Network, tape: Sequence[Tape], logits_gradient: Floats, gradient: Network
) -> None:
    """Write the derivatives of the loss, without L2, into `gradient` (of `network.like()`)."""
    upstream = logits_gradient
    for index in range(len(network.layers) - 1, -1, -1):
        layer, entry, target = network.layers[index], tape[index], gradient.layers[index]
        if entry.positive is not None:
            upstream = upstream * entry.positive
        np.sum(upstream, axis=0, out=target.bias)
        if layer.scale is not None and target.scale is not None:
            upstream = _batch_norm_backward(layer.scale, target.scale, entry, upstream)
        np.matmul(entry.inputs.T, upstream, out=target.weight)
        if index:
            upstream = upstream @ layer.weight.T
            if entry.mask is not None:
                upstream *= entry.mask


def _batch_norm_backward(
    scale: Floats, scale_gradient: Floats, entry: Tape, upstream: Floats
) -> Floats:
    """Return the gradient before normalisation (B, width); Ioffe and Szegedy 2015, section 3."""
    assert entry.normalised is not None and entry.deviation is not None
    np.sum(upstream * entry.normalised, axis=0, out=scale_gradient)
    inward = upstream * scale
    along = (inward * entry.normalised).mean(axis=0)
    return np.asarray((inward - inward.mean(axis=0) - entry.normalised * along) / entry.deviation)


def add_l2(network: Network, gradient: Network, strength: float) -> float:
    """Add the gradient of strength / 2 * sum(weight^2), without biases; return that penalty."""
    penalty = 0.0
    for layer, target in zip(network.layers, gradient.layers, strict=True):
        np.add(target.weight, strength * layer.weight, out=target.weight)
        penalty += float(np.vdot(layer.weight, layer.weight))
    return 0.5 * strength * penalty


def log_loss(logits: Floats, labels: Labels) -> float:
    """Return the mean of -ln p(label), p at least `PROBABILITY_FLOOR`."""
    picked = log_softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.maximum(picked, np.log(PROBABILITY_FLOOR)).mean(dtype=np.float64))


def fold(network: Network, mean: Floats, scale: Floats) -> Head:
    """Fold the scaling `(features - mean) * scale` and batch norm into the weights."""
    layers = []
    for index, layer in enumerate(network.layers):
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        if layer.scale is not None:
            factor = layer.scale / np.sqrt(
                layer.running_variance.astype(np.float64) + BATCH_NORM_EPSILON
            )
            weight, bias = weight * factor, bias - layer.running_mean * factor
        if index == 0:
            weight = weight * scale[:, None].astype(np.float64)
            bias = bias - mean.astype(np.float64) @ weight
        layers.append(Dense(weight.astype(np.float32), bias.astype(np.float32)))
    return Head(tuple(layers))


def blend(heads: Sequence[Head]) -> Head:
    """Return one head whose logits are the mean logits of `heads`, each of one or two layers.

    Inner layers are concatenated. For a head without one, z = relu(z) - relu(-z) is used.
    """
    if all(len(head.layers) == 1 for head in heads):
        return Head((_mean([head.layers[0] for head in heads]),))
    inner, outer, outer_bias = [], [], np.zeros_like(heads[0].layers[-1].bias)
    share = np.float32(1 / len(heads))
    for head in heads:
        if len(head.layers) == 1:
            (only,) = head.layers
            identity = np.eye(len(only.bias), dtype=np.float32)
            inner.append(
                Dense(np.hstack([only.weight, -only.weight]), np.hstack([only.bias, -only.bias]))
            )
            outer.append(np.vstack([identity, -identity]))
        else:
            first, last = head.layers
            inner.append(first)
            outer.append(last.weight)
            outer_bias += last.bias
    beside = Dense(
        np.hstack([layer.weight for layer in inner]), np.hstack([layer.bias for layer in inner])
    )
    return Head((beside, Dense(np.vstack(outer) * share, outer_bias * share)))


def _mean(layers: Sequence[Dense]) -> Dense:
    weight, bias = np.zeros_like(layers[0].weight), np.zeros_like(layers[0].bias)
    for layer in layers:
        weight += layer.weight / np.float32(len(layers))
        bias += layer.bias / np.float32(len(layers))
    return Dense(weight, bias)
