from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from support.jax_backend import jax_environment
from support.keras_networks import assert_agrees, converted, images, keras, numbers, run, shake
from tailorbird.engines.graphs import cuts
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten, replay
from tailorbird.engines.keras.converter.weights import read_weights
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.errors import BackboneError, SettingsError

L = keras.layers
ops = keras.ops
SIZE = 11

Part = Callable[[Any], Any]


def net(part: Part, size: int = SIZE) -> Any:
    inputs = keras.Input((size, size, 3))
    return shake(keras.Model(inputs, part(inputs)))


def first(x: Any) -> Any:
    """Return four channels with values of both signs."""
    return L.Conv2D(4, 3, padding="same")(x)


LAYERS: dict[str, Part] = {
    "conv valid": L.Conv2D(5, 3),
    "conv same": L.Conv2D(5, 3, padding="same"),
    "conv same, even kernel": L.Conv2D(5, 4, padding="same"),
    "conv same, stride 2": L.Conv2D(5, 3, strides=2, padding="same"),
    "conv same, stride 3, kernel 2": L.Conv2D(5, 2, strides=3, padding="same"),
    "conv, two strides": L.Conv2D(5, (3, 2), strides=(2, 1)),
    "conv dilated": L.Conv2D(5, 3, dilation_rate=2, padding="same"),
    "conv without bias": L.Conv2D(5, 3, use_bias=False, activation="relu"),
    "conv in groups": lambda x: L.Conv2D(6, 3, groups=2)(first(x)),
    "depthwise": L.DepthwiseConv2D(3, padding="same", activation="relu6"),
    "depthwise, multiplier": L.DepthwiseConv2D(3, strides=2, depth_multiplier=3, use_bias=False),
    "depthwise dilated": L.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
    "separable": L.SeparableConv2D(6, 3, padding="same", activation="relu"),
    "separable, multiplier": L.SeparableConv2D(6, 3, strides=2, depth_multiplier=2, use_bias=False),
    "dense on positions": L.Dense(5, activation="relu"),
    "dense on positions, first layer flat": lambda x: L.Dense(5)(L.Reshape((SIZE * SIZE, 3))(x)),
    "dense on features": lambda x: L.Dense(4, use_bias=False)(L.GlobalMaxPooling2D()(x)),
    "dense on tokens": lambda x: L.LayerNormalization()(
        L.Dense(6)(L.Reshape((SIZE * SIZE, 4))(first(x)))
    ),
    "dense after normalised positions": lambda x: L.Dense(3)(L.LayerNormalization()(first(x))),
    "batch norm": lambda x: L.BatchNormalization()(first(x)),
    "batch norm, epsilon, no scale": lambda x: L.BatchNormalization(epsilon=0.1, scale=False)(
        first(x)
    ),
    "batch norm, no centre": lambda x: L.BatchNormalization(center=False)(first(x)),
    "batch norm of pixels": L.BatchNormalization(),
    "batch norm of features": lambda x: L.BatchNormalization()(L.GlobalAveragePooling2D()(x)),
    "batch norm of tokens": lambda x: L.BatchNormalization()(L.Reshape((SIZE * SIZE, 4))(first(x))),
    "layer norm": lambda x: L.LayerNormalization(epsilon=1e-3)(first(x)),
    "layer norm of two axes": lambda x: L.LayerNormalization(axis=[2, 3])(first(x)),
    "layer norm without weights": lambda x: L.LayerNormalization(scale=False, center=False)(
        first(x)
    ),
    "rescaling": L.Rescaling(2.0, offset=-1.0),
    "rescaling channels": L.Rescaling([1.0, 2.0, 3.0], offset=[0.5, 0.0, -0.5]),
    "normalization adapted": L.Normalization(),
    "normalization given": L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 0.5, 2.0]),
    "normalization of one number": L.Normalization(axis=None, mean=0.4, variance=0.3),
    "relu capped": lambda x: L.ReLU(0.3)(first(x)),
    "relu with slope and cap": lambda x: L.ReLU(0.3, negative_slope=0.2)(first(x)),
    "relu above a threshold": lambda x: L.ReLU(threshold=0.1)(first(x)),
    "relu above a threshold, with slope": lambda x: L.ReLU(negative_slope=0.1, threshold=0.1)(
        first(x)
    ),
    "leaky relu": lambda x: L.LeakyReLU(negative_slope=0.4)(first(x)),
    "prelu": lambda x: L.PReLU()(first(x)),
    "prelu of channels": lambda x: L.PReLU(shared_axes=[1, 2])(first(x)),
    "prelu of features": lambda x: L.PReLU()(L.Dense(6)(L.Flatten()(x))),
    "elu": lambda x: L.ELU(alpha=0.7)(first(x)),
    "softmax of channels": lambda x: L.Softmax()(first(x)),
    "softmax of rows": lambda x: L.Softmax(axis=1)(first(x)),
    "max pooling": L.MaxPooling2D(),
    "max pooling same": lambda x: L.MaxPooling2D(3, strides=2, padding="same")(first(x)),
    "max pooling behind zeros": lambda x: L.MaxPooling2D(2)(
        L.ZeroPadding2D(1)(L.Rescaling(-1.0, offset=-0.1)(x))
    ),
    "max pooling behind zeros, same": lambda x: L.MaxPooling2D(3, 2, "same")(
        L.ZeroPadding2D(((2, 1), (1, 0)))(first(x))
    ),
    "max pooling of zeros alone": lambda x: L.MaxPooling2D(2)(
        L.ZeroPadding2D(3)(L.Rescaling(-1.0, offset=-0.1)(x))
    ),
    "max pooling behind zeros and relu": lambda x: L.MaxPooling2D(3, 2)(
        L.ZeroPadding2D(1)(L.ReLU()(first(x)))
    ),
    "average pooling behind zeros": lambda x: L.AveragePooling2D(3, 2)(
        L.ZeroPadding2D(1)(first(x))
    ),
    "average pooling": L.AveragePooling2D((2, 3)),
    "average pooling same": lambda x: L.AveragePooling2D(3, strides=2, padding="same")(first(x)),
    "average pooling same, stride 1": lambda x: L.AveragePooling2D(3, strides=1, padding="same")(
        first(x)
    ),
    "global average": L.GlobalAveragePooling2D(),
    "global average, axes kept": lambda x: L.Conv2D(3, 1)(
        L.GlobalAveragePooling2D(keepdims=True)(x)
    ),
    "global max": L.GlobalMaxPooling2D(keepdims=True),
    "zero padding": L.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping": L.Cropping2D(((1, 2), (0, 3))),
    "centre crop": L.CenterCrop(6, 7),
    "up-sampling": L.UpSampling2D((2, 3)),
    "up-sampling bilinear": L.UpSampling2D(2, interpolation="bilinear"),
    "resizing bilinear": L.Resizing(7, 16),
    "resizing nearest": L.Resizing(5, 22, interpolation="nearest"),
    "resizing to the same": L.Resizing(SIZE, SIZE, antialias=True),
    "flatten": lambda x: L.Dense(3)(L.Flatten()(first(x))),
    "flatten of one position": lambda x: L.Flatten()(L.Conv2D(4, SIZE)(x)),
    "reshape": lambda x: L.Reshape((SIZE, 4 * SIZE))(first(x)),
    "reshape to images and back": lambda x: first(L.Reshape((SIZE, SIZE, 3))(L.Reshape((-1,))(x))),
    "squeeze and excite": lambda x: (
        first(x) * L.Reshape((1, 1, 4))(L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    ),
    "permute": lambda x: L.Permute((3, 1, 2))(first(x)),
    "add": lambda x: L.Add()([first(x), first(x), first(x)]),
    "add broadcast": lambda x: L.Add()(
        [first(x), L.GlobalAveragePooling2D(keepdims=True)(first(x))]
    ),
    "subtract": lambda x: L.Subtract()([first(x), first(x)]),
    "multiply": lambda x: L.Multiply()([first(x), first(x)]),
    "average": lambda x: L.Average()([first(x), first(x), first(x)]),
    "maximum": lambda x: L.Maximum()([first(x), first(x)]),
    "minimum": lambda x: L.Minimum()([first(x), first(x)]),
    "concatenate": lambda x: L.Concatenate()([first(x), L.Conv2D(2, 3, padding="same")(x)]),
    "concatenate rows": lambda x: L.Concatenate(axis=1)([first(x), first(x)]),
    "concatenate features": lambda x: L.Concatenate()(
        [L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(x)]
    ),
    "only in training": lambda x: L.GaussianNoise(0.1)(
        L.SpatialDropout2D(0.5)(L.RandomFlip()(L.Dropout(0.5)(first(x))))
    ),
    "augmentation": lambda x: L.RandomContrast(0.2)(
        L.RandomTranslation(0.1, 0.1)(L.RandomZoom(0.1)(L.RandomRotation(0.1)(x)))
    ),
    "identity": lambda x: L.Identity()(L.Activation("linear")(first(x))),
    "nested": lambda x: keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), L.Conv2D(4, 3), L.BatchNormalization()]
    )(x),
}

