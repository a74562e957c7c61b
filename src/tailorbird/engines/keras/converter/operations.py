"""Operations of keras.ops in a functional graph (`x + 3`, `x[..., 0]`, `ops.mean(x)`) as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tailorbird.engines.keras.converter import activation_functions as activations
from tailorbird.engines.keras.converter.layers import placed, refuse
from tailorbird.engines.keras.converter.writer import Made, Value, Writer, floats
from tailorbird.errors import BackboneError

Shape = tuple[int | None, ...]

_BINARY = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "TrueDivide": "Div",
    "Maximum": "Max", "Minimum": "Min", "Power": "Pow",
}  # fmt: skip
_UNARY = {
    "Negative": "Neg", "Absolute": "Abs", "Abs": "Abs", "Sqrt": "Sqrt", "Exp": "Exp", "Log":
    "Log", "Tanh": "Tanh", "Reciprocal": "Reciprocal", "Floor": "Floor", "Ceil": "Ceil", "Erf":
    "Erf",
}  # fmt: skip
_REDUCTIONS = {"Mean": "ReduceMean", "Max": "ReduceMax", "Min": "ReduceMin", "Sum": "ReduceSum"}
_ACTIVATIONS = {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Silu": "silu", "Softplus":
    "softplus", "Softsign": "softsign", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh", "Elu": "elu", "Selu": "selu", "Celu": "celu", "Gelu": "gelu",
    "LeakyRelu": "leaky_relu", "LogSigmoid": "log_sigmoid", "TanhShrink": "tanh_shrink", "Mish":
    "mish", "HardShrink": "hard_shrink", "SoftShrink": "soft_shrink",
}  # fmt: skip
_SETTINGS = ("alpha", "negative_slope", "approximate", "threshold")


def operation(
    w: Writer, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Shape
) -> Made:
    """Write one operation. Raises BackboneError, which names it, if it is not supported.

    args, kwargs: as it was called, with Values for tensors.
    """
    kind = type(op).__name__
    if not type(op).__module__.startswith("keras."):
        kind = f"{type(op).__module__}.{kind}"
    if kind in _BINARY:
        return _binary(w, _BINARY[kind], _all(args, kwargs), shape)
    x = next((argument for argument in _all(args, kwargs) if isinstance(argument, Value)), None)
    if x is not None and kind in _UNARY:
        return w.add(_UNARY[kind], [x.name]), x.moved
    if x is not None and kind in _ACTIVATIONS:
        settings = {name: getattr(op, name) for name in _SETTINGS if hasattr(op, name)}
        return activations.SIMPLE[_ACTIVATIONS[kind]](w, x.name, **settings), x.moved
    if x is not None and kind in ("Softmax", "LogSoftmax"):
        return activations.along(w, kind, x, op.axis), x.moved
    if x is not None and kind in _REDUCTIONS:
        return _reduce(w, _REDUCTIONS[kind], op, x, shape)
    if kind in OPERATIONS:
        return OPERATIONS[kind](w, op, list(args), dict(kwargs), shape)
    known = ", ".join(
        sorted(
            [*_BINARY, *_UNARY, *_ACTIVATIONS, *_REDUCTIONS, "Softmax", "LogSoftmax", *OPERATIONS]
        )
    )
    raise BackboneError(
        f"{w.path} is an operation of kind {kind}, which cannot be written as ONNX; supported: "
        f"{known}"
    )


def _all(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    return [*args, *kwargs.values()]


def _binary(w: Writer, operator: str, operands: list[Any], shape: Shape) -> Made:
    tensors = [operand for operand in operands if isinstance(operand, Value)]
    moved = all(value.rank == 4 for value in tensors) and any(value.moved for value in tensors)
    if (
        any(
            not isinstance(operand, Value) and floats(operand).ndim > len(shape)
            for operand in operands
        )
        or len(operands) != 2
    ):
        raise refuse(
            w,
            "combines a tensor with numbers of a higher rank",
            "numbers that are broadcast to the tensor",
        )
    like = Value("", shape, moved and len(shape) == 4)
    names = []
    for operand in operands:
        names.append(
            w.turn(operand, moved=moved).name
            if isinstance(operand, Value)
            else placed(w, operand, like)
        )
    return w.add(operator, names), like.moved


def _reduce(w: Writer, operator: str, op: Any, x: Value, shape: Shape) -> Made:
    axes = op.axis if op.axis is not None else range(x.rank)
    axes = sorted(
        axis % x.rank for axis in (axes if isinstance(axes, (list, tuple, range)) else [axes])
    )
    if 0 in axes:
        raise refuse(
            w, f"reduces along the axes {axes}, which include the batch", "axes of one image"
        )
    if x.moved and not op.keepdims and axes != [1, 2]:
        x = w.turn(x, moved=False)
    where = sorted(x.axis(axis) for axis in axes)
    keep = int(bool(op.keepdims))
    if operator == "ReduceSum":
        name = w.add(operator, [x.name, w.constant(where, np.int64)], keepdims=keep)
    else:
        name = w.add(operator, [x.name], axes=where, keepdims=keep)
    return name, x.moved and bool(keep)


def _first(w: Writer, args: list[Any], kwargs: dict[str, Any]) -> Value:
    """Return the tensor that an operation works on."""
    found = [argument for argument in _all(args, kwargs) if isinstance(argument, Value)]
    if len(found) != 1:
        raise refuse(w, f"works on {len(found)} tensors", "one tensor")
    return found[0]


def _reshape(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    return w.reshape(_first(w, args, kwargs), shape)


def _transpose(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x = w.turn(_first(w, args, kwargs), moved=False)
    axes = [axis % x.rank for axis in op.axes] if op.axes is not None else list(range(x.rank))[::-1]
    if axes[0] != 0:
        raise refuse(w, f"transposes the axes to {axes}", "orders that keep the batch axis first")
    return w.add("Transpose", [x.name], perm=axes), False


def _concatenate(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    values = w.alike(_listed(w, args, kwargs))
    return w.add("Concat", [value.name for value in values], axis=values[0].axis(op.axis)), values[
        0
    ].moved


def _stack(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    values = [w.turn(value, moved=False) for value in _listed(w, args, kwargs)]
    axis = op.axis % len(shape)
    apart = [w.add("Unsqueeze", [value.name, w.constant([axis], np.int64)]) for value in values]
    return w.add("Concat", apart, axis=axis), False


def _listed(w: Writer, args: list[Any], kwargs: dict[str, Any]) -> list[Value]:
    given = _all(args, kwargs)[0]
    if not isinstance(given, (list, tuple)) or not all(isinstance(value, Value) for value in given):
        raise refuse(w, "joins tensors with numbers", "tensors only")
    return list(given)


def _get_item(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x, key = _all(args, kwargs)[:2]
    # Keras' files have no tuples: (..., 2) is read as [..., 2].
    key = (
        list(key)
        if isinstance(key, tuple) or (isinstance(key, list) and Ellipsis in key)
        else [key]
    )
    if Ellipsis in key:
        place = key.index(Ellipsis)
        key[place : place + 1] = [slice(None)] * (x.rank - len(key) + 1)
    if not all(isinstance(part, (int, slice)) for part in key) or key[0] != slice(None):
        raise refuse(w, f"selects {key}", "slices and single positions of each image")
    name, drop = w.turn(x, moved=False).name, []
    for axis, part in enumerate(key):
        if isinstance(part, int):
            end = part + 1 if part != -1 else np.iinfo(np.int64).max
            starts, ends, steps = [part], [end], [1]
            drop.append(axis)
        elif part == slice(None):
            continue
        else:
            start, stop, step = part.indices(x.shape[axis] or 0)
            starts, ends, steps = [start], [stop if stop >= 0 else np.iinfo(np.int64).min], [step]
        limits = [w.constant(values, np.int64) for values in (starts, ends, [axis], steps)]
        name = w.add("Slice", [name, *limits])
    return (w.add("Squeeze", [name, w.constant(drop, np.int64)]) if drop else name), False


def _cast(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x = _first(w, args[:1], kwargs)
    kind = str(getattr(op, "dtype", None) or "float32")
    if "float" not in kind:
        raise refuse(w, f"casts to {kind}", "float types")
    return x.name, x.moved  # everything is float32 here


def _clip(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x = _first(w, args, kwargs)
    limits = [
        w.constant(float(limit)) if limit is not None else "" for limit in (op.x_min, op.x_max)
    ]
    return w.add("Clip", [x.name, *limits]), x.moved


def _square(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x = _first(w, args, kwargs)
    return w.add("Mul", [x.name, x.name]), x.moved


def _rsqrt(w: Writer, op: Any, args: list[Any], kwargs: dict[str, Any], shape: Shape) -> Made:
    x = _first(w, args, kwargs)
    return w.add("Reciprocal", [w.add("Sqrt", [x.name])]), x.moved


OPERATIONS: dict[str, Callable[..., Made]] = {
    "Reshape": _reshape, "ExpandDims": _reshape, "Squeeze": _reshape, "Transpose": _transpose,
    "Concatenate": _concatenate, "Stack": _stack, "GetItem": _get_item, "Cast": _cast,
    "Clip": _clip, "Square": _square, "Rsqrt": _rsqrt,
}  # fmt: skip
"""Operations with their own translation, by their class in keras.src.ops."""
