"""Quantise a backbone to int8: simplify its graph, measure ranges on photos, insert QDQ nodes.

ONNX Runtime's own quantiser inserts the nodes. Around it this module

- folds what is constant, including sizes that exporters compute in the graph, and merges batch
  normalisation into convolutions, because only a convolution on its own becomes an integer one;
- measures the ranges with `Runner`, photo by photo on all cores and in bounded memory. The
  quantiser's own calibration runs sessions of its own, writes temporary files, and keeps either
  only the extremes or all activations;
- corrects biases for the rounding of the weights;
- leaves pooling in float32, so that `features` remain the mean of `feature_map`;
- restores what the quantiser loses or adds: the metadata, and imports of operator sets that no
  node uses.

Weights are symmetric, per channel, and limited to 7 bits (-64 to 64), activations are uint8.
Processors without VNNI add pairs of products in 16 bits with saturation: 2 x 255 x 64 = 32,640 fits
into 32,767, while 8 bits, 2 x 255 x 127, do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.errors import BackboneError
from tailorbird.inference import CPU, Runner, simplified
from tailorbird.inference.precision import is_quantised

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")

LARGEST_WEIGHT = 64
"""Largest absolute value of a quantised weight."""

RANGE_SHARE = 0.9
"""Share of the photos whose largest value of a tensor is inside its range; the same for the least.
"""

PREFIX = "tailorbird_quantization/"
"""Prefix of the names that are added to measure."""

LEAST_OPSET = 13
"""Earliest operator set with one scale per channel."""

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators whose weights are quantised."""

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Operators that become part of the convolution in front of them."""

BETWEEN = frozenset({"Add", "MaxPool", "Pad", "Concat"})
"""Operators that also run on 8-bit activations, so that values stay 8-bit between convolutions."""


def quantise(
    model: onnx.ModelProto,
    photos: Iterable[T],
    load: Callable[[T], npt.NDArray[np.uint8]],
    name: str = "the backbone",
    *,
    weight_bits: Literal[7, 8] = 7,
    progress: Callable[[int], None] | None = None,
) -> onnx.ModelProto:
    """Return a backbone with int8 weights and 8-bit activations, and with its metadata.

    Args:
        model: An audited float backbone: input `images` uint8 (N, S, S, 3); outputs `features` and
            perhaps `feature_map`. It is not changed.
        photos: What the ranges are measured on; read as needed.
        load: Returns a photo's pixels, uint8 (S, S, 3); called from several threads.
        name: What messages call the backbone.
        weight_bits: 7; with 8, processors without VNNI give other features.
        progress: Called with the number of photos that are done.

    Raises:
        BackboneError: The graph is quantised already, has nothing to quantise, cannot be run, or
            gives values that are not finite; or there are no photos.
    """
    if is_quantised(model):
        raise BackboneError(f"{name} is quantised already; give the float32 file it was made from")
    graph = _prepared(model, name)
    chosen = _nodes_to_quantise(graph)
    if not any(node.op_type in WEIGHTED for node in chosen):
        raise BackboneError(
            f"{name} has no convolution or matrix product with constant weights; nothing in it "
            "can be quantised"
        )
    measured = _measure(graph, chosen, photos, load, name, progress)
    _correct_biases(graph, measured.means, LARGEST_WEIGHT if weight_bits == 7 else 127)
    quantised = _inserted(graph, chosen, measured.ranges, reduced=weight_bits == 7)
    return _mended(quantised, model)


def _prepared(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the simplified float graph; every node has a name."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # an exporter's notes may contradict the folded graph
    if onnx_files.standard_opset(result) < LEAST_OPSET:
        result = onnx.version_converter.convert_version(result, LEAST_OPSET)
    result = simplified(result, name, BackboneError)
    # The second pass also folds the conversions of float16 weights that the first one inserts.
    result = simplified(_with_constants(result, _constant_sizes(result, name)), name, BackboneError)
    onnx_files.remove_unused(result)
    for number, node in enumerate(result.graph.node):
        node.name = f"{PREFIX}{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(result)


def _constant_sizes(model: onnx.ModelProto, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors computed from shapes alone that do not depend on the number of images.

    Exporters compute paddings and shapes from the shape of the input. Runs of two and of three
    images show which values depend on their number.
    """
    import onnx
    from onnx import helper

    constant = {tensor.name for tensor in model.graph.initializer}
    found: list[str] = []
    for node in model.graph.node:
        inputs = {name for name in node.input if name}
        from_sizes = inputs - constant
        if node.op_type == "Shape" or (from_sizes and from_sizes <= set(found)):
            found += [output for output in node.output if output]
    if not found:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(output) for output in found)
    runner = Runner(probe, name, BackboneError)
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    two, three = (
        runner.run_batch(np.zeros((count, side, side, 3), np.uint8), found) for count in (2, 3)
    )
    return {
        output: value
        for output, value, other in zip(found, two, three, strict=True)
        if np.array_equal(value, other)
    }


