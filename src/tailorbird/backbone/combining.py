"""Combine backbones in one graph: several side by side, and the mirrored view averaged in.

    images  uint8 (N, S, S, 3)
      |-> each backbone, behind a reduction to its own size   -> features side by side
      |-> mirrored left to right, through the same backbones  -> the average of both

The result satisfies the backbone's contract, so that heads, heat maps and model files need not know
about it. Feature maps are brought to the finest grid and stand side by side too; that of the
mirrored image is turned back before the average. Both keep features = mean of feature_map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import onnx_files
from tailorbird.backbone.assembly import names_of, rename, rename_own_names, unused_prefix
from tailorbird.backbone.contract import Backbone, BackboneInfo, random_images
from tailorbird.errors import BackboneError
from tailorbird.inference import Device, Runner, first_line
from tailorbird.inference.choosing import TOLERANCE
from tailorbird.onnx_files import NodeBuilder

if TYPE_CHECKING:
    import onnx

_REVISION = 1
"""Part of every derived hash; raised when the same files give other features."""


class _DerivedBackbone(Backbone):
    """A backbone whose graph is made from others'; opened when something is run on it."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        info: BackboneInfo,
        seconds_per_image: float,
        device: Device,
        parts: tuple[Backbone, ...] = (),
    ) -> None:
        self.path = info.path
        self.proto = proto
        self.info = info
        self.seconds_per_image = seconds_per_image
        self._device = device
        self._parts = parts

    @cached_property
    def runner(self) -> Runner:
        """The graph, opened on the device of the backbone that it is made from."""
        name = f"the graph of {self.info.name}"
        return Runner(self.proto, name, BackboneError, device=self._device)

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """The backbones whose features are side by side, for images of one size; often itself."""
        return self._parts or (self,)


def combine(backbones: Sequence[Backbone], *, mirror: bool) -> Backbone:
    """Return a backbone whose features are those of `backbones` side by side.

    Its images have the size of the largest input; the other backbones see them reduced. It has a
    feature map if all of them have one.

    Args:
        backbones: One or more opened backbones.
        mirror: Whether to average the features of each image with those of the mirrored one.

    Raises:
        BackboneError: One is given twice, or its graph cannot be joined with the others.
    """
    infos = [backbone.info for backbone in backbones]
    if len({info.sha256 for info in infos}) < len(infos):
        raise BackboneError(
            f"the backbones {', '.join(info.name for info in infos)} contain one network twice; "
            "give each once"
        )
    if len(backbones) == 1 and not mirror:
        return backbones[0]
    size = max(info.size for info in infos)
    _check_rules(infos, size)
    opset = max(onnx_files.standard_opset(backbone.proto) for backbone in backbones)
    parts = tuple(_part(backbone, size, opset) for backbone in backbones)
    proto, info = parts[0].proto, parts[0].info
    if len(parts) > 1:
        proto = joined([part.proto for part in parts])
        info = _joined_info(proto, [part.info for part in parts], infos)
    if mirror:
        proto, info = mirrored(proto), mirrored_info(_derived(info, "mirrored"))
    seconds = (1 + mirror) * sum(part.seconds_per_image for part in parts)
    return _DerivedBackbone(proto, info, seconds, backbones[0].runner.device, parts)


def _check_rules(infos: Sequence[BackboneInfo], size: int) -> None:
    """Raise BackboneError unless all backbones can see a photo that was resized once."""
    rules = {info.name: info.rule.at(size) for info in infos}
    if len(set(rules.values())) > 1:
        ways = "; ".join(f"{name}: {rule.sentence()}" for name, rule in rules.items())
        raise BackboneError(
            f"backbones that are joined see the same resized photo, but these differ ({ways}); "
            "pull them with the same --resize"
        )


