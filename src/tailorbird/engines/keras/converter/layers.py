"""Keras layers as ONNX nodes, as they are in inference.

Each translation takes the writer, the layer, its inputs and the shape of its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter import activation_functions as activations
from tailorbird.engines.keras.converter.pooling import (
    average_pool,
    global_pool,
    images,
    max_pool,
    same_pads,
)
from tailorbird.engines.keras.converter.writer import Made, Value, Writer, floats
from tailorbird.errors import BackboneError

Shape = tuple[int | None, ...]


def layer(w: Writer, operation: Any, inputs: Sequence[Value], shape: Shape) -> Made:
    """Write one layer. Raises BackboneError, which names it, if it or a setting is unsupported."""
    kind = type(operation).__name__
    is_keras = type(operation).__module__.startswith("keras.")
    if kind == "Lambda":
        raise BackboneError(
            f"{w.path} is a Lambda layer: it holds Python code, which is never run from a file and "
            "cannot be written as ONNX; replace it by Keras' own layers (Rescaling, "
            "Normalization, Activation, ...) and save the model again"
        )
    translation = LAYERS.get(kind) if is_keras else None
    if translation is None and is_keras and kind in SAME:
        translation = _same
    if translation is None:
        known = ", ".join(sorted({*LAYERS, *SAME}))
        where = "" if is_keras else f", a class of {type(operation).__module__}"
        raise BackboneError(
            f"{w.path} is a layer of kind {kind}{where}, which cannot be written as ONNX; "
            f"supported: {known}"
        )
    return translation(w, operation, list(inputs), shape)


def refuse(w: Writer, what: str, supported: str) -> BackboneError:
    """Return the error about a setting that is not supported."""
    return BackboneError(
        f"{w.path} {what}, which cannot be written as ONNX; supported: {supported}"
    )


def activation(w: Writer, function: Any, x: Value) -> Value:
    """Write the `activation` of a layer: a function of keras.activations, or a layer."""
    if function is None:
        return x
    if isinstance(function, backend.load().layers.Layer):
        name, _ = layer(w, function, [x], x.shape)
        return Value(name, x.shape, x.moved)
    return activations.function_of_keras(w, function, x)


def _same(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    """Write a layer that does nothing in inference."""
    if xs[0].shape != shape:
        raise refuse(
            w,
            f"changes the shape from {xs[0].shape} to {shape} in inference",
            "random layers that keep the size",
        )
    return xs[0].name, xs[0].moved


# --- convolutions ---


def _convolve(
    w: Writer,
    layer: Any,
    x: Value,
    weight: str,
    *,
    group: int,
    kernel: Sequence[int],
    bias: Any = None,
    point: bool = False,
) -> str:
    strides = [1, 1] if point else list(layer.strides)
    dilation = [1, 1] if point else list(layer.dilation_rate)
    sides = x.sides[1:]
    pads = (
        same_pads(sides, kernel, strides, dilation)
        if layer.padding == "same" and not point
        else [0, 0, 0, 0]
    )
    inputs = [x.name, weight] + ([w.weight(bias)] if bias is not None else [])
    return w.add(
        "Conv",
        inputs,
        kernel_shape=list(kernel),
        strides=strides,
        pads=pads,
        dilations=dilation,
        group=group,
    )


def _conv(layout: str) -> Callable[..., Made]:
    """Return the translation of Conv2D, or of DepthwiseConv2D for the layout `depthwise`."""

    def conv(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
        x = images(w, layer, xs[0])
        kernel = w.weight(layer.kernel, layout)
        group = x.sides[0] if layout == "depthwise" else layer.groups
        bias = layer.bias if layer.use_bias else None
        name = _convolve(w, layer, x, kernel, group=group, kernel=layer.kernel_size, bias=bias)
        return activation(w, layer.activation, Value(name, shape, x.moved)).name, x.moved

    return conv


def _separable(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    spread = w.weight(layer.depthwise_kernel, "depthwise")
    name = _convolve(w, layer, x, spread, group=x.sides[0], kernel=layer.kernel_size)
    bias = layer.bias if layer.use_bias else None
    mixed = w.weight(layer.pointwise_kernel, "convolution")
    name = _convolve(
        w, layer, Value(name, shape, x.moved), mixed, group=1, kernel=[1, 1], bias=bias, point=True
    )
    return activation(w, layer.activation, Value(name, shape, x.moved)).name, x.moved


def _dense(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x, bias = xs[0], [w.weight(layer.bias)] if layer.use_bias else []
    if x.rank == 2:
        name = w.add("Gemm", [x.name, w.weight(layer.kernel), *bias])
    elif x.moved:  # the same at every position: a 1x1 convolution
        name = w.add(
            "Conv", [x.name, w.weight(layer.kernel, "pointwise"), *bias], kernel_shape=[1, 1]
        )
    else:
        name = w.add("MatMul", [x.name, w.weight(layer.kernel)])
        name = w.add("Add", [name, *bias]) if bias else name
    return activation(w, layer.activation, Value(name, shape, x.moved)).name, x.moved


# --- normalisation ---


def _batch_norm(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    last = axis % xs[0].rank == xs[0].rank - 1
    x = w.turn(xs[0], moved=last) if xs[0].rank == 4 else xs[0]
    width = x.shape[axis % x.rank] or 0
    # Tokens (N, T, C): every token is a row.
    rows = last and x.rank > 2 and not x.moved
    if not rows and x.axis(axis) != 1:
        raise refuse(w, f"normalises along axis {axis} of {x.rank}", "the axis of the channels")
    name = w.add("Reshape", [x.name, w.constant([-1, width], np.int64)]) if rows else x.name
    weights = [
        w.weight(layer.gamma) if layer.scale else w.constant(np.ones(width)),
        w.weight(layer.beta) if layer.center else w.constant(np.zeros(width)),
        w.weight(layer.moving_mean),
        w.weight(layer.moving_variance),
    ]
    name = w.add("BatchNormalization", [name, *weights], epsilon=float(layer.epsilon))
    if rows:
        name = w.add("Reshape", [name, w.constant([-1, *x.sides], np.int64)])
    return name, x.moved


def _layer_norm(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = w.turn(xs[0], moved=False)
    axes = sorted(
        axis % x.rank
        for axis in (layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis])
    )
    if axes != list(range(axes[0], x.rank)) or axes[0] == 0:
        raise refuse(w, f"normalises along the axes {axes} of {x.rank}", "the last axes")
    if getattr(layer, "rms_scaling", False):
        raise refuse(w, "has rms_scaling", "layer normalisation without it")
    sides = x.sides[axes[0] - 1 :]
    scale = w.weight(layer.gamma) if layer.scale else w.constant(np.ones(sides))
    centre = [w.weight(layer.beta)] if layer.center else []
    return w.add(
        "LayerNormalization", [x.name, scale, *centre], axis=axes[0], epsilon=float(layer.epsilon)
    ), False


def _normalization(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = xs[0]
    if layer.invert:
        raise refuse(w, "has invert=True", "Normalization without it")
    if layer.input_mean is None and tuple(layer._keep_axis) in ((x.rank - 1,), ()):
        # (x - mean) / max(sqrt(variance), epsilon), with the weights of an adapted layer.
        sides = [x.shape[-1] or 0] if layer._keep_axis else []
        mean = w.across(w.weight(layer.adapt_mean), sides, x)
        spread = w.add("Max", [w.add("Sqrt", [w.weight(layer.adapt_variance)]), w.constant(1e-7)])
        return w.add("Div", [w.add("Sub", [x.name, mean]), w.across(spread, sides, x)]), x.moved
    factor = 1.0 / np.maximum(np.sqrt(floats(layer.variance)), 1e-7)
    return affine(w, x, factor, -floats(layer.mean) * factor)


def affine(w: Writer, x: Value, scale: Any, offset: Any) -> Made:
    """Write x * scale + offset with numbers that may differ along Keras' axes."""
    name = x.name
    for operator, values, nothing in (("Mul", floats(scale), 1.0), ("Add", floats(offset), 0.0)):
        if not np.all(values == nothing):
            name = w.add(operator, [name, placed(w, values, x)])
    return name, x.moved


