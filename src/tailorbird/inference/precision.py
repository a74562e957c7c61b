"""Change the arithmetic of a graph for a device: int8 to float32, float32 to float16."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files

if TYPE_CHECKING:
    import onnx


def prepared(content: bytes, *, int8: bool, half: bool) -> bytes:
    """Return a serialised graph in the arithmetic of a device.

    Args:
        content: The graph.
        int8: Whether a quantised graph may stay as it is.
        half: Whether to compute in float16.
    """
    model = onnx_of(content)
    if is_quantised(model) and (half or not int8):  # scales of int8 are float32
        model = in_float(model)
    result: bytes = (in_half(model) if half else model).SerializeToString()
    return result


def onnx_of(content: bytes) -> onnx.ModelProto:
    """Return a serialised graph as an object."""
    import onnx

    return onnx.load_from_string(content)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether a graph holds quantised weights or activations."""
    return any(node.op_type == "DequantizeLinear" for node in onnx_files.nodes(model.graph))


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantised graph that computes in float32, from the same weights.

    Weights become float32. Values between layers are no longer rounded to 8 bits, but keep to the
    range that 8 bits can hold: quantisation leaves out an activation function such as ReLU6 whose
    bounds are those of the range. Parts that are quantised in another way stay as they are.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantised = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        source = quantised.get(node.input[0])
        if node.input[0] in constants:
            weights = _dequantised(node, constants)
            graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        elif source is not None and constants[node.input[1]].size == 1:
            names = [f"{node.output[0]}/{side}" for side in ("lowest", "highest")]
            for name, value in zip(names, _range(node, constants), strict=True):
                graph.initializer.append(numpy_helper.from_array(value, name))
            inputs = [source.input[0], *names]
            nodes.append(onnx.helper.make_node("Clip", inputs, [node.output[0]]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(_needed(nodes, {output.name for output in graph.output}))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return result


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Leave out the QuantizeLinear nodes whose values nothing uses any more."""
    uses = Counter(name for node in nodes for name in node.input)
    return [
        node
        for node in nodes
        if node.op_type != "QuantizeLinear" or uses[node.output[0]] or node.output[0] in outputs
    ]


def _dequantised(
    node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.generic]]
) -> npt.NDArray[np.float32]:
    """Return (weights - zero point) x scale, for each channel of an axis or for all."""
    weights, scale, zero = _operands(node, constants)
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    if scale.size > 1:
        shape = [1] * weights.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), np.broadcast_to(zero, scale.shape).reshape(shape)
    return np.asarray((weights.astype(np.int64) - zero) * scale.astype(np.float64), np.float32)


def _range(
    node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.generic]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the smallest and largest value that a quantised tensor can hold, as scalars."""
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
    limits = np.iinfo(str(zero.dtype))
    scale = float(constants[node.input[1]].item())
    low, high = ((limit - int(zero.item())) * scale for limit in (limits.min, limits.max))
    return np.array(low, np.float32), np.array(high, np.float32)


def _operands(
    node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.generic]]
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros((), np.int64)
    return constants[node.input[0]], constants[node.input[1]], zero.astype(np.int64)


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float16; inputs and outputs keep their types.

    What a model computes behind its features stays in float32: it takes no time, and squares
    of features exceed the largest number of float16.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    front, behind = _divided(model)
    result: onnx.ModelProto = convert_float_to_float16(front, keep_io_types=True)
    own = {tensor.name for tensor in result.graph.initializer}
    new = {name: f"float32/{name}" for name in own & {name for n in behind for name in n.input}}
    for tensor in model.graph.initializer:
        if tensor.name in new:
            result.graph.initializer.append(tensor)
            result.graph.initializer[-1].name = new[tensor.name]
        elif tensor.name not in own:
            result.graph.initializer.append(tensor)
    for node in behind:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [new.get(name, name) for name in node.input]
        result.graph.node.append(copied)
    del result.graph.output[:]
    result.graph.output.extend(model.graph.output)
    del result.graph.value_info[:]
    return result


def _divided(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """Return the graph up to the features, and the nodes behind them."""
    import onnx

    wanted = {"features", "feature_map"}
    if not any(wanted & set(node.output) for node in model.graph.node):
        wanted = {output.name for output in model.graph.output}
    ahead: list[onnx.NodeProto] = []
    behind: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):  # sorted: what a node needs comes before it
        if wanted & set(node.output):
            inner = (one for graph in onnx_files.inner_graphs(node) for one in graph.node)
            wanted |= {name for one in (node, *inner) for name in one.input}
            ahead.insert(0, node)
        else:
            behind.insert(0, node)
    made = {name for node in ahead for name in node.output}
    outputs = {output.name for output in model.graph.output}
    used = made & (outputs | {name for node in behind for name in node.input})
    front = onnx.ModelProto()
    front.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    del front.graph.node[:], front.graph.output[:]
    front.graph.node.extend(ahead)
    front.graph.output.extend(types[name] for name in sorted(used))
    needed = {name for node in ahead for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del front.graph.initializer[:]
    front.graph.initializer.extend(kept)
    return front, behind
