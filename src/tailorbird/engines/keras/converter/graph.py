"""Take Keras models apart into graphs of plain data, and call parts of them again.

`keras.Model(inner_tensor, output)` refuses graphs in which an operation is called twice or a nested
model is crossed (MobileNetV2 is one), and layers must stay the same objects because they hold the
weights. So a part of a network is called again node by node (`replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tailorbird.engines.graphs import Graph, Node, Tensor, needed
from tailorbird.engines.keras import backend
from tailorbird.errors import BackboneError

Call = Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]
"""How `replay` calls a node: (node, arguments, keyword arguments) -> its outputs."""


def flatten(model: Any) -> Graph:
    """Return the graph of a functional or Sequential model, nested models taken apart.

    A layer that is called twice makes two nodes. Raises BackboneError, which names it, for a model
    or nested model whose graph exists only as Python code (a subclass).
    """
    functional = _functional(model, model.name)
    taken: dict[str, int] = {}
    inputs = tuple(_tensor(_unused(tensor.name, taken), tensor) for tensor in functional.inputs)
    values = _by_id(functional.inputs, inputs)
    nodes: list[Node] = []
    _walk(functional, "", values, nodes, taken, None)
    outputs = tuple(values[id(tensor)] for tensor in functional.outputs)
    return Graph(needed(nodes, [tensor.key for tensor in outputs]), inputs, outputs)


def replay(
    nodes: Sequence[Node],
    values: Mapping[str, Any],
    until: str | Sequence[str],
    call: Call | None = None,
) -> Any:
    """Call a part of a graph on other tensors and return those of `until`.

    Args:
        nodes: in topological order.
        values: tensors, arrays or Keras inputs by key, where the part begins.
        until: the key of the result, or several for a list of results.
        call: how each node is called; by default `node.operation(*args, **kwargs)`.

    Raises KeyError for a tensor that is needed and neither given nor made.
    """
    keras = backend.load()
    wanted = [until] if isinstance(until, str) else list(until)
    known = dict(values)
    for node in needed(nodes, wanted, values):
        args, kwargs = _filled(node, known)
        outputs = node.operation(*args, **kwargs) if call is None else call(node, args, kwargs)
        for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            known[tensor.key] = value
    return known[wanted[0]] if isinstance(until, str) else [known[key] for key in wanted]


def in_inference(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a node in inference mode, whatever it was built with; for `replay`."""
    if getattr(node.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


def _filled(node: Node, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a node's arguments with values in place of tensors. Raises KeyError."""
    tree = backend.load().tree

    def value(argument: Any) -> Any:
        return values[argument.key] if isinstance(argument, Tensor) else argument

    return tree.map_structure(value, node.args), tree.map_structure(value, node.kwargs)


def _walk(
    functional: Any,
    prefix: str,
    values: dict[int, Tensor],
    nodes: list[Node],
    taken: dict[str, int],
    training: bool | None,
) -> None:
    """Append the nodes of one functional model.

    values: our tensors by the identity of Keras' own, with this model's inputs.
    """
    keras = backend.load()
    ordered = [
        node
        for depth in sorted(functional._nodes_by_depth, reverse=True)
        for node in functional._nodes_by_depth[depth]
    ]
    for node in ordered:
        if node.is_input or not all(id(tensor) in values for tensor in node.input_tensors):
            continue
        operation = node.operation
        path = f"{prefix}{operation.name}"
        args, kwargs = node.arguments.fill_in(values)
        if training is not None and getattr(operation, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": training}
        if isinstance(operation, keras.Model):
            inner = _functional(operation, path)
            given = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
            inside = _by_id(inner.inputs, keras.tree.flatten((args, given)))
            mode = training if kwargs.get("training") is None else kwargs["training"]
            _walk(inner, f"{path}/", inside, nodes, taken, mode)
            values.update(_by_id(node.outputs, [inside[id(tensor)] for tensor in inner.outputs]))
            continue
        key = _unused(path, taken)
        outputs = tuple(
            _tensor(key if position == 0 else f"{key}:{position}", tensor)
            for position, tensor in enumerate(node.outputs)
        )
        inputs = tuple(values[id(tensor)] for tensor in node.input_tensors)
        nodes.append(Node(operation, tuple(args), dict(kwargs), inputs, outputs, path))
        values.update(_by_id(node.outputs, outputs))


def _by_id(keras_tensors: Sequence[Any], tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return our tensors by the identity of Keras' own."""
    return {id(tensor): own for tensor, own in zip(keras_tensors, tensors, strict=True)}


def _functional(model: Any, path: str) -> Any:
    """Return the functional model that a model is, or that is behind a Sequential one."""
    keras = backend.load()
    inner: Any = model
    if isinstance(model, keras.Sequential):
        inner = model._functional
        if inner is None:
            raise BackboneError(
                f"the Sequential model {path!r} has no input shape yet; begin it with "
                "keras.Input((S, S, 3)), or call it once before saving"
            )
    # A subclass may be functional underneath and still have a `call` of its own.
    methods = [
        getattr(kind, "call", None) for kind in type(inner).__mro__ if kind.__name__ == "Functional"
    ]
    own_call = not methods or getattr(type(inner), "call", None) is not methods[0]
    if own_call or not hasattr(inner, "_nodes_by_depth"):
        raise BackboneError(
            f"the model {path!r} is a subclass ({type(model).__name__}) whose graph exists only as "
            "Python code; only functional and Sequential models can be read: build it from "
            "keras.Input and layers"
        )
    return inner


def _tensor(key: str, tensor: Any) -> Tensor:
    return Tensor(key, tuple(tensor.shape), str(tensor.dtype))


def _unused(name: str, taken: dict[str, int]) -> str:
    """Return `name` the first time, then name#2, name#3, ..."""
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
