"""Keras' activation functions as ONNX nodes, after their definitions in keras.activations.

x is the name of a tensor, and so is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.writer import Value, Writer
from tailorbird.errors import BackboneError


def relu(
    w: Writer,
    x: str,
    *,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> str:
    """Write 0 or slope * (x - threshold) below the threshold, x above it, max_value at most."""
    slope, threshold = float(negative_slope or 0.0), float(threshold or 0.0)
    if threshold:
        above = w.add("Cast", [w.add("Greater", [x, w.constant(threshold)])], to=1)
        kept = w.add("Mul", [x, above])
        if slope:
            below = w.add("Mul", [w.add("Sub", [x, w.constant(threshold)]), w.constant(slope)])
            kept = w.add("Where", [w.add("Greater", [x, w.constant(threshold)]), x, below])
        return kept if max_value is None else w.add("Min", [kept, w.constant(float(max_value))])
    if slope:
        leaky = w.add("LeakyRelu", [x], alpha=slope)
        return leaky if max_value is None else w.add("Min", [leaky, w.constant(float(max_value))])
    if max_value is not None:
        return w.add("Clip", [x, w.constant(0.0), w.constant(float(max_value))])
    return w.add("Relu", [x])


def gelu(w: Writer, x: str, *, approximate: bool = False) -> str:
    """Write x * Phi(x), or its approximation with tanh (Hendrycks and Gimpel 2016)."""
    if approximate:
        cube = w.add("Mul", [w.add("Mul", [x, x]), x])
        inner = w.add("Add", [x, w.add("Mul", [cube, w.constant(0.044715)])])
        tanh = w.add("Tanh", [w.add("Mul", [inner, w.constant(math.sqrt(2 / math.pi))])])
        return w.add(
            "Mul", [w.add("Mul", [x, w.add("Add", [tanh, w.constant(1.0)])]), w.constant(0.5)]
        )
    # In this order ONNX Runtime fuses it into one operator.
    erf = w.add("Erf", [w.add("Div", [x, w.constant(math.sqrt(2))])])
    return w.add("Mul", [w.add("Mul", [x, w.add("Add", [erf, w.constant(1.0)])]), w.constant(0.5)])


def hard_sigmoid(w: Writer, x: str) -> str:
    """Write relu6(x + 3) / 6."""
    return w.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def silu(w: Writer, x: str) -> str:
    """Write x * sigmoid(x)."""
    return w.add("Mul", [x, w.add("Sigmoid", [x])])


def log_sigmoid(w: Writer, x: str) -> str:
    """Write -softplus(-x)."""
    return w.add("Neg", [w.add("Softplus", [w.add("Neg", [x])])])


def celu(w: Writer, x: str, *, alpha: float = 1.0) -> str:
    """Write max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return w.add("Celu", [x], alpha=float(alpha))


def elu(w: Writer, x: str, *, alpha: float = 1.0) -> str:
    """Write x above zero, alpha * (exp(x) - 1) below."""
    return w.add("Elu", [x], alpha=float(alpha))


def leaky_relu(w: Writer, x: str, *, negative_slope: float = 0.2) -> str:
    """Write x above zero, negative_slope * x below."""
    return w.add("LeakyRelu", [x], alpha=float(negative_slope))


def mish(w: Writer, x: str) -> str:
    """Write x * tanh(softplus(x))."""
    return w.add("Mul", [x, w.add("Tanh", [w.add("Softplus", [x])])])


SIMPLE: dict[str, Callable[..., str]] = {
    "linear": lambda w, x: x,
    "relu": relu,
    "relu6": lambda w, x: relu(w, x, max_value=6.0),
    "sigmoid": lambda w, x: w.add("Sigmoid", [x]),
    "tanh": lambda w, x: w.add("Tanh", [x]),
    "softplus": lambda w, x: w.add("Softplus", [x]),
    "softsign": lambda w, x: w.add("Softsign", [x]),
    "exponential": lambda w, x: w.add("Exp", [x]),
    "selu": lambda w, x: w.add("Selu", [x], alpha=1.6732632423543772, gamma=1.0507009873554805),
    "hard_tanh": lambda w, x: w.add("Clip", [x, w.constant(-1.0), w.constant(1.0)]),
    "tanh_shrink": lambda w, x: w.add("Sub", [x, w.add("Tanh", [x])]),
    "hard_shrink": lambda w, x, threshold=0.5: w.add(
        "Shrink", [x], lambd=float(threshold), bias=0.0
    ),
    "soft_shrink": lambda w, x, threshold=0.5: w.add(
        "Shrink", [x], lambd=float(threshold), bias=float(threshold)
    ),
    "elu": elu,
    "leaky_relu": leaky_relu,
    "celu": celu,
    "gelu": gelu,
    "silu": silu,
    "mish": mish,
    "log_sigmoid": log_sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": lambda w, x: w.add("HardSwish", [x]),
}

"""Elementwise functions, by their name in keras.activations."""

OF_AXES = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
"""Functions along an axis, by their name in keras.activations, with ONNX' operator."""


def along(w: Writer, operator: str, x: Value, axis: Any) -> str:
    """Write Softmax or LogSoftmax along one of Keras' axes. Raises BackboneError for several."""
    if isinstance(axis, (list, tuple)):
        if len(axis) != 1:
            raise BackboneError(
                f"{w.path} takes a softmax over the axes {tuple(axis)}; only one axis is supported"
            )
        axis = axis[0]
    return w.add(operator, [x.name], axis=x.axis(int(axis)))


def function_of_keras(w: Writer, function: Any, x: Value) -> Value:
    """Write a function of keras.activations. Raises BackboneError, which names it, for others."""
    keras = backend.load()
    name = getattr(function, "__name__", type(function).__name__)
    if getattr(keras.activations, name, None) is function:
        if name in SIMPLE:
            return Value(SIMPLE[name](w, x.name), x.shape, x.moved)
        if name in OF_AXES:
            return Value(along(w, OF_AXES[name], x, -1), x.shape, x.moved)
    known = ", ".join(sorted([*SIMPLE, *OF_AXES]))
    raise BackboneError(
        f"{w.path} uses the activation {name!r}, which cannot be written as ONNX; supported: "
        f"{known}"
    )
