"""Where a published network's features are: which tensor, and how its axes are to be read.

    map      float (N, C, h, w), or (N, h, w, C)       convolutional networks, Swin
    tokens   float (N, T, C)                           vision transformers: prefix tokens (class, registers), then h * w patches
    pooled   float (N, C) or (N, C, 1, 1)              CLIP's image_embeds, SigLIP's pooler_output, a classifier's last input

Decided by the shapes a run produced, not by those the file announces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.errors import BackboneError

if TYPE_CHECKING:
    import onnx

UNDERSTOOD = (
    "understood are last_hidden_state of shape (N, C, h, w), (N, h, w, C) or (N, tokens, C), image_embeds or pooler_output of shape "
    "(N, C), and a classifier whose last layer is one linear layer"
)

MOST_PREFIX_TOKENS = 16
"""Class token, distillation token, registers: published networks have at most a handful."""

_CLASSIFIER_OUTPUTS = frozenset(
    {"logits", "cls_logits", "probabilities", "probs", "probability", "scores", "softmax"}
)
# In these families the pooled output is what was trained and the patch tokens of the last layer were not.
_POOLED_FAMILIES = {"clip": "cls", "chinese_clip": "cls", "siglip": "attention"}
_USUAL_CLASS_COUNTS = frozenset({1000, 1001, 21841, 21843})
_SAME_VALUES = frozenset(
    {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
)
_OF_CONSTANTS = _SAME_VALUES | {"Transpose", "DequantizeLinear"}
_POSITIONS = ([2, 3], [-2, -1])
_AFTER_LOGITS = _SAME_VALUES | {"Softmax", "LogSoftmax", "Sigmoid"}


@dataclass(frozen=True)
class Tap:
    """One tensor and how to read it."""

    tensor: str
    kind: str
    """map, map channels last, tokens or pooled."""
    width: int
    """C: features per image."""
    grid: int
    """h = w of the map; 1 where there is none."""
    prefix: int
    """Tokens in front of the patch tokens."""
    pooling: str


def patch_side(model: onnx.ModelProto, config: Mapping[str, Any]) -> int | None:
    """The patch side of a vision transformer in pixels: from its patch convolution, else from config.json, else None."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(shapes.get(node.input[1], [])) == 4:
            _, channels, height, width = shapes[node.input[1]]
            strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
            if channels == 3 and height == width and height >= 4 and strides == [height, width]:
                return int(height)
    said = config.get("patch_size", (config.get("vision_config") or {}).get("patch_size"))
    if isinstance(said, list | tuple) and said:
        said = said[-1]
    return said if isinstance(said, int) and said > 0 else None


def classifier_tensors(model: onnx.ModelProto, output: str) -> list[str]:
    """Where features may be read in a classifier: what its last linear layer works on, and the map averaged into that, if any.

    Empty when `output` is not one linear layer on one tensor, possibly with a softmax behind it.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}

    def constant(name: str) -> bool:
        maker = makers.get(name)
        if maker is None:
            return name in weights
        return maker.op_type == "Constant" or (
            maker.op_type in _OF_CONSTANTS and all(map(constant, maker.input))
        )

    def skip(name: str, kinds: frozenset[str]) -> str:
        while name in makers and makers[name].op_type in kinds:
            name = makers[name].input[0]
        return name

    node = makers.get(skip(output, _AFTER_LOGITS))
    if (
        node is not None and node.op_type == "Add"
    ):  # MatMul and bias, as linear layers on three axes are exported
        inner = [name for name in node.input if not constant(name)]
        node = makers.get(skip(inner[0], _SAME_VALUES)) if len(inner) == 1 else None
    if (
        node is None
        or node.op_type not in ("Gemm", "MatMul", "Conv")
        or not constant(node.input[1])
        or constant(node.input[0])
    ):
        return []
    if node.op_type == "Conv" and next(
        (list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1, 1]
    ) != [
        1,
        1,
    ]:
        return []
    source = node.input[0]
    pool = makers.get(skip(source, _SAME_VALUES))
    if pool is None or not (
        pool.op_type == "GlobalAveragePool"
        or (pool.op_type == "ReduceMean" and _axes(model, pool) in _POSITIONS)
    ):
        return [source]
    return [source, pool.input[0]]


def _axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """The axes a reduction works on, whether given as an attribute (before operator set 18) or as an input."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "axes":
            return sorted(attribute.ints)
    if len(node.input) > 1:
        for tensor in model.graph.initializer:
            if tensor.name == node.input[1]:
                return sorted(int(axis) for axis in numpy_helper.to_array(tensor).ravel())
        for maker in model.graph.node:
            if (
                node.input[1] in maker.output
                and maker.op_type == "Constant"
                and maker.attribute[0].HasField("t")
            ):
                return sorted(
                    int(axis) for axis in numpy_helper.to_array(maker.attribute[0].t).ravel()
                )
    return []


def is_classifier(name: str, width: int, config: Mapping[str, Any]) -> bool:
    """Whether an output (N, width) holds scores of classes rather than features."""
    classes = (
        config.get("num_labels")
        or config.get("num_classes")
        or len(config.get("id2label") or ())
        or None
    )
    if not classes:
        classes = (config.get("pretrained_cfg") or {}).get("num_classes")
    return name.lower() in _CLASSIFIER_OUTPUTS or width == classes or width in _USUAL_CLASS_COUNTS


