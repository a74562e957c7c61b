"""Round the weights of convolutions to integers so that the outputs on photos change least.

Rounding each weight to the nearest integer is not the best choice: the inputs of a convolution are
correlated, so the error of one weight can be made up for by others. GPTQ (Frantar et al., "GPTQ:
Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, algorithm
1) rounds the weights one after another and adds to those that are left what best compensates for
the error so far, given the covariance of the inputs. What remains on average goes to the bias.

Shapes: a convolution has G groups of O output channels, each with K weights (input channels of the
group times kernel positions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.errors import InputError
from tailorbird.inference import CPU, Runner, map_batches

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")
Array = npt.NDArray[Any]

MOST_WEIGHTS = 2048
"""Largest K whose weights are rounded this way; time and memory grow with its square."""

MOST_POSITIONS = 512
"""Positions of a photo's feature map that are looked at."""

DAMPING = 0.01
"""Added to the variances, as a share of their mean, as in the paper."""

BLOCK = 64
"""Weights of a row after which the rest of the row is brought up to date."""

SCALES = np.linspace(1, 0.6, 21)
"""Largest weights that are tried, as shares of the largest one of a channel."""


@dataclass(frozen=True)
class _Layer:
    """A convolution: weights float64 (G, O, K), bias (G * O,), and where it reads its input."""

    node: onnx.NodeProto
    weights: Array
    bias: Array
    shape: tuple[int, ...]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, ...]

    def patches(self, maps: Array, random: np.random.Generator) -> Array:
        """Return the inputs of the K weights at some positions of a photo, float32 (G, K, P).

        maps: the convolution's input, (1, C, h, w).
        """
        top, left, bottom, right = self.pads
        padded = np.pad(maps[0], ((0, 0), (top, bottom), (left, right)))
        reach = [
            (side - 1) * step + 1 for side, step in zip(self.kernel, self.dilations, strict=True)
        ]
        rows, columns = (
            (side - far) // stride + 1
            for side, far, stride in zip(padded.shape[1:], reach, self.strides, strict=True)
        )
        places = np.arange(rows * columns)
        if len(places) > MOST_POSITIONS:
            places = np.sort(random.choice(places, MOST_POSITIONS, replace=False))
        y, x = (places // columns) * self.strides[0], (places % columns) * self.strides[1]
        taken = np.stack(
            [
                padded[:, y + dy * self.dilations[0], x + dx * self.dilations[1]]
                for dy in range(self.kernel[0])
                for dx in range(self.kernel[1])
            ],
            axis=1,
        )
        groups, _, width = self.weights.shape
        return taken.reshape(groups, width, len(places))


@dataclass
class _Moments:
    """Sums over photos of the mean products (G, K, K) and the means (G, K) of a layer's inputs."""

    products: Array
    means: Array
    photos: int = 1

    def add(self, other: _Moments) -> None:
        self.products += other.products
        self.means += other.means
        self.photos += other.photos

    def of_all(self) -> tuple[Array, Array]:
        """Return covariance (G, K, K) and mean (G, K)."""
        mean = self.means / self.photos
        return self.products / self.photos - mean[:, :, None] * mean[:, None, :], mean


def round_weights(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    photos: Sequence[T],
    load: Callable[[T], npt.NDArray[np.uint8]],
    largest: int,
    name: str,
    error: type[InputError],
) -> frozenset[str]:
    """Replace the weights of convolutions by multiples of one scale per output channel.

    A channel's largest weight becomes `largest` times its scale, so that a quantiser that divides
    by the largest weight finds these multiples. Biases take what is left on average.

    Args:
        model: A float graph with the input `images`; it is changed.
        nodes: Nodes of it; those that are not convolutions with constant weights, or have more
            than MOST_WEIGHTS weights per output channel, are left as they are.
        photos: What inputs are measured on.
        load: Returns a photo's pixels, uint8 (S, S, 3); called from several threads.
        largest: Largest absolute value of a quantised weight.
        name: What messages call the graph.
        error: The exception to raise when the graph cannot be run.

    Returns:
        The names of the nodes whose weights were replaced.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [layer for node in nodes if (layer := _layer(node, constants)) is not None]
    if not layers:
        return frozenset()
    for layer, moments in zip(
        layers, _moments(model, layers, photos, load, name, error), strict=True
    ):
        covariance, mean = moments.of_all()
        rounded = _rounded(layer.weights, covariance, largest)
        moved = np.einsum("gok,gk->go", layer.weights - rounded, mean)
        node = layer.node
        for place, kind, value in (
            (1, "weights", rounded.reshape(layer.shape)),
            (2, "bias", layer.bias + moved.ravel()),
        ):
            tensor = numpy_helper.from_array(value.astype(np.float32), f"{node.name}/{kind}")
            model.graph.initializer.append(tensor)
            del node.input[place:]
            node.input.append(tensor.name)
    return frozenset(layer.node.name for layer in layers)


def _layer(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> _Layer | None:
    """Return a node as a layer; None if its weights are not rounded here."""
    from onnx import helper, numpy_helper

    if node.op_type != "Conv" or any(name not in constants for name in node.input[1:]):
        return None
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    weights = numpy_helper.to_array(constants[node.input[1]])
    if found.get("auto_pad", b"NOTSET") != b"NOTSET" or weights.ndim != 4:
        return None
    groups = int(found.get("group", 1))
    by_group = weights.reshape(groups, len(weights) // groups, -1).astype(np.float64)
    if by_group.shape[2] > MOST_WEIGHTS:
        return None
    bias = (
        numpy_helper.to_array(constants[node.input[2]])
        if len(node.input) > 2
        else np.zeros(len(weights))
    )
    return _Layer(
        node,
        by_group,
        bias,
        weights.shape,
        weights.shape[2:],
        tuple(found.get("strides", (1, 1))),
        tuple(found.get("dilations", (1, 1))),
        tuple(found.get("pads", (0, 0, 0, 0))),
    )


def _moments(
    model: onnx.ModelProto,
    layers: Sequence[_Layer],
    photos: Sequence[T],
    load: Callable[[T], npt.NDArray[np.uint8]],
    name: str,
    error: type[InputError],
) -> list[_Moments]:
    """Run the float graph on the photos and return the moments of each layer's inputs."""
    import onnx
    from onnx import helper

    inputs = sorted({layer.node.input[0] for layer in layers})
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in inputs)
    device = replace(CPU, batch=1)
    runner = Runner(probe, name, error, device=device)

    def measured(images: list[npt.NDArray[np.uint8]]) -> list[list[_Moments]]:
        maps = dict(zip(inputs, runner.run_batch(np.stack(images), inputs), strict=True))
        random = np.random.default_rng(0)
        return [[_measured(layer.patches(maps[layer.node.input[0]], random)) for layer in layers]]

    total: list[_Moments] = []
    for _, found in map_batches(photos, lambda photo: (None, load(photo)), measured, device=device):
        assert found is not None
        if not total:
            total = found
        else:
            for known, new in zip(total, found, strict=True):
                known.add(new)
    return total


