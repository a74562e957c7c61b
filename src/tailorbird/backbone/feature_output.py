"""Find a published network's features: which tensor holds them, and how its axes are read.

    map                 float (N, C, h, w)            convolutional networks
    map channels last   float (N, h, w, C)            Swin
    tokens              float (N, T, C)               vision transformers: prefix tokens (class,
                                                      registers), then h * w patches
    pooled              float (N, C) or (N, C, 1, 1)  CLIP's image_embeds, SigLIP's pooler_output,
                                                      the input of a classifier's last layer

Shapes are measured in a run, because the shapes declared in the file may be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.errors import BackboneError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

SUPPORTED = (
    "supported are last_hidden_state of shape (N, C, h, w), (N, h, w, C) or (N, tokens, C), "
    "image_embeds or pooler_output of shape (N, C), and a classifier whose last layer is one "
    "linear layer"
)

MOST_PREFIX_TOKENS = 16
"""Maximum number of prefix tokens (class token, distillation token, registers)."""

OWN_POOLING = "the network's own"

_CLASSIFIER_OUTPUTS = frozenset(
    {"logits", "cls_logits", "probabilities", "probs", "probability", "scores", "softmax"}
)
# In these families the pooled output was trained and the last layer's patch tokens were not.
_POOLED_FAMILIES = {"clip": "cls", "chinese_clip": "cls", "siglip": "attention"}
_USUAL_CLASS_COUNTS = frozenset({1000, 1001, 21841, 21843})
_SAME_VALUES = frozenset(
    {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
)
_OF_CONSTANTS = _SAME_VALUES | {"Transpose", "DequantizeLinear"}
_POSITIONS = ([2, 3], [-2, -1])
_AFTER_LOGITS = _SAME_VALUES | {"Softmax", "LogSoftmax", "Sigmoid"}


@dataclass(frozen=True)
class FeatureOutput:
    """The tensor that features are read from.

    Attributes:
        tensor: Its name.
        kind: map, map channels last, tokens or pooled.
        width: C, features per image.
        grid: h = w of the map; 1 if there is none.
        prefix: Tokens in front of the patch tokens.
        pooling: How features come from the positions, in words.
    """

    tensor: str
    kind: str
    width: int
    grid: int = 1
    prefix: int = 0
    pooling: str = OWN_POOLING


def patch_side(model: onnx.ModelProto, config: Mapping[str, Any]) -> int | None:
    """Return a vision transformer's patch side in pixels.

    From its patch convolution, else from config.json; None if neither states it.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(shapes.get(node.input[1], [])) == 4:
            _, channels, height, width = shapes[node.input[1]]
            strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
            if channels == 3 and height == width and height >= 4 and strides == [height, width]:
                return int(height)
    stated = config.get("patch_size", (config.get("vision_config") or {}).get("patch_size"))
    if isinstance(stated, list | tuple) and stated:
        stated = stated[-1]
    return stated if isinstance(stated, int) and stated > 0 else None