def _with_constants(
    model: onnx.ModelProto, values: Mapping[str, npt.NDArray[Any]]
) -> onnx.ModelProto:
    """Return a graph in which these tensors are constants."""
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    onnx_files.keep_nodes(result, lambda node: not set(filter(None, node.output)) <= values.keys())
    made = {output for node in result.graph.node for output in node.output}
    result.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items() if name not in made
    )
    return result


def _nodes_to_quantise(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that become integer ones.

    Those behind the last convolution or matrix product (pooling) stay in float32, except an
    activation right behind it. So do the first layers (`_first_layers`).
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    graph_nodes = list(model.graph.node)
    weighted = {node.name for node in graph_nodes if _is_weighted(node, weights)}
    first = _first_layers(graph_nodes, weighted)
    weighted -= first
    leads_on: set[str] = set()  # tensors on which the input of a weighted node depends
    for node in reversed(graph_nodes):
        if node.name in weighted or leads_on.intersection(node.output):
            leads_on.update(node.input)
    maker = {output: node for node in graph_nodes for output in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph_nodes:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    chosen = []
    for node in graph_nodes:
        if readers.get(node.output[0], {""}) <= first:
            continue
        inputs = [name for name in node.input if name and name not in weights]
        before = leads_on.intersection(node.output)
        behind = node.op_type in ACTIVATIONS and all(
            name in maker and maker[name].name in weighted for name in inputs
        )
        between = node.op_type in BETWEEN and (node.op_type != "Add" or len(inputs) == 2)
        if node.name in weighted or behind or (before and (between or node.op_type in ACTIVATIONS)):
            chosen.append(node)
    floats = _float_tensors(model)  # shapes that depend on the batch are computed in int64
    return [
        node for node in chosen if {*node.input, *node.output} - {""} <= floats | weights.keys()
    ]


def _first_layers(nodes: Sequence[onnx.NodeProto], weighted: Collection[str]) -> set[str]:
    """Return the names of the convolutions that read pixels, and of depthwise ones behind them.

    Their few channels have very different ranges, and an error there reaches all layers behind: in
    EfficientNet-Lite2 the output of the first convolution as 8 bits costs more than all other
    activations together (tools/lite/README.md). They are a small part of the time. If there are no
    other nodes, these are quantised after all.
    """
    first: set[str] = set()
    behind: dict[str, set[str]] = {}  # by tensor: the nearest weighted nodes that it depends on
    for node in nodes:
        sources = set().union(*(behind.get(name, set()) for name in node.input))
        if node.name in weighted:
            groups = next((item.i for item in node.attribute if item.name == "group"), 1)
            if node.op_type == "Conv" and (not sources or (groups > 1 and sources <= first)):
                first.add(node.name)
            sources = {node.name}
        behind.update(dict.fromkeys(node.output, sources))
    return set() if first >= set(weighted) else first


def _is_weighted(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether a node is a convolution or matrix product whose weights can be quantised."""
    if node.op_type not in WEIGHTED or node.input[1] not in weights:
        return False
    if node.op_type == "Gemm":
        set_to = {attribute.name: attribute for attribute in node.attribute}
        plain = all(name not in set_to or set_to[name].f == 1 for name in ("alpha", "beta"))
        return plain and ("transA" not in set_to or set_to["transA"].i == 0)
    return node.op_type == "Conv" or len(weights[node.input[1]].dims) == 2


@dataclass(frozen=True)
class _Measured:
    """What was measured on the photos.

    ranges: by tensor, the lowest and highest value. means: by weighted node, the mean of each
    channel of its input, (K,).
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, npt.NDArray[np.float64]]


def _measure(
    model: onnx.ModelProto,
    chosen: Sequence[onnx.NodeProto],
    photos: Iterable[T],
    load: Callable[[T], npt.NDArray[np.uint8]],
    name: str,
    progress: Callable[[int], None] | None,
) -> _Measured:
    """Run the float graph on the photos.

    The range of a tensor is the one that RANGE_SHARE of the photos stay below, and as many above:
    the extremes over all photos are outliers that cost the others precision.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    names = {name for node in chosen for name in (*node.input, *node.output)} - weights
    floats = sorted(names & _float_tensors(model))
    weighted = [node for node in chosen if node.op_type in WEIGHTED]
    # One photo per run: some networks fold the images into another axis.
    runner = Runner(
        _with_statistics(model, floats, weighted), name, BackboneError, device=replace(CPU, batch=1)
    )
    lowest, highest = [], []
    means: dict[str, npt.NDArray[np.float64]] = {node.name: np.zeros(()) for node in weighted}
    for _, row in runner.map(photos, lambda photo: (None, load(photo)), runner.outputs):
        assert row is not None
        values = [np.ravel(value) for value in row]
        lowest.append([float(value[0]) for value in values[: len(floats)]])
        highest.append([float(value[0]) for value in values[len(floats) : 2 * len(floats)]])
        for node, value in zip(weighted, values[2 * len(floats) :], strict=True):
            means[node.name] = means[node.name] + value.astype(np.float64)
        if progress is not None:
            progress(len(lowest))
    if not lowest:
        raise BackboneError("there is no photo to measure the ranges of activations on")
    least = np.quantile(lowest, 1 - RANGE_SHARE, axis=0)
    most = np.quantile(highest, RANGE_SHARE, axis=0)
    if "features" in floats:  # the last layer's own output: nothing behind it evens out a clip
        place = floats.index("features")
        least[place], most[place] = np.min(lowest, axis=0)[place], np.max(highest, axis=0)[place]
    if not (np.isfinite(least).all() and np.isfinite(most).all()):
        raise BackboneError(f"{name} gives activations that are NaN or infinite on these photos")
    ranges = {
        tensor: (float(low), float(high))
        for tensor, low, high in zip(floats, least, most, strict=True)
    }
    return _Measured(ranges, {node: total / len(lowest) for node, total in means.items()})


def _with_statistics(
    model: onnx.ModelProto, floats: Sequence[str], weighted: Sequence[onnx.NodeProto]
) -> onnx.ModelProto:
    """Return a graph whose outputs are each tensor's minimum and maximum, and the channel means."""
    import onnx
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    added: list[onnx.NodeProto] = []
    outputs = []
    for operator in ("ReduceMin", "ReduceMax"):
        for number, tensor in enumerate(floats):
            outputs.append(f"{PREFIX}{operator}/{number}")
            added.append(helper.make_node(operator, [tensor], outputs[-1:], keepdims=1))
    flat, row = f"{PREFIX}flat", f"{PREFIX}row"
    probe.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, -1]), flat))
    probe.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), row))
    for node in weighted:
        source = node.input[0]
        perm = [1, 0, *range(2, len(weights[node.input[1]].dims))]  # channels first
        if node.op_type != "Conv":  # (..., K) to (positions, K)
            added.append(helper.make_node("Flatten", [source], [f"{node.name}/rows"], axis=-1))
            source, perm = f"{node.name}/rows", [1, 0]
        turned, maps, mean = (f"{node.name}/{step}" for step in ("turned", "maps", "mean"))
        outputs.append(f"{node.name}/means")
        added += [
            helper.make_node("Transpose", [source], [turned], perm=perm),
            helper.make_node("Reshape", [turned, flat], [maps]),
            helper.make_node("GlobalAveragePool", [maps], [mean]),
            helper.make_node("Reshape", [mean, row], outputs[-1:]),
        ]
    probe.graph.node.extend(added)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    return probe


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float32 tensors whose type is known."""
    import onnx

    known = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {
        value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Return the constants of a graph by name."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a weighted node's weights along which its output channels run."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _correct_biases(
    model: onnx.ModelProto, means: Mapping[str, npt.NDArray[np.float64]], largest: int
) -> None:
    """Subtract from each bias what rounding the weights adds to the output on average.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
    2019, section 4.2: with weights W + e instead of W, the mean of an output moves by e E[x]. With
    weights of 7 bits this is most of the loss: the features of MobileNetV2 have a cosine of .91
    with those in float32 before the correction, and .99 after it.
    """
    from onnx import numpy_helper

    weights = _weights(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in [node for node in model.graph.node if node.name in means]:
        found = _bias_of(node, readers, weights)
        if found is None:
            continue
        holder, place = found
        shift = _shift(node, weights[node.input[1]], means[node.name], largest)
        bias = weights[holder.input[place]] if place < len(holder.input) else 0
        corrected = numpy_helper.from_array(
            np.asarray(bias - shift, np.float32), f"{node.name}/bias"
        )
        model.graph.initializer.append(corrected)
        del holder.input[place:]  # the bias is the last input, if there is one
        holder.input.append(corrected.name)


def _bias_of(
    node: onnx.NodeProto,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    weights: Mapping[str, npt.NDArray[Any]],
) -> tuple[onnx.NodeProto, int] | None:
    """Return which input of which node is the bias of a weighted node; None if there is none.

    A convolution without bias gets one; a matrix product has one if a constant is added to it.
    """
    if node.op_type != "MatMul":
        constant = len(node.input) < 3 or node.input[2] in weights
        return (node, 2) if constant else None
    following = readers.get(node.output[0], [])
    if len(following) != 1 or following[0].op_type != "Add":
        return None
    (add,) = following
    place = 1 if add.input[0] == node.output[0] else 0
    bias = weights.get(add.input[place])
    if bias is None or bias.ndim != 1:
        return None
    if place == 0:  # the order of a sum is free; the bias comes last
        add.input[0], add.input[1] = add.input[1], add.input[0]
    return add, 1


def _shift(
    node: onnx.NodeProto,
    weight: npt.NDArray[Any],
    mean: npt.NDArray[np.float64],
    largest: int,
) -> npt.NDArray[np.float64]:
    """Return how far rounding the weights moves the mean of each output channel, (O,).

    weight: of a convolution (O, I / groups, ...), of a matrix product (I, O) or (O, I). mean: of
    each input channel, (I,).
    """
    rows = np.moveaxis(weight.astype(np.float64), _output_axis(node), 0)
    flat = rows.reshape(len(rows), -1)
    # As the quantiser rounds: symmetric, the largest weight of a channel becomes `largest`.
    scale = np.maximum(np.abs(flat).max(axis=1, keepdims=True), 1e-30) / largest
    error = (np.rint(flat / scale) * scale - flat).reshape(len(rows), rows.shape[1], -1).sum(axis=2)
    groups = len(mean) // error.shape[1]
    by_group = error.reshape(groups, -1, error.shape[1])
    moved: npt.NDArray[np.float64] = np.einsum(
        "goi,gi->go", by_group, mean.reshape(groups, -1)
    ).ravel()
    return moved


def _inserted(
    model: onnx.ModelProto,
    chosen: Sequence[onnx.NodeProto],
    ranges: Mapping[str, tuple[float, float]],
    *,
    reduced: bool,
) -> onnx.ModelProto:
    """Return the graph with QuantizeLinear and DequantizeLinear nodes around the chosen nodes."""
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    measured = {
        tensor: (np.array(low, np.float32), np.array(high, np.float32))
        for tensor, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        reduced,  # weights of 7 bits
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, measured),
        [node.name for node in chosen],
        [],
        sorted({node.op_type for node in chosen}),
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # it appends its nodes at the end
    result: onnx.ModelProto = quantizer.model.model
    return result


def _mended(quantised: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return the quantised graph with the original's metadata and only the imports it uses."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    used = {node.domain for node in onnx_files.nodes(result.graph)}
    imports = [entry for entry in result.opset_import if entry.domain in used]
    kept = [(entry.domain, entry.version) for entry in imports]
    del result.opset_import[:]
    result.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in kept)
    del result.graph.value_info[:]
    del result.metadata_props[:]
    result.metadata_props.extend(original.metadata_props)
    for mine, theirs in ((result.graph.output, original.graph.output),):
        del mine[:]
        mine.extend(theirs)
    del result.graph.input[:]
    result.graph.input.extend(original.graph.input)
    result.ir_version = max(8, original.ir_version)
    result.producer_name, result.graph.name = "tailorbird", original.graph.name
    onnx.checker.check_model(result, full_check=True)
    return result