def choose(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    side: int,
) -> Tap:
    """Choose among the outputs, and the tensors inside a classifier, what features are read from.

    shapes: of every output, and of `classifier_input` where there is one, in a run on images of `side` pixels.
    Raises BackboneError listing what was seen and what would be understood.
    """
    outputs = {value.name: shapes[value.name] for value in model.graph.output}
    seen = "outputs seen: " + "; ".join(f"{name} {shape}" for name, shape in outputs.items())
    family = str(config.get("model_type", "")).lower()

    if "image_embeds" in outputs:
        return _pooled("image_embeds", outputs["image_embeds"], "projection", seen)
    for prefix, pooling in _POOLED_FAMILIES.items():
        if family.startswith(prefix) and "pooler_output" in outputs:
            return _pooled("pooler_output", outputs["pooler_output"], pooling, seen)
    if "last_hidden_state" in outputs:
        return _read(model, "last_hidden_state", outputs["last_hidden_state"], config, side, seen)
    spatial = [
        n
        for n, s in outputs.items()
        if len(s) > 2 and math.prod(s[2:]) > 1 and n.lower() not in _CLASSIFIER_OUTPUTS
    ]
    flat = [name for name, shape in outputs.items() if name not in spatial]
    if len(spatial) == 1 and not any(
        outputs[name] and is_classifier(name, outputs[name][-1], config) for name in flat
    ):
        return _read(model, spatial[0], outputs[spatial[0]], config, side, seen)
    if "pooler_output" in outputs:
        return _pooled("pooler_output", outputs["pooler_output"], "the network's own", seen)
    if spatial or len(flat) != 1:
        raise BackboneError(
            f"it is not clear which output holds the features; {seen}; {UNDERSTOOD}"
        )
    name = flat[0]
    if len(outputs[name]) < 2 or not is_classifier(name, outputs[name][1], config):
        return _pooled(name, outputs[name], "the network's own", seen)
    found = classifier_tensors(model, name)
    if not found:
        raise BackboneError(
            f"the file is a classifier, and the features in front of its classes cannot be told for certain: {name} is not made by one "
            f"linear layer; {seen}; {UNDERSTOOD}; a repository tagged image-feature-extraction has them as an output"
        )
    source, averaged = found[0], found[-1]
    if averaged != source and len(shapes[averaged]) == 4:
        return _map(averaged, shapes[averaged], side, seen, channels_first=True)
    return _pooled(
        source, shapes[source], "the network's own", f"{seen}; {source} {shapes[source]}"
    )


def _pooled(name: str, shape: tuple[int, ...], pooling: str, seen: str) -> Tap:
    if len(shape) < 2 or math.prod(shape[2:]) != 1:
        raise BackboneError(
            f"{name} does not hold one row of features per image; {seen}; {UNDERSTOOD}"
        )
    return Tap(name, "pooled", shape[1], 1, 0, pooling)


def _map(
    name: str, shape: tuple[int, ...], side: int, seen: str, *, channels_first: bool = False
) -> Tap:
    """Four axes: which one the channels are. The input is square, so the two equal axes are the positions."""
    first, second, third = shape[1:]
    if (second, third) == (1, 1):
        return _pooled(name, shape, "the network's own", seen)
    if first == second == third and not channels_first:
        raise BackboneError(
            f"{name} has three equal axes, so its channels cannot be told from its positions; {seen}"
        )
    grid, width, kind = (
        (second, first, "map") if second == third else (first, third, "map channels last")
    )
    if (second != third and first != second) or grid > side // 4:
        raise BackboneError(
            f"{name} is no map of features of a {side} x {side} image; {seen}; {UNDERSTOOD}"
        )
    return Tap(name, kind, width, grid, 0, "mean")


def _read(
    model: onnx.ModelProto,
    name: str,
    shape: tuple[int, ...],
    config: Mapping[str, Any],
    side: int,
    seen: str,
) -> Tap:
    """A map, tokens or pooled features, by shape."""
    if len(shape) == 4:
        return _map(name, shape, side, seen)
    if len(shape) == 3:
        grid, prefix = _grid(shape[1], side, patch_side(model, config), name, seen)
        return Tap(name, "tokens", shape[2], grid, prefix, "mean")
    return _pooled(name, shape, "the network's own", seen)


def _grid(tokens: int, side: int, patch: int | None, name: str, seen: str) -> tuple[int, int]:
    """h = w of the patch grid, and the tokens in front of it."""
    if patch:
        grid = side // patch
        if grid > 1 and 0 <= tokens - grid * grid <= MOST_PREFIX_TOKENS:
            return grid, tokens - grid * grid
    # Swin and other pyramids end with fewer positions than patches, and without prefix tokens.
    if math.isqrt(tokens) ** 2 == tokens and tokens > 1:
        return math.isqrt(tokens), 0
    expected = (
        f"patches of {patch} pixels would make {side // patch} x {side // patch}"
        if patch
        else "the patch size is not known"
    )
    raise BackboneError(
        f"{name} has {tokens} tokens, and it is not clear which of them are patches: {expected}, and {tokens} is no square; {seen}; "
        f"{UNDERSTOOD}"
    )
