"""ONNX files as untrusted input: audit them as data before anything is constructed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import InputError

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2_000_000_000
"""The largest file that is opened; protobuf itself ends at 2 GiB."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Domains of the operators that are run."""


def read_audited(path: str | Path, error: type[InputError]) -> onnx.ModelProto:
    """Read an ONNX file and refuse unsafe content, without running any operator.

    Args:
        path: The file.
        error: The exception to raise.

    Raises:
        InputError: As `error`: the file does not exist, is larger than MOST_BYTES, is not ONNX or
            is truncated, keeps weights in other files, or has operators outside the standard
            domains, loops, or functions of its own.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise error(f"{path} is {size:,} bytes; at most {MOST_BYTES:,} are opened")
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder; give the .onnx file itself") from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from None
    return parse_audited(data, str(path), error)


def parse_audited(data: bytes, name: str, error: type[InputError]) -> onnx.ModelProto:
    """Audit the content of an ONNX file as `read_audited` does; `name` stands in the messages."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise error(
            f"{name} is not an ONNX file, or it is truncated; copy or download it again"
        ) from None
    problem = _problem(model)
    if problem:
        raise error(f"{name} {problem}")
    return model


def _problem(model: onnx.ModelProto) -> str | None:
    """Return why a graph must not be opened, or None."""
    if not model.graph.node or not model.graph.output:
        return (
            "is not an ONNX file, or it is truncated: it holds no graph; copy or download it again"
        )
    outside = next((tensor.name for tensor in tensors(model) if is_external(tensor)), None)
    if outside is not None:
        return (
            f"keeps weights in another file (tensor {outside!r}); "
            "only files complete in themselves are opened"
        )
    unknown = {
        f"{node.domain}::{node.op_type}"
        for node in nodes(model.graph)
        if node.domain not in STANDARD_DOMAINS
    }
    if unknown:
        return (
            f"uses operators outside the ONNX standard: {', '.join(sorted(unknown)[:5])}; "
            "only standard operators are run"
        )
    loops = {node.op_type for node in nodes(model.graph)} & {"Loop", "Scan"}
    if loops:
        return (
            f"contains {' and '.join(sorted(loops))}, which can run without end; "
            "only graphs without loops are run"
        )
    if model.functions:
        return (
            f"defines functions of its own ({model.functions[0].name!r}); "
            "only standard operators are run"
        )
    return None


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs inside its nodes (branches, loop bodies), at any depth."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside one node, at any depth."""
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from all_graphs(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph, including those of inner graphs."""
    for inner in all_graphs(graph):
        yield from inner.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor: weights and constants, dense and sparse, of all graphs and functions."""
    found = list(nodes(model.graph))
    for function in model.functions:
        for node in function.node:
            found.append(node)
            found.extend(deeper for inner in inner_graphs(node) for deeper in inner.node)
    for inner in all_graphs(model.graph):
        yield from inner.initializer
        yield from _parts(inner.sparse_initializer)
    for node in found:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from _parts([attribute.sparse_tensor])
            yield from _parts(attribute.sparse_tensors)


def _parts(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove the nodes and weights that no output of the graph depends on."""
    wanted = {output.name for output in model.graph.output}
    used: set[str] = set()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            used.update(filter(None, node.output))
            wanted.update(node.input)
            for graph in inner_graphs(node):  # an inner graph may use any tensor of this one
                wanted.update(name for inner in graph.node for name in inner.input)
                wanted.update(output.name for output in graph.output)
    keep_nodes(model, lambda node: bool(used.intersection(node.output)))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def keep_nodes(model: onnx.ModelProto, wanted: Callable[[onnx.NodeProto], bool]) -> None:
    """Remove the other nodes of a graph."""
    nodes_kept = [node for node in model.graph.node if wanted(node)]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes_kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor's values lie in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def nan_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of the weights that hold NaN.

    Running the graph may not show them: ReLU is max(x, 0), and some processors return 0 for
    max(NaN, 0). Infinity is not damage: exported attention masks contain it.
    """
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in floats and np.isnan(numpy_helper.to_array(tensor)).any()
    ]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the file's metadata entries."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, values: dict[str, str]) -> None:
    """Replace the file's metadata entries."""
    del model.metadata_props[:]
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def standard_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that the graph uses; 0 if it names none."""
    versions = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return max(versions, default=0)


class NodeBuilder:
    """Collect nodes and constants whose names start with a prefix that no other name has."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """Append a constant and return its full name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), self.prefix + name))
        return self.prefix + name

    def node(
        self,
        operator: str,
        *inputs: str,
        outputs: int = 1,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node and return the name of its last output, `name` if that is given."""
        from onnx import helper

        names = [f"{self.prefix}{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        if name:
            names[-1] = name
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[-1]


def describe(values: Iterable[onnx.ValueInfoProto]) -> str:
    """Describe inputs or outputs of a graph: name, element type and shape of each."""
    import onnx

    described = []
    for value in values:
        kind = value.type.tensor_type
        shape = ", ".join(str(side.dim_param or side.dim_value) for side in kind.shape.dim)
        element = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        described.append(f"{value.name} {element} ({shape})")
    return "; ".join(described) or "none"