def _measured(patches: Array) -> _Moments:
    count = patches.shape[2]
    products = np.matmul(patches, patches.transpose(0, 2, 1)).astype(np.float64) / count
    return _Moments(products, patches.mean(axis=2, dtype=np.float64))


def _rounded(weights: Array, covariance: Array, largest: int) -> Array:
    """Return weights (G, O, K) rounded to multiples of a scale per output channel.

    covariance: of the inputs, (G, K, K).
    """
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    scale = _scales(weights, variance, largest)
    top = np.abs(weights).argmax(axis=2)
    # Weights of inputs that vary most come first, while there are others to compensate for them.
    order = np.argsort(-variance, axis=1, kind="stable")
    sorted_weights = np.take_along_axis(weights, order[:, None, :], axis=2)
    sorted_covariance = np.take_along_axis(
        np.take_along_axis(covariance, order[:, :, None], axis=1), order[:, None, :], axis=2
    )
    back = np.argsort(order, axis=1)
    integers = _compensated(
        sorted_weights,
        _factor(sorted_covariance),
        scale,
        np.take_along_axis(back, top, axis=1),
        largest,
    )
    return np.take_along_axis(integers, back[:, None, :], axis=2) * scale[:, :, None]


def _scales(weights: Array, variance: Array, largest: int) -> Array:
    """Return the scale (G, O) with the least error of the outputs, errors taken as independent."""
    most = np.maximum(np.abs(weights).max(axis=2), 1e-30)
    chosen, least = most / largest, np.full(most.shape, np.inf)
    for share in SCALES:
        scale = most * share / largest
        error = np.clip(np.rint(weights / scale[:, :, None]), -largest, largest)
        error = ((error * scale[:, :, None] - weights) ** 2 * variance[:, None, :]).sum(axis=2)
        chosen = np.where(error < least, scale, chosen)
        least = np.minimum(error, least)
    return chosen


def _factor(covariance: Array) -> Array:
    """Return the upper triangular U (G, K, K) with U^T U = the inverse of the damped covariance."""
    width = covariance.shape[1]
    variance = np.diagonal(covariance, axis1=1, axis2=2).mean(axis=1)
    damped = covariance + np.maximum(DAMPING * variance, 1e-12)[:, None, None] * np.eye(width)
    return np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)


def _compensated(weights: Array, factor: Array, scale: Array, top: Array, largest: int) -> Array:
    """Round weight after weight, adding to the later ones what compensates for the error.

    Args:
        weights: (G, O, K).
        factor: `_factor` of their inputs' covariance, (G, K, K).
        scale: (G, O).
        top: Place of each row's largest weight, (G, O); it becomes `largest` in any case.
        largest: Largest absolute value.

    Returns:
        Whole numbers (G, O, K).
    """
    left, width = weights.copy(), weights.shape[2]
    sign = np.sign(np.take_along_axis(weights, top[:, :, None], axis=2))[:, :, 0]
    integers = np.zeros_like(left)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.zeros((*left.shape[:2], end - start))
        for place in range(start, end):
            whole = np.clip(np.rint(left[:, :, place] / scale), -largest, largest)
            whole = np.where(top == place, sign * largest, whole)
            integers[:, :, place] = whole
            error = (left[:, :, place] - whole * scale) / factor[:, place, place, None]
            errors[:, :, place - start] = error
            left[:, :, place + 1 : end] -= (
                error[:, :, None] * factor[:, None, place, place + 1 : end]
            )
        left[:, :, end:] -= np.matmul(errors, factor[:, start:end, end:])
    return integers