OPERATIONS: dict[str, Part] = {
    "numbers": lambda x: 2.0 - (first(x) + 3.0) * 0.5 / 4.0,
    "numbers on the left": lambda x: 1.0 / (ops.square(first(x)) + 1.0),
    "channels": lambda x: first(x) * np.array([1.0, 2.0, 3.0, 4.0], np.float32),
    "images of one row": lambda x: (
        first(x) + np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    ),
    "tensor and features": lambda x: (
        L.GlobalAveragePooling2D()(first(x)) + L.GlobalMaxPooling2D()(first(x))
    ),
    "negative and power": lambda x: (-first(x)) ** 2,
    "square root": lambda x: (
        ops.sqrt(ops.abs(first(x)) + 0.1) + ops.rsqrt(ops.square(first(x)) + 0.5)
    ),
    "exponential and logarithm": lambda x: ops.log(ops.exp(first(x)) + 1.0),
    "maximum": lambda x: ops.maximum(ops.minimum(first(x), 0.2), -0.1),
    "clip": lambda x: ops.clip(first(x), -0.1, 0.3),
    "mean of positions": lambda x: ops.mean(first(x), axis=(1, 2)),
    "mean of positions, kept": lambda x: first(x) - ops.mean(first(x), axis=[1, 2], keepdims=True),
    "maximum of channels": lambda x: ops.max(first(x), axis=-1),
    "sum of rows": lambda x: ops.sum(first(x), axis=1),
    "reshape": lambda x: ops.reshape(first(x), (-1, SIZE * SIZE, 4)),
    "transpose": lambda x: ops.transpose(first(x), (0, 2, 3, 1)),
    "squeeze": lambda x: ops.squeeze(L.GlobalMaxPooling2D(keepdims=True)(first(x)), axis=(1, 2)),
    "expand": lambda x: (
        first(x) * ops.expand_dims(ops.expand_dims(L.Dense(4)(L.GlobalAveragePooling2D()(x)), 1), 1)
    ),
    "concatenate": lambda x: ops.concatenate([first(x), first(x)], axis=-1),
    "parts": lambda x: first(x)[:, 2:8:2, -3:, 1:],
    "one channel": lambda x: first(x)[..., -1],
    "stack": lambda x: ops.stack([x[..., channel] for channel in (2, 1, 0)], axis=-1),
    "activations": lambda x: ops.relu(
        ops.silu(first(x)) + ops.gelu(first(x), approximate=True) + ops.sigmoid(first(x))
    ),
    "softmax": lambda x: ops.softmax(first(x), axis=-1),
    "cast": lambda x: ops.cast(first(x), "float32") * 2,
}


