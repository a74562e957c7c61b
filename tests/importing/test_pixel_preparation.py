"""Preparation of pixels: equal to that of Keras, recognised in a model, applied once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.importing import drawn_pixels, import_and_open, probabilities
from support.keras_classifiers import (
    SIDE,
    functional,
    keras,
    lively,
    logits,
    nested_base,
)
from tailorbird.engines.keras import classifier as keras_models
from tailorbird.engines.keras.recognition import PREPROCESS_NAMES
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.engines.preprocessing import prepare as pixels_for
from tailorbird.importing.preprocess import best, compare


@pytest.mark.parametrize("mode", PREPROCESS)
def test_preprocess_modes_equal_those_of_keras(mode: str, tmp_path: Path) -> None:
    model = lively(functional())
    _, classifier = import_and_open(model, tmp_path, preprocess=mode)
    photos = drawn_pixels(3)
    values: Any = photos.astype(np.float32)
    if mode in ("tf", "torch", "caffe"):
        values = np.asarray(
            keras().applications.imagenet_utils.preprocess_input(
                values.copy(), data_format="channels_last", mode=mode
            )
        )
    elif mode == "unit":
        values = values / 255
    elif mode == "bgr":
        values = values[..., ::-1]
    assert np.abs(classifier.probabilities(photos) - probabilities(model, values)).max() < 1e-4


def test_application_names_select_the_preprocess_mode_of_keras() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    for module, mode in PREPROCESS_NAMES.items():
        expected = np.asarray(getattr(keras().applications, module).preprocess_input(pixels.copy()))
        assert np.allclose(pixels_for(pixels.astype(np.uint8), mode), expected, atol=1e-4), module
    modules = {
        name
        for name in dir(keras().applications)
        if hasattr(getattr(keras().applications, name), "preprocess_input")
    }
    assert modules - {"imagenet_utils"} == set(PREPROCESS_NAMES)


def test_the_preprocess_mode_is_recognised_from_the_model(tmp_path: Path) -> None:
    result, _ = import_and_open(lively(nested_base()), tmp_path, preprocess=None)
    assert result.preprocess == "tf" and "keras.applications.xception" in result.preprocess_reason
    assert not result.warnings
    result, _ = import_and_open(nested_base(), tmp_path, preprocess="caffe")
    assert result.preprocess == "caffe" and "goes with tf, not caffe" in result.warnings[0]
    model = keras().Sequential(
        [
            keras().Input((SIDE, SIDE, 3)),
            keras().layers.Rescaling(1 / 127.5, -1, name="scaled"),
            logits(),
        ]
    )
    result, _ = import_and_open(model, tmp_path, preprocess=None)
    assert result.preprocess == "none" and "scaled (Rescaling)" in result.preprocess_reason
    result, _ = import_and_open(model, tmp_path, preprocess="unit")
    assert (
        "prepares its pixels itself, in scaled (Rescaling), after preprocess unit"
        in result.warnings[0]
    )


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("ResNet50", "resnet"),
        ("ResNet50V2", "resnet_v2"),
        ("DenseNet121", "densenet"),
        ("VGG16", "vgg16"),
    ],
)
def test_base_networks_are_recognised_by_name_and_by_layers(name: str, module: str) -> None:
    function = getattr(keras().applications, name)
    image = keras().Input((SIDE, SIDE, 3))
    inlined = function(weights=None, include_top=False, input_tensor=image)
    head = keras().layers.Dense(2)(keras().layers.GlobalAveragePooling2D()(inlined.output))
    found = keras_models.classifier_of(keras().Model(image, head), "x").known_network()
    assert found is not None and found.preprocess == PREPROCESS_NAMES[module]
    nested = keras().Sequential(
        [
            keras().Input((SIDE, SIDE, 3)),
            inlined,
            keras().layers.GlobalAveragePooling2D(),
            keras().layers.Dense(2),
        ]
    )
    told = keras_models.classifier_of(nested, "x").known_network()
    assert told is not None and told.name == f"keras.applications.{module}"


def test_preprocessing_inside_a_network_is_recognised() -> None:
    for name in ("MobileNetV3Small",):
        base = getattr(keras().applications, name)(
            weights=None, include_top=False, input_shape=(SIDE, SIDE, 3), pooling="avg"
        )
        model = keras().Sequential([keras().Input((SIDE, SIDE, 3)), base, keras().layers.Dense(2)])
        assert "Rescaling" in (keras_models.classifier_of(model, "x").own_preprocessing() or "")


@pytest.mark.parametrize(
    "module",
    ["vgg16", "resnet50", "mobilenet_v2", "densenet"],  # modes caffe, caffe, tf, torch
)
def test_preprocess_input_inside_the_model_is_not_applied_twice(
    module: str, tmp_path: Path
) -> None:
    image = keras().Input((SIDE, SIDE, 3))
    x = getattr(keras().applications, module).preprocess_input(image)
    base = keras().Sequential(
        [keras().Input((SIDE, SIDE, 3)), keras().layers.Conv2D(4, 3, activation="relu")],
        name=module,
    )
    pooled = keras().layers.GlobalAveragePooling2D()(base(x))
    model = lively(keras().Model(image, keras().layers.Dense(3, activation="softmax")(pooled)))
    result, classifier = import_and_open(model, tmp_path, preprocess=None)
    assert result.preprocess == "none"
    photos = drawn_pixels(3)
    expected = probabilities(model, photos.astype(np.float32))
    assert np.abs(classifier.probabilities(photos) - expected).max() < 1e-4


def test_comparing_preprocess_modes_by_accuracy() -> None:
    labels = np.zeros(100, np.int64)
    right, wrong = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    rows = {
        "tf": np.array([right] * 60 + [wrong] * 40),
        "torch": np.array([right] * 90 + [wrong] * 10),
        "unit": np.array([wrong] * 10 + [right] * 89 + [wrong]),
        "none": np.array([right] * 62 + [wrong] * 38),
    }
    found = compare(rows, labels, "tf")
    assert found.better is not None and found.better.preprocess == "torch" and found.accuracy == 0.6
    assert "import again with --preprocess torch" in (found.warning or "")
    alone = compare({name: rows[name] for name in ("tf", "none")}, labels, "tf")
    assert alone.better is None and alone.warning is None, (
        "a difference of two photos is not significant"
    )
    sure = {**rows, "unit": 3 * rows["torch"] * (rows["torch"] == 2.0) / 2}
    chosen, why = best({name: sure[name] for name in ("torch", "unit", "tf")}, labels)
    assert chosen in ("torch", "unit") and "not significantly worse" in why and "tf 60.0%" in why
