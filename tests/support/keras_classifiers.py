"""Tiny Keras classifiers built in many ways, and files as Keras 2 writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32


def keras() -> Any:
    """Return Keras."""
    from tailorbird.engines.keras import backend

    return backend.load()


def lively(model: Any, seed: int = 0) -> Any:
    """Give random values to batch norm and biases: as the identity they hide mistakes."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_variance" in weight.path or "gamma" in weight.path:
            weight.assign(random.uniform(0.5, 2, weight.shape))
        elif weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(random.normal(size=weight.shape) * 0.2)
    return model


def convolutions(x: Any) -> Any:
    """Return a feature map of 8 x 8 positions and 12 channels."""
    layers = keras().layers
    x = layers.ReLU()(
        layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same")(x))
    )
    return layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(x)


def _image() -> Any:
    return keras().Input((SIDE, SIDE, 3))


def _base(name: str = "xception") -> Any:
    image = _image()
    return keras().Model(image, convolutions(image), name=name)


def sequential() -> Any:
    layers = keras().layers
    return keras().Sequential(
        [
            _image(),
            layers.Rescaling(1 / 255),
            layers.Conv2D(12, 3, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax"),
        ]
    )


def functional() -> Any:
    image, layers = _image(), keras().layers
    pooled = layers.GlobalAveragePooling2D()(convolutions(image))
    return keras().Model(image, layers.Dense(5, activation="softmax")(pooled))


def nested_base() -> Any:
    image, layers, base = _image(), keras().layers, _base()
    base.trainable = False
    pooled = layers.GlobalAveragePooling2D()(base(image, training=False))
    return keras().Model(image, layers.Dense(3, activation="softmax")(pooled))


def inner_layers() -> Any:
    image, layers = _image(), keras().layers
    x = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(_base()(image, training=False)))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Dense(16)(x)))
    x = layers.Dense(10, activation="relu")(layers.BatchNormalization()(x))
    return keras().Model(image, layers.Softmax()(layers.Dense(4)(x)))


def dropout() -> Any:
    image, layers = _image(), keras().layers
    x = layers.RandomFlip()(image)
    x = layers.Dropout(0.5)(
        layers.GlobalAveragePooling2D()(layers.SpatialDropout2D(0.2)(convolutions(x)))
    )
    x = layers.GaussianNoise(0.1)(layers.Dropout(0.5)(layers.Dense(8, activation="relu")(x)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def logits() -> Any:
    image, layers = _image(), keras().layers
    return keras().Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(_base()(image))))


def two_class_sigmoid() -> Any:
    image, layers = _image(), keras().layers
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D()(convolutions(image)))
    return keras().Model(image, layers.Dense(1, activation="sigmoid")(x))