class _Producers:
    """The nodes of a graph by the tensors they produce."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = {name: node for node in model.graph.node for name in node.output}
        self._weights = {tensor.name for tensor in model.graph.initializer}

    def node(self, tensor: str, skip: frozenset[str]) -> onnx.NodeProto | None:
        """Return the node that produces a tensor, behind nodes of the kinds to skip."""
        while tensor in self._nodes and self._nodes[tensor].op_type in skip:
            tensor = self._nodes[tensor].input[0]
        return self._nodes.get(tensor)

    def constant(self, tensor: str) -> bool:
        """Return whether a tensor depends on weights and constants only."""
        node = self._nodes.get(tensor)
        if node is None:
            return tensor in self._weights
        return node.op_type == "Constant" or (
            node.op_type in _OF_CONSTANTS and all(map(self.constant, node.input))
        )

    def linear_layer(self, output: str) -> onnx.NodeProto | None:
        """Return the linear layer that makes the logits, or None if it is not a single one."""
        node = self.node(output, _AFTER_LOGITS)
        if node is not None and node.op_type == "Add":  # MatMul and bias, on three axes
            inner = [name for name in node.input if not self.constant(name)]
            node = self.node(inner[0], _SAME_VALUES) if len(inner) == 1 else None
        if node is None or node.op_type not in ("Gemm", "MatMul", "Conv"):
            return None
        kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1, 1])
        if (node.op_type == "Conv" and kernel != [1, 1]) or self.constant(node.input[0]):
            return None
        return node if self.constant(node.input[1]) else None


def classifier_tensors(model: onnx.ModelProto, output: str) -> list[str]:
    """Return the tensors inside a classifier that features may be read from.

    The input of its last linear layer and, if that is an average over positions, the map.
    Empty if `output` is not one linear layer on one tensor, possibly with a softmax behind it.
    """
    producers = _Producers(model)
    layer = producers.linear_layer(output)
    if layer is None:
        return []
    source = layer.input[0]
    pool = producers.node(source, _SAME_VALUES)
    if pool is not None and (
        pool.op_type == "GlobalAveragePool"
        or (pool.op_type == "ReduceMean" and _axes(model, pool) in _POSITIONS)
    ):
        return [source, pool.input[0]]
    return [source]


def _axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Return a reduction's axes: an attribute before operator set 18, then an input."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "axes":
            return sorted(attribute.ints)
    if len(node.input) < 2:
        return []
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for maker in model.graph.node:
        if maker.op_type == "Constant" and maker.attribute[0].HasField("t"):
            tensors[maker.output[0]] = maker.attribute[0].t
    found = tensors.get(node.input[1])
    return [] if found is None else sorted(map(int, numpy_helper.to_array(found).ravel()))


def is_classifier(name: str, width: int, config: Mapping[str, Any]) -> bool:
    """Return whether an output (N, width) holds scores of classes rather than features."""
    classes = (
        config.get("num_labels")
        or config.get("num_classes")
        or len(config.get("id2label") or ())
        or (config.get("pretrained_cfg") or {}).get("num_classes")
    )
    return name.lower() in _CLASSIFIER_OUTPUTS or width == classes or width in _USUAL_CLASS_COUNTS


def choose(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], config: Mapping[str, Any], side: int
) -> FeatureOutput:
    """Choose the tensor that features are read from.

    Args:
        model: The network.
        shapes: Shapes, measured in a run, of every output and of the tensors inside a classifier.
        config: Content of config.json.
        side: Pixels along each edge of the images of that run.

    Raises:
        BackboneError: Lists what was seen and what is supported.
    """
    outputs = {value.name: shapes[value.name] for value in model.graph.output}
    chooser = _Chooser(model, shapes, config, side, outputs)
    return chooser.named() or chooser.unnamed()


@dataclass(frozen=True)
class _Chooser:
    """The facts that the choice depends on."""

    model: onnx.ModelProto
    shapes: Mapping[str, Shape]
    config: Mapping[str, Any]
    side: int
    outputs: Mapping[str, Shape]

    @property
    def seen(self) -> str:
        return "outputs seen: " + "; ".join(f"{name} {s}" for name, s in self.outputs.items())

    def named(self) -> FeatureOutput | None:
        """Return the output that has one of the usual names, or None."""
        if "image_embeds" in self.outputs:
            return self.pooled("image_embeds", "projection")
        family = str(self.config.get("model_type", "")).lower()
        for prefix, pooling in _POOLED_FAMILIES.items():
            if family.startswith(prefix) and "pooler_output" in self.outputs:
                return self.pooled("pooler_output", pooling)
        if "last_hidden_state" in self.outputs:
            return self.read("last_hidden_state")
        return None

    def unnamed(self) -> FeatureOutput:
        """Choose by shape: a map, pooled features, or the inside of a classifier."""
        spatial = [
            name
            for name, shape in self.outputs.items()
            if math.prod(shape[2:]) > 1 and name.lower() not in _CLASSIFIER_OUTPUTS
        ]
        flat = [name for name in self.outputs if name not in spatial]
        if len(spatial) == 1 and not any(
            self.outputs[name] and is_classifier(name, self.outputs[name][-1], self.config)
            for name in flat
        ):
            return self.read(spatial[0])
        if "pooler_output" in self.outputs:
            return self.pooled("pooler_output")
        if spatial or len(flat) != 1:
            raise BackboneError(
                f"it is not clear which output holds the features; {self.seen}; {SUPPORTED}"
            )
        shape = self.outputs[flat[0]]
        if len(shape) < 2 or not is_classifier(flat[0], shape[1], self.config):
            return self.pooled(flat[0])
        return self.inside_classifier(flat[0])

    def inside_classifier(self, output: str) -> FeatureOutput:
        found = classifier_tensors(self.model, output)
        if not found:
            raise BackboneError(
                "the file is a classifier whose features cannot be located reliably: "
                f"{output} is not made by one linear layer; {self.seen}; {SUPPORTED}; a repository "
                "tagged image-feature-extraction has them as an output"
            )
        source, averaged = found[0], found[-1]
        if averaged != source and len(self.shapes[averaged]) == 4:
            return self.map(averaged, channels_first=True)
        return self.pooled(source)

    def read(self, name: str) -> FeatureOutput:
        """Read a map, tokens or pooled features, by the number of axes."""
        shape = self.shapes[name]
        if len(shape) == 4:
            return self.map(name)
        if len(shape) == 3:
            grid, prefix = self.grid(name, shape[1])
            return FeatureOutput(name, "tokens", shape[2], grid, prefix, "mean")
        return self.pooled(name)

    def pooled(self, name: str, pooling: str = OWN_POOLING) -> FeatureOutput:
        shape = self.shapes[name]
        if len(shape) < 2 or math.prod(shape[2:]) != 1:
            raise BackboneError(
                f"{name} {shape} does not hold one row of features per image; {self.seen}; "
                f"{SUPPORTED}"
            )
        return FeatureOutput(name, "pooled", shape[1], pooling=pooling)

    def map(self, name: str, *, channels_first: bool = False) -> FeatureOutput:
        """Read a feature map: of its three axes, the two equal ones are the positions."""
        first, second, third = self.shapes[name][1:]
        if (second, third) == (1, 1):
            return self.pooled(name)
        if first == second == third and not channels_first:
            raise BackboneError(
                f"{name} has three equal axes, so its channel axis is ambiguous; {self.seen}"
            )
        last = second != third
        grid, width = (first, third) if last else (second, first)
        if (last and first != second) or grid > self.side // 4:
            raise BackboneError(
                f"{name} is not a feature map of an image of {self.side} x {self.side} pixels; "
                f"{self.seen}; {SUPPORTED}"
            )
        kind = "map channels last" if last else "map"
        return FeatureOutput(name, kind, width, grid, pooling="mean")

    def grid(self, name: str, tokens: int) -> tuple[int, int]:
        """Return h = w of the patch grid, and the number of tokens in front of it."""
        patch = patch_side(self.model, self.config)
        if patch:
            grid = self.side // patch
            if grid > 1 and 0 <= tokens - grid * grid <= MOST_PREFIX_TOKENS:
                return grid, tokens - grid * grid
        # Swin and other pyramids end with fewer positions than patches, and no prefix tokens.
        if math.isqrt(tokens) ** 2 == tokens and tokens > 1:
            return math.isqrt(tokens), 0
        expected = "the patch size is not known"
        if patch:
            across = self.side // patch
            expected = f"patches of {patch} pixels would make {across} x {across}"
        raise BackboneError(
            f"{name} has {tokens} tokens, and it is not clear which of them are patches: "
            f"{expected}, and {tokens} is not a square; {self.seen}; {SUPPORTED}"
        )