@pytest.mark.parametrize("part", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_as_keras_computes_it(part: Part) -> None:
    model = net(part)
    proto = assert_agrees(model, SIZE)
    weights = {v.path: numbers(v) for v in model.weights if "int" not in str(v.dtype)}
    shake(model, seed=9)
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape))
    read_weights(proto, model)
    for variable in model.weights:
        if variable.path in weights:
            np.testing.assert_array_equal(numbers(variable), weights[variable.path])


@pytest.mark.parametrize("part", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_an_operation_is_computed_as_in_keras(part: Part) -> None:
    assert_agrees(net(part), SIZE)


@pytest.mark.parametrize(
    "name",
    [
        "celu",
        "elu",
        "exponential",
        "gelu",
        "hard_shrink",
        "hard_sigmoid",
        "hard_silu",
        "hard_tanh",
        "leaky_relu",
        "linear",
        "log_sigmoid",
        "log_softmax",
        "mish",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "soft_shrink",
        "softmax",
        "softplus",
        "softsign",
        "swish",
        "tanh",
        "tanh_shrink",
    ],
)
def test_an_activation_is_computed_as_in_keras(name: str) -> None:
    assert_agrees(net(lambda x: L.Activation(name)(L.Rescaling(9.0)(first(x)))), SIZE)


@pytest.mark.parametrize("mode", PREPROCESS)
def test_preprocessing_is_included_and_equals_that_of_keras(mode: str) -> None:
    model = net(L.Identity())
    (found,) = run(converted(model, SIZE, mode), images(SIZE))
    pixels: Any = images(SIZE).astype(np.float32)
    if mode in ("tf", "caffe", "torch"):
        pixels = keras.applications.imagenet_utils.preprocess_input(
            pixels, data_format="channels_last", mode=mode
        )
    elif mode == "unit":
        pixels = pixels / 255
    elif mode == "bgr":
        pixels = pixels[..., ::-1]
    np.testing.assert_allclose(found, numbers(model(pixels)), atol=2e-4)


def test_preprocessing_inside_the_network_is_converted() -> None:
    preprocess = keras.applications.imagenet_utils.preprocess_input
    for mode in ("tf", "torch", "caffe"):
        inputs = keras.Input((SIZE, SIZE, 3))
        assert_agrees(keras.Model(inputs, first(preprocess(inputs, mode=mode))), SIZE, "none")


def test_channels_first_networks_are_converted() -> None:
    inputs = keras.Input((3, SIZE, SIZE))
    x = L.Conv2D(4, 3, strides=2, padding="same", data_format="channels_first")(inputs)
    x = L.PReLU()(L.BatchNormalization(axis=1)(x))
    x = L.MaxPooling2D(2, data_format="channels_first")(
        L.ZeroPadding2D(1, data_format="channels_first")(x)
    )
    model = shake(keras.Model(inputs, L.Dense(3)(L.Flatten(data_format="channels_first")(x))))
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow computes no channels-first convolutions on a CPU")
    (found,) = run(converted(model, SIZE), images(SIZE))
    expected = numbers(
        model(images(SIZE).transpose(0, 3, 1, 2).astype(np.float32) / 255, training=False)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tensors_keep_the_channels_second_throughout() -> None:
    model = net(
        lambda x: L.Dense(3)(
            L.GlobalAveragePooling2D()(first(L.ReLU()(L.BatchNormalization()(first(x)))))
        )
    )
    kinds = [node.op_type for node in converted(model, SIZE).graph.node]
    assert kinds.count("Transpose") == 1 and kinds.index("Transpose") == 0
    assert not {node.domain for node in converted(model, SIZE).graph.node} - {""}


def test_names_and_numbers_of_the_weights() -> None:
    model = net(lambda x: L.BatchNormalization(name="norm")(L.Conv2D(2, 3, name="conv")(x)))
    names = {
        tensor.name
        for tensor in converted(model, SIZE).graph.initializer
        if tensor.name.startswith("keras/")
    }
    assert names == {
        "keras/0000/conv/kernel",
        "keras/0001/conv/bias",
        "keras/0002/norm/gamma",
        "keras/0003/norm/beta",
        "keras/0004/norm/moving_mean",
        "keras/0005/norm/moving_variance",
    }


def test_a_shared_layer_keeps_one_copy_of_its_weights() -> None:
    def part(x: Any) -> Any:
        shared = keras.Sequential(
            [keras.Input((SIZE, SIZE, 4)), L.Conv2D(4, 3, padding="same"), L.BatchNormalization()]
        )
        return shared(first(x)) - shared(shared(first(x)))

    model = net(part)
    proto = assert_agrees(model, SIZE)
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(names) == len(set(names)) and sum("kernel" in name for name in names) == 3


def test_weights_come_back_from_a_file_with_more_in_it_and_not_from_another_network() -> None:
    def spread(x: Any) -> Any:
        return L.GlobalAveragePooling2D()(L.DepthwiseConv2D(3, depth_multiplier=2)(first(x)))

    model, other = net(lambda x: L.Dense(3)(spread(x))), net(lambda x: L.Dense(3)(spread(x)))
    proto = converted(model, SIZE)
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros(3, np.float32), "head/bias")
    )
    read_weights(proto, other)
    assert all(
        np.array_equal(numbers(a), numbers(b))
        for a, b in zip(model.weights, other.weights, strict=True)
    )
    with pytest.raises(BackboneError, match="made from another network"):
        read_weights(proto, net(lambda x: L.Dense(3)(L.GlobalAveragePooling2D()(first(x)))))
    with pytest.raises(BackboneError, match="lacks the weight"):
        read_weights(proto, net(lambda x: L.Dense(2)(L.Dense(3)(spread(x)))))
    del proto.graph.initializer[:]
    with pytest.raises(BackboneError, match="holds no Keras weights"):
        read_weights(proto, other)