def max_pooling() -> Any:
    image, layers = _image(), keras().layers
    x = layers.Dense(9, activation="relu")(layers.GlobalMaxPooling2D()(convolutions(image)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def flattened() -> Any:
    image, layers = _image(), keras().layers
    x = layers.Dense(9, activation="relu")(layers.Flatten()(convolutions(image)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def flattened_plain() -> Any:
    image, layers = _image(), keras().layers
    return keras().Model(
        image, layers.Dense(4, activation="softmax")(layers.Flatten()(convolutions(image)))
    )


def pooled_by_convolution() -> Any:
    """Return a head as in MobileNet: pooling with axes, 1x1 convolution, reshape, softmax."""
    image, layers = _image(), keras().layers
    x = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(convolutions(image)))
    return keras().Model(image, layers.Activation("softmax")(layers.Reshape((4,))(x)))


def average_then_flat() -> Any:
    image, layers = _image(), keras().layers
    x = layers.Flatten()(layers.AveragePooling2D(8)(convolutions(image)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def arithmetic() -> Any:
    """Return a model with arithmetic on tensors, as preprocess_input inside a model makes."""
    image = _image()
    x = keras().ops.mean(convolutions(image / 127.5 - 1.0), axis=(1, 2))
    return keras().Model(image, keras().ops.softmax(keras().layers.Dense(4)(x)))


def convolutional_classes() -> Any:
    image, layers = _image(), keras().layers
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(convolutions(image)))
    return keras().Model(image, layers.Softmax()(x))


WITH_MAPS: tuple[Callable[[], Any], ...] = (
    sequential,
    functional,
    nested_base,
    inner_layers,
    dropout,
    logits,
    two_class_sigmoid,
    max_pooling,
    flattened,
    flattened_plain,
    pooled_by_convolution,
    average_then_flat,
    arithmetic,
    convolutional_classes,
)


def tanh_head() -> Any:
    image, layers = _image(), keras().layers
    x = layers.Dense(9, activation="tanh")(layers.GlobalAveragePooling2D()(convolutions(image)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def layer_norm_head() -> Any:
    image, layers = _image(), keras().layers
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(convolutions(image)))
    return keras().Model(image, layers.Dense(4, activation="softmax")(x))


def averaged() -> Any:
    """Return two classifiers whose probabilities are averaged: it has no logits."""
    image, layers = _image(), keras().layers
    one = layers.Dense(4, activation="softmax")(layers.GlobalMaxPooling2D()(convolutions(image)))
    other = layers.Dense(4, activation="softmax")(layers.Flatten()(convolutions(image)))
    return keras().Model(image, layers.Average()([one, other]))


def averaged_two_class() -> Any:
    image, layers = _image(), keras().layers
    one = layers.Dense(1, activation="sigmoid")(layers.GlobalMaxPooling2D()(convolutions(image)))
    other = layers.Dense(1, activation="sigmoid")(layers.Flatten()(convolutions(image)))
    return keras().Model(image, layers.Average()([one, other]))


WITHOUT_MAPS: tuple[Callable[[], Any], ...] = (
    tanh_head,
    layer_norm_head,
    averaged,
    averaged_two_class,
)


def separable() -> Any:
    """Return layers as in Xception and MobileNet, with preprocessing by arithmetic."""
    image, layers = _image(), keras().layers
    inner = _image()
    x = layers.BatchNormalization()(layers.SeparableConv2D(8, 3, padding="same", strides=2)(inner))
    base = keras().Model(
        inner, layers.DepthwiseConv2D(3, strides=2, activation="relu")(x), name="base"
    )
    x = layers.GlobalAveragePooling2D()(
        base(layers.RandomFlip()(image) / 127.5 - 1.0, training=False)
    )
    return keras().Model(image, layers.Dense(3, activation="softmax")(layers.Dropout(0.2)(x)))


def as_keras_2(source: Path, target: Path) -> None:
    """Rewrite a `.h5` file of Keras 3 as Keras 2.15 writes it."""
    import h5py

    shutil.copyfile(source, target)
    with h5py.File(target, "r+") as file:
        config = _old(json.loads(file.attrs["model_config"]))
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = b"2.15.0"
        file["model_weights"].attrs["keras_version"] = b"2.15.0"


def _old(item: Any) -> Any:
    if isinstance(item, list):
        return [_old(one) for one in item]
    if not isinstance(item, dict):
        return item
    if item.get("class_name") == "DTypePolicy":
        return item["config"]["name"]
    item = {key: _old(value) for key, value in item.items()}
    if "class_name" not in item:
        return item
    for key in ("module", "registered_name", "build_config"):
        item.pop(key, None)
    kind, config = item["class_name"], item.get("config")
    if isinstance(config, dict):
        if "batch_shape" in config:
            config["batch_input_shape"] = config.pop("batch_shape")
            config.pop("optional", None)
        if kind in ("SeparableConv2D", "DepthwiseConv2D"):
            config["groups"] = 1
        if kind == "SeparableConv2D":
            ones = {"class_name": "GlorotUniform", "config": {"seed": None}}
            config |= {
                "kernel_initializer": ones,
                "kernel_regularizer": None,
                "kernel_constraint": None,
            }
        if kind == "BatchNormalization":
            config.pop("renorm", None)
            config.pop("synchronized", None)
            config["axis"] = [3]
        if kind == "RandomFlip":
            config.pop("data_format", None)
            config["rng_type"] = "stateful"
        for ends in ("input_layers", "output_layers"):
            if ends in config and isinstance(config[ends][0], str):
                config[ends] = [config[ends]]
        if "layers" in config:
            _count_from_one(config)
    if "inbound_nodes" in item:
        item["inbound_nodes"] = [_old_call(call) for call in item["inbound_nodes"]]
        if kind in ("TrueDivide", "Subtract"):
            function = {"TrueDivide": "math.truediv", "Subtract": "math.subtract"}[kind]
            item |= {
                "class_name": "TFOpLambda",
                "config": {
                    "name": item["name"],
                    "trainable": True,
                    "dtype": "float32",
                    "function": function,
                },
            }
    return item


def _old_call(call: Any) -> list[Any]:
    if not isinstance(call, dict):
        return list(call)
    args = call["args"]
    tensors = args[0] if isinstance(args[0], list) else [args[0]]
    named = {key: value for key, value in call["kwargs"].items() if value is not None}
    if len(args) == 2:
        named = {"y": args[1], "name": None}
    return [[*tensor["config"]["keras_history"], dict(named)] for tensor in tensors]


def _count_from_one(config: dict[str, Any]) -> None:
    nested = {layer["name"] for layer in config["layers"] if layer["class_name"] == "Functional"}
    for layer in config["layers"]:
        for call in layer["inbound_nodes"]:
            for tensor in call:
                if tensor[0] in nested:
                    tensor[1] += 1