def mirrored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph that averages the outputs of each image and of its mirror image.

    Both go through the network as one batch of 2 N images.

    Args:
        model: Input `images`, outputs `features` and perhaps `feature_map`, in any relation.
    """
    shapes = _shapes(model.graph)
    graph, names, front, back = _opened(model, "mirrored")
    turned = front.node("Gather", "images", _reversed(front, "pixels", shapes["images"][2]), axis=2)
    front.node("Concat", "images", turned, name=names["images"], axis=0)
    half = back.constant("half", np.float32(0.5))
    for name in shapes.keys() & {"features", "feature_map"}:
        pairs = back.constant(f"{name}_pairs", np.array([2, -1, *shapes[name][1:]], np.int64))
        both = back.node("Reshape", names[name], pairs)
        plain, other = (
            back.node("Gather", both, back.constant(f"{name}_{view}", np.int64(view)), axis=0)
            for view in (0, 1)
        )
        if name == "feature_map":
            other = back.node("Gather", other, _reversed(back, "cells", shapes[name][3]), axis=3)
        back.node("Mul", back.node("Add", plain, other), half, name=name)
    return _closed(model, graph, front, back)


def mirrored_info(info: BackboneInfo) -> BackboneInfo:
    """Return the facts of a mirrored graph, whose name says so wherever it is shown."""
    return replace(info, name=f"{info.name} + mirror", mirror=True)


def shrinking(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """Return the graph for images of a larger `size`, reduced to its own as the resize rule does.

    Pillow's BILINEAR is linear in the pixels, so that rows and columns are multiplied by a matrix
    and rounded. Pillow rounds between the two as well: values may differ by one.

    Args:
        model: A backbone's graph.
        size: Side of the new input in pixels.
    """
    from onnx import TensorProto

    own = _shapes(model.graph)["images"][1]
    graph, names, front, back = _opened(model, "shrinking")
    rows = front.constant("rows", _triangle_filter(size, own))
    columns = front.constant("columns", _triangle_filter(size, own).T.copy())
    planes = front.node("Transpose", "images", perm=[0, 3, 1, 2])
    planes = front.node("Cast", planes, to=TensorProto.FLOAT)
    planes = front.node("MatMul", front.node("MatMul", rows, planes), columns)
    pixels = front.node("Cast", front.node("Round", planes), to=TensorProto.UINT8)
    front.node("Transpose", pixels, name=names["images"], perm=[0, 2, 3, 1])
    for name in names.keys() - {"images"}:
        back.node("Identity", names[name], name=name)
    result = _closed(model, graph, front, back)
    for side in result.graph.input[0].type.tensor_type.shape.dim[1:3]:
        side.dim_value = size
    return result


def joined(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return the graph whose features are those of `models` side by side.

    Args:
        models: Graphs of backbones for images of one size, in one operator set.
    """
    from onnx import TensorProto, helper

    inner = [_prefixed(model.graph, f"joined/{i}/") for i, model in enumerate(models)]
    shapes = [_shapes(model.graph) for model in models]
    add = NodeBuilder("joined/")
    for i in range(len(models)):
        add.node("Identity", "images", name=f"joined/{i}/images")
    first = len(add.nodes)
    features = [f"joined/{i}/features" for i in range(len(models))]
    add.node("Concat", *features, name="features", axis=1)
    width = sum(shape["features"][1] for shape in shapes)
    outputs = {"features": [width]}
    if all("feature_map" in shape for shape in shapes):
        grid = [max(shape["feature_map"][axis] for shape in shapes) for axis in (2, 3)]
        maps = [
            _regridded(add, f"joined/{i}/feature_map", shape["feature_map"][2:], grid)
            for i, shape in enumerate(shapes)
        ]
        add.node("Concat", *maps, name="feature_map", axis=1)
        outputs["feature_map"] = [width, *grid]
    graph = helper.make_graph(
        [*add.nodes[:first], *(node for one in inner for node in one.node)],
        "backbone",
        list(models[0].graph.input),
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in outputs.items()
        ],
        [tensor for one in inner for tensor in one.initializer],
        sparse_initializer=[tensor for one in inner for tensor in one.sparse_initializer],
    )
    graph.node.extend(add.nodes[first:])
    graph.initializer.extend(add.constants)
    imports = {entry.domain: entry for model in models for entry in model.opset_import}
    return helper.make_model(
        graph,
        opset_imports=list(imports.values()),
        ir_version=max(model.ir_version for model in models),
        producer_name="tailorbird",
    )