def test_several_outputs_and_a_part_of_the_network() -> None:
    model = net(
        lambda x: L.GlobalAveragePooling2D()(
            L.Conv2D(6, 3, name="last")(L.ReLU(name="cut")(first(x)))
        )
    )
    graph = flatten(model)
    outputs = {
        "features": Output(graph.outputs[0].key),
        "feature_map": Output(graph.output_of("last").key, "channels_first"),
        "activations": Output(graph.output_of("cut").key),
    }
    proto = convert(graph, outputs, preprocess="none", size=SIZE, weights=model.weights)
    features, feature_map, activations = run(proto, images(SIZE))
    assert feature_map.shape == (2, 6, 9, 9) and activations.shape == (2, SIZE, SIZE, 4)
    np.testing.assert_allclose(feature_map.mean(axis=(2, 3)), features, atol=1e-3)
    values = {graph.inputs[0].key: images(SIZE).astype(np.float32)}
    np.testing.assert_allclose(
        activations, numbers(replay(graph.nodes, values, outputs["activations"].tensor)), atol=1e-3
    )
    lower = convert(
        graph,
        {"activations": outputs["activations"]},
        preprocess="none",
        size=SIZE,
        weights=model.weights,
    )
    np.testing.assert_array_equal(run(lower, images(SIZE))[0], activations)
    assert len(lower.graph.node) < len(proto.graph.node)