def placed(w: Writer, values: Any, x: Value) -> str:
    """Write numbers that are broadcast with x on Keras' axes as a constant."""
    array = floats(values)
    if x.moved and array.ndim:
        array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(0, 3, 1, 2)
    return w.constant(array)


def _rescaling(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return affine(w, xs[0], layer.scale, layer.offset)


def _layer_scale(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    gamma = w.across(w.weight(layer.gamma), [shape[-1] or 0], xs[0])
    return w.add("Mul", [xs[0].name, gamma]), xs[0].moved


def _custom_scale(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    first, second = w.alike(xs)
    return w.add(
        "Add", [first.name, w.add("Mul", [second.name, w.constant(float(layer.scale))])]
    ), first.moved


# --- activations ---


def _activation(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return activation(w, layer.activation, xs[0]).name, xs[0].moved


def _relu(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    settings = {name: getattr(layer, name) for name in ("negative_slope", "max_value", "threshold")}
    return activations.relu(w, xs[0].name, **settings), xs[0].moved


def _prelu(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    alpha = w.across(w.weight(layer.alpha), list(layer.alpha.shape), xs[0])
    return w.add("PRelu", [xs[0].name, alpha]), xs[0].moved


def _softmax(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return activations.along(w, "Softmax", xs[0], layer.axis), xs[0].moved


# --- shapes ---


def _zero_padding(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    (top, bottom), (left, right) = layer.padding
    if not any((top, bottom, left, right)):
        return x.name, x.moved
    return w.add(
        "Pad", [x.name, w.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)]
    ), x.moved


def _cropping(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    (top, bottom), (left, right) = layer.cropping
    return _window(w, x, top, left, x.sides[1] - bottom, x.sides[2] - right), x.moved


def _window(w: Writer, x: Value, top: int, left: int, bottom: int, right: int) -> str:
    limits = [w.constant(values, np.int64) for values in ([top, left], [bottom, right], [2, 3])]
    return w.add("Slice", [x.name, *limits])


def _center_crop(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    down, across = x.sides[1] - layer.height, x.sides[2] - layer.width
    if down < 0 or across < 0:
        raise refuse(
            w,
            f"enlarges {x.sides[1]} x {x.sides[2]} to {layer.height} x {layer.width}",
            "CenterCrop that crops",
        )
    top, left = down // 2, across // 2
    return _window(w, x, top, left, top + layer.height, left + layer.width), x.moved


def _resize(w: Writer, x: Value, height: int, width: int, method: str) -> str:
    if (height, width) == x.sides[1:]:
        return x.name
    scales = w.constant([1.0, 1.0, _scale(x.sides[1], height), _scale(x.sides[2], width)])
    how = {"bilinear": ("linear", "floor"), "nearest": ("nearest", "round_prefer_ceil")}
    if method not in how:
        raise refuse(w, f"resizes with interpolation={method!r}", "bilinear and nearest")
    mode, rounding = how[method]
    return w.add(
        "Resize",
        [x.name, "", scales],
        mode=mode,
        nearest_mode=rounding,
        coordinate_transformation_mode="half_pixel",
    )


def _scale(side: int, wanted: int) -> float:
    """Return wanted / side in float32, rounded so that floor(side * scale) is `wanted`."""
    scale = np.float32(wanted / side)
    # Compared in double precision, so that it holds in single precision too.
    while math.floor(side * float(scale)) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def _up_sampling(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    height, width = layer.size
    return _resize(w, x, x.sides[1] * height, x.sides[2] * width, layer.interpolation), x.moved


def _resizing(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = images(w, layer, xs[0])
    height, width = layer.height, layer.width
    exact = not (
        layer.antialias
        or layer.crop_to_aspect_ratio
        or getattr(layer, "pad_to_aspect_ratio", False)
    )
    if (height, width) != x.sides[1:] and not exact:
        raise refuse(
            w, "has antialias, crop_to_aspect_ratio or pad_to_aspect_ratio", "Resizing without them"
        )
    return _resize(w, x, height, width, layer.interpolation), x.moved


def _flatten(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    x = xs[0]
    # Keras flattens in the order of channels last.
    if layer.data_format == "channels_first" and x.rank == 4:
        turned = w.add("Transpose", [w.turn(x, moved=False).name], perm=[0, 2, 3, 1])
        return w.add("Flatten", [turned], axis=1), False
    return w.reshape(x, shape)


def _reshape(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return w.reshape(xs[0], shape)


def _permute(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return w.add("Transpose", [w.turn(xs[0], moved=False).name], perm=[0, *layer.dims]), False


# --- merging ---


def _merge(operator: str) -> Callable[..., Made]:
    def merge(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
        if len({x.rank for x in xs}) > 1:
            raise refuse(
                w,
                f"combines shapes of different rank: {[x.shape for x in xs]}",
                "shapes of equal rank",
            )
        values = w.alike(xs)
        name = values[0].name
        for value in values[1:]:
            name = w.add(operator, [name, value.name])
        if type(layer).__name__ == "Average":
            name = w.add("Mul", [name, w.constant(1.0 / len(values))])
        return name, values[0].moved

    return merge


def _concatenate(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    values = w.alike(xs)
    return w.add(
        "Concat", [value.name for value in values], axis=values[0].axis(layer.axis)
    ), values[0].moved


def _leaky_relu(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    name = activations.leaky_relu(w, xs[0].name, negative_slope=layer.negative_slope)
    return name, xs[0].moved


def _elu(w: Writer, layer: Any, xs: list[Value], shape: Shape) -> Made:
    return activations.elu(w, xs[0].name, alpha=layer.alpha), xs[0].moved


LAYERS: dict[str, Callable[..., Made]] = {
    "Conv2D": _conv("convolution"), "DepthwiseConv2D": _conv("depthwise"),
    "SeparableConv2D": _separable, "Dense": _dense, "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm, "Normalization": _normalization, "Rescaling": _rescaling,
    "LayerScale": _layer_scale, "CustomScaleLayer": _custom_scale, "Activation": _activation,
    "ReLU": _relu, "PReLU": _prelu, "Softmax": _softmax, "LeakyReLU": _leaky_relu, "ELU": _elu,
    "MaxPooling2D": max_pool, "AveragePooling2D": average_pool,
    "GlobalAveragePooling2D": global_pool("GlobalAveragePool"),
    "GlobalMaxPooling2D": global_pool("GlobalMaxPool"), "ZeroPadding2D": _zero_padding,
    "Cropping2D": _cropping, "CenterCrop": _center_crop, "UpSampling2D": _up_sampling,
    "Resizing": _resizing, "Flatten": _flatten, "Reshape": _reshape, "Permute": _permute,
    "Add": _merge("Add"), "Subtract": _merge("Sub"), "Multiply": _merge("Mul"),
    "Average": _merge("Add"), "Maximum": _merge("Max"), "Minimum": _merge("Min"),
    "Concatenate": _concatenate,
}  # fmt: skip
"""Supported layers, by their class in Keras."""

SAME = frozenset({
    "Identity", "InputLayer", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise",
    "GaussianDropout", "AlphaDropout", "ActivityRegularization", "StochasticDepth", "RandomFlip",
    "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
    "RandomShear", "RandomCrop", "RandomHeight", "RandomWidth", "RandomSharpness", "RandomHue",
    "RandomSaturation", "RandomColorJitter", "RandomColorDegeneration", "RandomGrayscale",
    "RandomInvert", "RandomPosterization", "RandomPerspective", "RandomElasticTransform",
    "RandomErasing", "RandomGaussianBlur", "RandAugment", "AugMix", "MixUp", "CutMix",
})  # fmt: skip
"""Layers that change nothing in inference."""