def _prefixed(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """Return a copy in which every name starts with `prefix`."""
    import onnx

    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    # An empty name is an optional input that is not given.
    rename(copy, {name: prefix + name for name in names_of(copy) if name})
    for node in onnx_files.nodes(copy):
        node.name = node.name and prefix + node.name
    return copy


def _regridded(add: NodeBuilder, name: str, grid: list[int], finer: list[int]) -> str:
    """Append nodes that bring a feature map (N, K, h, w) to a finer grid; its mean is the same."""
    if grid == finer:
        return name
    rows = add.constant(f"rows{len(add.nodes)}", _overlaps(grid[0], finer[0]))
    columns = add.constant(f"columns{len(add.nodes)}", _overlaps(grid[1], finer[1]).T.copy())
    return add.node("MatMul", add.node("MatMul", rows, name), columns)


def _overlaps(cells: int, finer: int) -> npt.NDArray[np.float32]:
    """Return the share of each of `cells` equal intervals in each finer one, (finer, cells).

    Rows sum to 1 and columns to finer / cells, so that multiplying keeps the mean.
    """
    edges, bounds = np.arange(cells + 1) / cells, np.arange(finer + 1) / finer
    ends = np.minimum(bounds[1:, None], edges[None, 1:])
    starts = np.maximum(bounds[:-1, None], edges[None, :-1])
    shares: npt.NDArray[np.float32] = (np.maximum(ends - starts, 0) * finer).astype(np.float32)
    return shares


def _triangle_filter(size: int, smaller: int) -> npt.NDArray[np.float32]:
    """Return the matrix (smaller, size) by which Pillow's BILINEAR reduces columns of pixels."""
    unit = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.asarray(unit.resize((size, smaller), Image.Resampling.BILINEAR))


def _reversed(add: NodeBuilder, name: str, count: int) -> str:
    """Append the indices count - 1 to 0 as a constant."""
    return add.constant(name, np.arange(count, dtype=np.int64)[::-1].copy())


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Return the shapes of inputs and outputs by name; 0 for the batch."""
    return {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }


def _opened(
    model: onnx.ModelProto, word: str
) -> tuple[onnx.GraphProto, dict[str, str], NodeBuilder, NodeBuilder]:
    """Return a copy of the graph with other names for its input and outputs, the names by the old
    ones, and builders for the nodes in front of it and behind it.
    """
    import onnx

    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    prefix = unused_prefix(graph, word)
    names = rename_own_names(graph)
    return graph, names, NodeBuilder(f"{prefix}before/"), NodeBuilder(f"{prefix}behind/")


def _closed(
    model: onnx.ModelProto, graph: onnx.GraphProto, front: NodeBuilder, back: NodeBuilder
) -> onnx.ModelProto:
    """Return `model` with the nodes of `front`, `graph` and `back`, and its input and outputs."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = [*front.nodes, *graph.node, *back.nodes]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    del result.graph.initializer[:]
    result.graph.initializer.extend([*graph.initializer, *front.constants, *back.constants])
    # Shapes inside a graph only help people who look at it, and these are of another batch.
    del result.graph.value_info[:]
    return result


def _part(backbone: Backbone, size: int, opset: int) -> Backbone:
    """Return a backbone for images of this size and in this operator set. Raises BackboneError."""
    proto, info = backbone.proto, backbone.info
    if onnx_files.standard_opset(proto) != opset:
        proto = _converted(backbone, opset)
    if size != info.size:
        proto = shrinking(proto, size)
        info = replace(_derived(info, f"shrinking {size}"), rule=info.rule.at(size))
    if proto is backbone.proto:
        return backbone
    return _DerivedBackbone(proto, info, backbone.seconds_per_image, backbone.runner.device)


def _converted(backbone: Backbone, opset: int) -> onnx.ModelProto:
    """Return the graph in a newer operator set, checked to give the same features."""
    from onnx import version_converter

    try:
        proto = version_converter.convert_version(backbone.proto, opset)
    except Exception as problem:  # its exceptions share no base class
        raise BackboneError(
            f"{backbone.path} cannot be joined with a backbone of operator set {opset}: converting "
            f"it fails ({first_line(problem)}); export it again in that operator set"
        ) from None
    images = random_images(2, backbone.info.size)
    expected = backbone.features(images)
    runner = Runner(proto, str(backbone.path), BackboneError, device=backbone.runner.device)
    found = runner.run(images, ["features"])[0]
    gap = float(np.abs(found - expected).max())
    if not gap <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise BackboneError(
            f"{backbone.path} cannot be joined with a backbone of operator set {opset}: converted "
            f"to it, features differ by up to {gap:.3g}; export it again in that operator set"
        )
    return proto


def _derived(info: BackboneInfo, how: str) -> BackboneInfo:
    """Return the facts of a graph that is derived from another, with a hash of its own."""
    text = f"{how} {_REVISION} {info.sha256}"
    return replace(info, sha256=hashlib.sha256(text.encode()).hexdigest())


def _joined_info(
    proto: onnx.ModelProto, parts: Sequence[BackboneInfo], given: Sequence[BackboneInfo]
) -> BackboneInfo:
    """Return the facts of a joined graph.

    Args:
        proto: The graph.
        parts: The backbones in it.
        given: The backbones as their files are.
    """
    grid = _shapes(proto.graph).get("feature_map", [])[2:]

    def together(name: str) -> str:
        return "; ".join(dict.fromkeys(str(getattr(info, name)) for info in given))

    return BackboneInfo(
        name=",".join(info.name for info in given),
        path=given[0].path,
        sha256=_derived(parts[0], " ".join(info.sha256 for info in parts[1:])).sha256,
        file_bytes=sum(info.file_bytes for info in given),
        rule=parts[0].rule,
        width=sum(info.width for info in given),
        grid=(grid[0], grid[1]) if grid else None,
        licence=together("licence"),
        source=together("source"),
        trained_on=together("trained_on"),
        pooling=together("pooling"),
        parts=tuple(given),
    )
