"""Assemble a backbone's graph around a published network.

In front: uint8 RGB pixels, the published rescaling and normalisation. Behind: `features`, and
`feature_map` if features are an average over positions. Parts that the features do not need, such
as a classifier, are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tailorbird import onnx_files
from tailorbird.backbone.feature_output import FeatureOutput
from tailorbird.backbone.preprocessor import Preprocessing
from tailorbird.backbone.published import PixelInput

if TYPE_CHECKING:
    import onnx

_OWN_NAMES = ("images", "features", "feature_map")


def assemble(
    model: onnx.ModelProto,
    pixel: PixelInput,
    prepared: Preprocessing,
    chosen: FeatureOutput,
    *,
    half: bool,
) -> onnx.ModelProto:
    """Return the backbone's graph.

    Args:
        model: The published network; it is changed and must not be used afterwards.
        pixel: Its input.
        prepared: How its pixels are prepared.
        chosen: The tensor that features are read from.
        half: Whether that tensor is float16.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    names = rename_own_names(graph)
    source = names.get(pixel.name, pixel.name)
    tensor = names.get(chosen.tensor, chosen.tensor)
    front, front_weights = _front(pixel, prepared, unused_prefix(graph), source)
    back, back_weights = _back(chosen, unused_prefix(graph), tensor, half=half)
    needed, weights = _needed(graph, tensor)

    weights = [*front_weights, *weights, *back_weights]
    nodes = [*front, *needed, *back]
    sparse = list(graph.sparse_initializer)
    side = prepared.side
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", chosen.width])]
    if chosen.kind != "pooled":
        outputs.append(
            helper.make_tensor_value_info(
                "feature_map", TensorProto.FLOAT, ["N", chosen.width, chosen.grid, chosen.grid]
            )
        )
    made = helper.make_graph(
        nodes, "backbone", [images], outputs, weights, sparse_initializer=sparse
    )
    opsets = [entry for entry in model.opset_import if entry.domain in onnx_files.STANDARD_DOMAINS]
    # Before IR version 4 every initialiser had to be an input too; ours are not.
    finished = helper.make_model(
        made, opset_imports=opsets, ir_version=max(model.ir_version, 4), producer_name="tailorbird"
    )
    # Inner shapes only help people who look at the file; the runtime infers its own.
    with contextlib.suppress(Exception):
        finished = onnx.shape_inference.infer_shapes(finished)
    return finished


def rename_own_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename tensors that have the names of the backbone's input and outputs.

    Returns:
        New names by old names.
    """
    taken = names_of(graph)
    renamed = {}
    for name in taken.intersection(_OWN_NAMES):
        new = f"published/{name}"
        while new in taken:
            new += "_"
        renamed[name] = new
    if renamed:
        rename(graph, renamed)
    return renamed


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors in the graph and in the graphs inside it; names that are not given stay."""
    for inner in onnx_files.all_graphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in [
            *inner.input,
            *inner.output,
            *inner.initializer,
            *(sparse.values for sparse in inner.sparse_initializer),
        ]:
            value.name = names.get(value.name, value.name)


def names_of(graph: onnx.GraphProto) -> set[str]:
    """Return every name of a tensor or node in the graph and in the graphs inside it."""
    found: set[str] = set()
    for inner in onnx_files.all_graphs(graph):
        found.update(value.name for value in [*inner.input, *inner.output, *inner.initializer])
        found.update(sparse.values.name for sparse in inner.sparse_initializer)
        for node in inner.node:
            found.update([node.name, *node.input, *node.output])
    return found


def unused_prefix(graph: onnx.GraphProto, word: str = "tailorbird") -> str:
    """Return a prefix for new names that no name in the graph starts with."""
    prefix = f"{word}/"
    while any(name.startswith(prefix) for name in names_of(graph)):
        prefix = f"{word}_{prefix}"
    return prefix


def _front(
    pixel: PixelInput, prepared: Preprocessing, prefix: str, target: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes from `images` uint8 (N, S, S, 3) RGB to the published network's input."""
    from onnx import TensorProto, helper, numpy_helper

    scale, offset = prepared.affine()
    layout = (3,) if pixel.channels_last else (3, 1, 1)
    weights = [
        numpy_helper.from_array(scale.reshape(layout), f"{prefix}scale"),
        numpy_helper.from_array(offset.reshape(layout), f"{prefix}offset"),
    ]
    nodes, last = [], "images"
    if prepared.bgr:
        weights.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), f"{prefix}bgr"))
        nodes.append(
            helper.make_node("Gather", [last, f"{prefix}bgr"], [f"{prefix}images_bgr"], axis=3)
        )
        last = f"{prefix}images_bgr"
    if not pixel.channels_last:
        # Transposed while a value is one byte, not four.
        nodes.append(
            helper.make_node("Transpose", [last], [f"{prefix}channels_first"], perm=[0, 3, 1, 2])
        )
        last = f"{prefix}channels_first"
    normalised = f"{prefix}normalised" if pixel.half else target
    nodes += [
        helper.make_node("Cast", [last], [f"{prefix}float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{prefix}float", f"{prefix}scale"], [f"{prefix}scaled"]),
        helper.make_node("Add", [f"{prefix}scaled", f"{prefix}offset"], [normalised]),
    ]
    if pixel.half:
        nodes.append(helper.make_node("Cast", [normalised], [target], to=TensorProto.FLOAT16))
    return nodes, weights


def _back(
    chosen: FeatureOutput, prefix: str, tensor: str, *, half: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes from a tensor to `features` and, unless it is pooled, `feature_map`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = tensor
    if half:
        nodes.append(
            helper.make_node("Cast", [last], [f"{prefix}float_features"], to=TensorProto.FLOAT)
        )
        last = f"{prefix}float_features"
    if chosen.kind == "pooled":
        return [*nodes, helper.make_node("Flatten", [last], ["features"], axis=1)], weights
    if chosen.kind == "tokens":
        for key, values in (
            ("first", [chosen.prefix]),
            ("end", [chosen.prefix + chosen.grid**2]),
            ("axis", [1]),
            (
                "shape",
                [0, chosen.width, chosen.grid, chosen.grid],
            ),  # 0: as many images as there are
        ):
            weights.append(numpy_helper.from_array(np.array(values, np.int64), f"{prefix}{key}"))
        nodes += [
            helper.make_node(
                "Slice",
                [last, f"{prefix}first", f"{prefix}end", f"{prefix}axis"],
                [f"{prefix}patches"],
            ),
            helper.make_node(
                "Transpose", [f"{prefix}patches"], [f"{prefix}patches_last"], perm=[0, 2, 1]
            ),
            helper.make_node(
                "Reshape", [f"{prefix}patches_last", f"{prefix}shape"], ["feature_map"]
            ),
        ]
    elif chosen.kind == "map channels last":
        nodes.append(helper.make_node("Transpose", [last], ["feature_map"], perm=[0, 3, 1, 2]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["feature_map"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["feature_map"], [f"{prefix}average"]),
        helper.make_node("Flatten", [f"{prefix}average"], ["features"], axis=1),
    ]
    return nodes, weights


def _needed(
    graph: onnx.GraphProto, tensor: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes that `tensor` depends on, in their order, and the weights they use."""
    wanted, nodes = {tensor}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
            # An inner graph may use any tensor of this one.
            for inner in onnx_files.inner_graphs(node):
                wanted.update(name for deeper in inner.node for name in deeper.input)
                wanted.update(value.name for value in inner.output)
    return nodes[::-1], [weight for weight in graph.initializer if weight.name in wanted]
