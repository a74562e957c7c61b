"""Convert a Keras network, or a part of it, to an ONNX graph from uint8 images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tailorbird.engines.finite import listed, non_finite_weights
from tailorbird.engines.graphs import Graph, Node, Tensor, needed
from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter import layers, operations
from tailorbird.engines.keras.converter.graph import flatten
from tailorbird.engines.keras.converter.writer import IR_VERSION, OPSET, Value, Writer
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.errors import BackboneError, SettingsError

if TYPE_CHECKING:
    import onnx

_ONLY_TRAINING = {
    "BatchNormalization",
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
}


@dataclass(frozen=True)
class Output:
    """A tensor that becomes an output of the ONNX graph.

    Attributes:
        tensor: key of the tensor in the Graph.
        layout: `keras` for Keras' order of axes, `channels_first` for images as (N, C, h, w).
    """

    tensor: str
    layout: Literal["keras", "channels_first"] = "keras"


def convert(
    network: Any,
    outputs: Mapping[str, Output],
    *,
    preprocess: str,
    size: int,
    weights: Sequence[Any] | None = None,
) -> onnx.ModelProto:
    """Return the part of a Keras network from images to some tensors as an ONNX model.

    The result has the input `images` uint8 (N, S, S, 3) RGB, float32 outputs, only standard ONNX
    operators and no metadata. Layers are in inference mode.

    Args:
        network: a functional or Sequential model with one image input, or its Graph.
        outputs: by output name.
        preprocess: a key of PREPROCESS.
        size: S in pixels.
        weights: variables whose positions number the initialisers `keras/NNNN/PATH`; by default
            the model's `weights`.

    Raises BackboneError, which names the layer, for one that is not supported or does not fit the
    size, and for NaN or infinity in weights; SettingsError for an unknown preprocess.
    """
    from onnx import TensorProto, helper

    if preprocess not in PREPROCESS:
        raise SettingsError(f"preprocess = {preprocess!r}; choose one of {', '.join(PREPROCESS)}")
    graph = network if isinstance(network, Graph) else flatten(network)
    if weights is None:
        weights = [] if isinstance(network, Graph) else network.weights
    writer = Writer(weights)
    values = {graph.inputs[0].key: _front(writer, graph, preprocess, size)}
    for node in needed(graph.nodes, [output.tensor for output in outputs.values()]):
        writer.path = node.path
        results = _translate(writer, node, values)
        values.update(zip((tensor.key for tensor in node.outputs), results, strict=True))
    described = [
        writer.finish(name, values[output.tensor], output.layout)
        for name, output in outputs.items()
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
    nodes, initialisers = writer.used(list(outputs))
    made = helper.make_model(
        helper.make_graph(nodes, "keras", [images], described, initialisers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tailorbird",
    )
    damaged = non_finite_weights(made)
    if damaged:
        raise BackboneError(
            f"the network holds NaN or infinity in {listed(damaged)}: its weights are damaged"
        )
    return made


def _front(writer: Writer, graph: Graph, preprocess: str, size: int) -> Value:
    """Write the nodes from `images` to the network's input. Raises BackboneError if not RGB."""
    from onnx import TensorProto

    shape: tuple[int | None, ...] = graph.inputs[0].shape
    first = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
    sides = list(shape[2:] if first else shape[1:3]) if len(shape) == 4 else []
    if len(graph.inputs) != 1 or len(shape) != 4 or not (first or shape[3] == 3):
        given = "; ".join(str(tensor.shape) for tensor in graph.inputs)
        raise BackboneError(
            f"the network's input has shape {given}; only networks with one input of RGB images, "
            "(N, S, S, 3), can be converted"
        )
    if any(side not in (None, size) for side in sides):
        raise BackboneError(
            f"the network is built for images of {sides[0]} x {sides[1]} pixels, not {size} x "
            f"{size}; give that size"
        )
    scale, offset, bgr = PREPROCESS[preprocess]
    writer.path, last = "images", "images"
    # Reordered while a value is one byte, not four.
    if bgr:
        last = writer.add("Gather", [last, writer.constant([2, 1, 0], np.int64)], axis=3)
    last = writer.add("Transpose", [last], perm=[0, 3, 1, 2])
    last = writer.add("Cast", [last], to=TensorProto.FLOAT)
    if any(factor != 1 for factor in scale):
        last = writer.add("Mul", [last, writer.constant(np.reshape(scale, (3, 1, 1)))])
    if any(offset):
        last = writer.add("Add", [last, writer.constant(np.reshape(offset, (3, 1, 1)))])
    return Value(last, (None, 3, size, size) if first else (None, size, size, 3), not first)


def _translate(writer: Writer, node: Node, values: Mapping[str, Value]) -> list[Value]:
    """Write one node of the Keras graph; return its outputs. Raises BackboneError."""
    keras = backend.load()
    operation = node.operation
    if node.kwargs.get("training") and node.kind in _ONLY_TRAINING:
        raise BackboneError(
            f"{node.path} ({node.kind}) is called with training=True; build the model without it"
        )
    shapes = _shapes(node, values)
    if len(shapes) != 1:
        raise BackboneError(
            f"{node.path} ({node.kind}) has {len(shapes)} outputs; only layers with one are "
            "supported"
        )
    if isinstance(operation, keras.layers.Layer):
        inputs = [values[tensor.key] for tensor in node.inputs]
        name, moved = layers.layer(writer, operation, inputs, shapes[0])
    else:

        def value(argument: Any) -> Any:
            return values[argument.key] if isinstance(argument, Tensor) else argument

        args = keras.tree.map_structure(value, node.args)
        kwargs = keras.tree.map_structure(value, node.kwargs)
        name, moved = operations.operation(writer, operation, args, kwargs, shapes[0])
    return [Value(name, shapes[0], moved)]


def _shapes(node: Node, values: Mapping[str, Value]) -> list[tuple[int | None, ...]]:
    """Return the shapes of a node's outputs for the actual shapes of its inputs."""
    if all(values[tensor.key].shape == tensor.shape for tensor in node.inputs):
        noted = [tensor.shape for tensor in node.outputs]
        if all(None not in shape[1:] for shape in noted):
            return noted
    keras = backend.load()

    def symbolic(argument: Any) -> Any:
        return (
            keras.KerasTensor(values[argument.key].shape, argument.dtype)
            if isinstance(argument, Tensor)
            else argument
        )

    args = keras.tree.map_structure(symbolic, node.args)
    kwargs = {
        key: keras.tree.map_structure(symbolic, value)
        for key, value in node.kwargs.items()
        if key != "mask"
    }
    try:
        specs = node.operation.compute_output_spec(*args, **kwargs)
    except Exception as problem:  # each layer refuses shapes in its own way
        given = ", ".join(str(values[tensor.key].shape) for tensor in node.inputs)
        first = (
            str(problem).strip().splitlines()[0][:200]
            if str(problem).strip()
            else type(problem).__name__
        )
        raise BackboneError(
            f"{node.path} ({node.kind}) does not fit an input of shape {given}: {first}"
        ) from None
    found = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    for shape in found:
        if None in shape[1:]:
            raise BackboneError(
                f"{node.path} ({node.kind}) has the open shape {shape}; only the number of images "
                "may be open"
            )
    return found