def test_cuts_are_where_one_tensor_separates_and_replay_takes_the_layers_over() -> None:
    def part(x: Any) -> Any:
        x = L.Conv2D(4, 3, name="stem")(x)
        x = L.Add(name="join")([L.Conv2D(4, 1, name="left")(x), L.Conv2D(4, 1, name="right")(x)])
        return L.GlobalAveragePooling2D(name="pool")(L.BatchNormalization(name="norm")(x))

    model = net(part)
    graph = flatten(model)
    found = cuts(graph.nodes, graph.inputs, graph.outputs[0].key)
    assert [tensor.key for tensor in found][1:] == ["stem", "join", "norm", "pool"]
    assert found[0] == graph.inputs[0]
    seen = []

    def call(node: Any, args: Any, kwargs: Any) -> Any:
        seen.append(node.path)
        return node.operation(*args, **kwargs)

    inputs = keras.Input(found[2].shape[1:])
    upper = keras.Model(inputs, replay(graph.nodes, {"join": inputs}, "pool", call))
    assert seen == ["norm", "pool"] and upper.weights[0] is model.get_layer("norm").gamma
    pixels = images(SIZE).astype(np.float32)
    lower = replay(graph.nodes, {graph.inputs[0].key: pixels}, "join")
    np.testing.assert_allclose(numbers(upper(lower)), numbers(model(pixels)), rtol=1e-5)
    with pytest.raises(KeyError):
        replay(graph.nodes, {"left": lower}, "pool")


