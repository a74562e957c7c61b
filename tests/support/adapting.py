"""Adapt published networks and run the originals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from support import published_networks as networks
from tailorbird.backbone.contract import Backbone
from tailorbird.errors import BackboneError
from tailorbird.inference import Runner

PLAIN = {**networks.IMAGENET, "size": {"height": 32, "width": 32}}


Adapted = Callable[..., Backbone]


def random_pixels(side: int, *, count: int = 2) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, side, side, 3), np.uint8)


def original_output(
    model: onnx.ModelProto, pixels: npt.NDArray[Any], output: str
) -> npt.NDArray[Any]:
    result: npt.NDArray[Any] = Runner(model, "test", BackboneError).run_batch(pixels, [output])[0]
    return result


def imagenet_values(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return pixels normalised as for ImageNet, independent of the module under test."""
    values = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return values.transpose(0, 3, 1, 2).astype(np.float32)


def both(
    backbone: Backbone, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    features, feature_map = backbone.runner.run(images, ["features", "feature_map"])
    return features, feature_map
