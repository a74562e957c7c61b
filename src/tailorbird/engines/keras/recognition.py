"""Recognise Keras applications by the names of their layers. Nothing here imports Keras."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tailorbird.engines.protocol import KnownNetwork

PREPROCESS_NAMES: Final = {
    "convnext": "none", "densenet": "torch", "efficientnet": "none", "efficientnet_v2": "none",
    "inception_resnet_v2": "tf", "inception_v3": "tf", "mobilenet": "tf", "mobilenet_v2": "tf",
    "mobilenet_v3": "none", "nasnet": "tf", "resnet": "caffe", "resnet50": "caffe",
    "resnet_v2": "tf", "vgg16": "caffe", "vgg19": "caffe", "xception": "tf",
}  # fmt: skip
"""The modules of keras.applications, and what each one's `preprocess_input` does."""

_NESTED: Final = (
    ("xception", r"xception"), ("mobilenet_v3", r"mobilenetv?_?3"),
    ("mobilenet_v2", r"mobilenetv?_?2"), ("mobilenet", r"mobilenet"),
    ("inception_resnet_v2", r"inception_resnet"), ("inception_v3", r"inception"),
    ("resnet_v2", r"resnet\d+_?v2"), ("resnet", r"resnet\d+"), ("vgg16", r"vgg16"),
    ("vgg19", r"vgg19"), ("densenet", r"densenet"), ("nasnet", r"nasnet"),
    ("efficientnet_v2", r"efficientnet_?v2"), ("efficientnet", r"efficientnet"),
    ("convnext", r"convnext"),
)  # fmt: skip
"""Regular expressions for names of nested models, by module; the first match counts."""

_INNER: Final = (
    ("xception", {"block14_sepconv2", "block13_sepconv2_bn"}),
    ("mobilenet_v2", {"Conv_1", "expanded_conv_project"}),
    ("mobilenet", {"conv_dw_13", "conv_pw_13"}),
    ("inception_resnet_v2", {"block8_10_conv", "conv_7b"}),
    ("inception_v3", {"mixed10", "mixed9"}),
    ("densenet", {"conv5_block16_concat", "pool4_conv"}),
    ("resnet_v2", {"post_relu", "conv5_block3_out"}),
    ("resnet", {"conv5_block3_out", "conv1_relu"}),
    ("vgg19", {"block5_conv4", "block5_conv1"}),
    ("vgg16", {"block5_conv3", "block5_conv1"}),
)
"""Names of layers that a network built in place has, by module; the first match counts."""


def recognise(paths: Sequence[str]) -> KnownNetwork | None:
    """Return the application that a model with layers of these paths is built on, if any.

    paths: names of layers, each behind the names of the models it is nested in.
    """
    nested = {part for path in paths for part in path.split("/")[:-1]}
    for module, pattern in _NESTED:
        for name in sorted(nested):
            if re.search(pattern, name, re.IGNORECASE):
                return _known(module, f"its part {name!r}")
    layers = {path.rpartition("/")[2] for path in paths}
    for module, names in _INNER:
        if names <= layers:
            return _known(module, f"its layers {' and '.join(sorted(names))}")
    return None


def _known(module: str, evidence: str) -> KnownNetwork:
    name = f"keras.applications.{module}"
    return KnownNetwork(
        name, PREPROCESS_NAMES[module], evidence, f"what {name}.preprocess_input does"
    )