def test_networks_without_a_fixed_size_use_the_given_size() -> None:
    inputs = keras.Input((None, None, 3))
    model = shake(
        keras.Model(
            inputs, L.GlobalAveragePooling2D()(L.Conv2D(4, 3, strides=2, padding="same")(inputs))
        )
    )
    for size in (8, 9):
        assert_agrees(model, size)


class Doubled(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(x)


REFUSED: dict[str, tuple[Part, str]] = {
    "lambda": (
        L.Lambda(lambda x: x * 2, name="twice"),
        r"twice is a Lambda layer: it holds Python code",
    ),
    "own layer": (
        Doubled(name="own"),
        r"own is a layer of kind Doubled, a class of .*; supported: .*BatchNormalization",
    ),
    "recurrent": (
        lambda x: L.LSTM(3, name="rnn")(L.Reshape((-1, 3))(x)),
        "rnn is a layer of kind LSTM",
    ),
    "own activation": (
        L.Conv2D(2, 3, activation=lambda x: x, name="odd"),
        "odd uses the activation '<lambda>'",
    ),
    "training": (
        lambda x: L.BatchNormalization(name="bn")(x, training=True),
        "bn .* is called with training=True",
    ),
    "operation": (lambda x: ops.cumsum(x, axis=1), "is an operation of kind Cumsum"),
    "subclassed": (lambda x: Subclassed()(L.Flatten()(x)), "is a subclass .Subclassed."),
    "bicubic": (
        L.UpSampling2D(2, interpolation="bicubic", name="up"),
        "up resizes with interpolation='bicubic'",
    ),
    "antialias": (L.Resizing(5, 5, antialias=True), "has antialias"),
}


@pytest.mark.parametrize(("part", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_unsupported_layers_are_refused_by_name(part: Part, message: str) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, part(inputs))
    with pytest.raises(BackboneError, match=message):
        converted(model, SIZE)


def test_inputs_that_are_not_photos_and_unknown_settings_are_refused() -> None:
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    with pytest.raises(BackboneError, match="one input of RGB images"):
        converted(keras.Model([one, two], one + two), 8)
    grey = keras.Input((8, 8, 1))
    with pytest.raises(BackboneError, match=r"\(None, 8, 8, 1\)"):
        converted(keras.Model(grey, grey * 2), 8)
    with pytest.raises(BackboneError, match="built for images of 11 x 11 pixels, not 12 x 12"):
        converted(net(first), 12)
    with pytest.raises(
        SettingsError, match="preprocess = 'vgg'; choose one of tf, caffe, torch, unit, none"
    ):
        converted(net(first), SIZE, "vgg")
    with pytest.raises(BackboneError, match="no input shape yet"):
        flatten(keras.Sequential([L.Dense(2)]))
    open_size = keras.Input((None, None, 3))
    narrow = keras.Model(open_size, L.Conv2D(2, 9, name="wide")(L.MaxPooling2D(4)(open_size)))
    with pytest.raises(BackboneError, match=r"wide .Conv2D. does not fit an input of shape"):
        converted(narrow, 16)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="started from the main backend alone"
)
def test_the_same_on_another_backend() -> None:
    """Test layers, weights and cuts on JAX in a new process: a process has one backend."""
    pytest.importorskip("jax")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(Path(__file__)),
    ]
    command += ["-k", "a_layer_as or weights or cuts or several_outputs"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=jax_environment(), check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
