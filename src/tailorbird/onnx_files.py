"""ONNX files as untrusted input: audit them as data before anything is constructed from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.errors import InputError

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2_000_000_000
"""The largest file that is opened; protobuf itself ends at 2 GiB."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def read_audited(path: str | Path, error: type[InputError]) -> onnx.ModelProto:
    """Read an ONNX file and refuse what could reach outside it; no operator runs here.

    Refused, as `error`: no such file, larger than MOST_BYTES, not ONNX or truncated, weights in other files, operators outside
    the standard domains, loops, functions defined by the file itself.
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
    """`read_audited` for bytes already in memory; `name` stands in the messages."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise error(
            f"{name} is not an ONNX file, or it is truncated; copy or download it again"
        ) from None
    if not model.graph.node or not model.graph.output:
        raise error(
            f"{name} is not an ONNX file, or it is truncated: it holds no graph; copy or download it again"
        )
    outside = next((tensor.name for tensor in tensors(model) if is_external(tensor)), None)
    if outside is not None:
        raise error(
            f"{name} keeps weights in another file (tensor {outside!r}); only files complete in themselves are opened"
        )
    strange = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in nodes(model.graph)
            if node.domain not in STANDARD_DOMAINS
        }
    )
    if strange:
        raise error(
            f"{name} uses operators outside the ONNX standard: {', '.join(strange[:5])}; only standard operators are run"
        )
    loops = sorted(
        {node.op_type for node in nodes(model.graph) if node.op_type in ("Loop", "Scan")}
    )
    if loops:
        raise error(
            f"{name} contains {' and '.join(loops)}, which can run without end; only graphs without loops are run"
        )
    if model.functions:
        raise error(
            f"{name} defines functions of its own ({model.functions[0].name!r}); only standard operators are run"
        )
    return model


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs inside its nodes (branches and loop bodies), at any depth."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside one node, at any depth."""
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from all_graphs(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph, those of inner graphs too."""
    for inner in all_graphs(graph):
        yield from inner.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: weights, and constants in nodes, dense and sparse; in inner graphs and in functions too."""
    found = list(nodes(model.graph))
    for function in model.functions:
        for node in function.node:
            found.append(node)
            found.extend(deeper for inner in inner_graphs(node) for deeper in inner.node)
    for inner in all_graphs(model.graph):
        yield from inner.initializer
        for sparse in inner.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in found:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse_values = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in [*sparse_values, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's values lie in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The file's metadata entries."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, values: dict[str, str]) -> None:
    """Replace the file's metadata entries."""
    del model.metadata_props[:]
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set the graph is written in; 0 when it names none."""
    return max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        default=0,
    )


def describe(values: Any) -> str:
    """Inputs or outputs of a graph in words: name, element type and shape."""
    import onnx

    words = []
    for value in values:
        kind = value.type.tensor_type
        shape = ", ".join(
            str(dimension.dim_param or dimension.dim_value) for dimension in kind.shape.dim
        )
        words.append(
            f"{value.name} {onnx.TensorProto.DataType.Name(kind.elem_type).lower()} ({shape})"
        )
    return "; ".join(words) or "none"
