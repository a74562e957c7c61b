"""The graph of a Keras model as plain data: one node for each call of a layer or operation, nested models taken apart.

    flatten(model)                      -> Graph: nodes in an order in which each comes after those it needs
    replay(nodes, {key: tensor}, until) calls the same layer objects again, on other tensors
    cuts(nodes, inputs, output)         the tensors through which everything passes

Replaying is how a part of a network becomes a network of its own: `keras.Model(inner_tensor, output)` refuses graphs in which an
operation is called twice or a nested model is crossed (MobileNetV2 among them), and layers must stay the same objects because
they hold the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailorbird.engines.keras import backend
from tailorbird.errors import BackboneError

Call = Callable[["Node", tuple[Any, ...], dict[str, Any]], Any]
"""How `replay` calls a node: (node, arguments, keyword arguments) -> its output or outputs."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph, known by its key alone. shape: as Keras noted it, None for axes that are open; the first is the batch."""

    key: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation.

    operation: the layer (the very object of the model) or Keras operation. args, kwargs: as it was called, with a Tensor in the
    place of each tensor, at any depth. path: the layer's name, behind the names of the models it is nested in: `base/conv1`.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    path: str

    @property
    def kind(self) -> str:
        """The class of the operation, such as Conv2D."""
        return type(self.operation).__name__


@dataclass(frozen=True)
class Graph:
    """A model taken apart. nodes: those the outputs depend on, each after the nodes it needs."""

    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key. Raises KeyError."""
        for tensor in (*self.inputs, *(made for node in self.nodes for made in node.outputs)):
            if tensor.key == key:
                return tensor
        raise KeyError(key)

    def output_of(self, path: str) -> Tensor:
        """What the layer at `path` gives, in its last call. Raises KeyError."""
        for node in reversed(self.nodes):
            if node.path == path:
                return node.outputs[0]
        raise KeyError(path)


def flatten(model: Any) -> Graph:
    """Take a functional or Sequential Keras model apart, nested models included. A layer called twice makes two nodes.

    Raises BackboneError for a model, or a model nested in it, whose graph is written in Python code (subclassed), naming it.
    """
    functional = _functional(model, model.name)
    taken: dict[str, int] = {}
    inputs = tuple(_tensor(_unused(tensor.name, taken), tensor) for tensor in functional.inputs)
    values: dict[int, Tensor] = {
        id(tensor): ours for tensor, ours in zip(functional.inputs, inputs, strict=True)
    }
    nodes: list[Node] = []
    _walk(functional, "", values, nodes, taken, None)
    outputs = tuple(values[id(tensor)] for tensor in functional.outputs)
    return Graph(needed(nodes, [tensor.key for tensor in outputs]), inputs, outputs)


def needed(
    nodes: Sequence[Node], until: Iterable[str], given: Iterable[str] = ()
) -> tuple[Node, ...]:
    """The nodes that the tensors `until` depend on, in order, where the tensors `given` are there already."""
    stop = set(given)
    wanted = set(until) - stop
    found = []
    for node in reversed(nodes):
        if wanted.intersection(tensor.key for tensor in node.outputs):
            found.append(node)
            wanted.update({tensor.key for tensor in node.inputs} - stop)
    return tuple(found[::-1])


def replay(
    nodes: Sequence[Node],
    values: Mapping[str, Any],
    until: str | Sequence[str],
    call: Call | None = None,
) -> Any:
    """Call a part of the graph on other tensors, arrays or Keras inputs; what `until` holds, a list where it is a list of keys.

    values: tensors by key where the part begins; nothing below them is called. call: how each node is called, to change its
    arguments or to stand in for its operation; by default `node.operation(*args, **kwargs)`.

    Raises KeyError naming a tensor that is needed and neither given nor made.
    """
    keras = backend.load()
    wanted = [until] if isinstance(until, str) else list(until)
    known = dict(values)
    for node in needed(nodes, wanted, values):
        args, kwargs = fill_in(node, known)
        outputs = node.operation(*args, **kwargs) if call is None else call(node, args, kwargs)
        for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            known[tensor.key] = value
    return known[wanted[0]] if isinstance(until, str) else [known[key] for key in wanted]


def fill_in(node: Node, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments with values in the place of its tensors. Raises KeyError for a tensor without a value."""
    tree = backend.load().tree

    def value(argument: Any) -> Any:
        return values[argument.key] if isinstance(argument, Tensor) else argument

    return tree.map_structure(value, node.args), tree.map_structure(value, node.kwargs)


def cuts(nodes: Sequence[Node], inputs: Sequence[Tensor], output: str) -> tuple[Tensor, ...]:
    """The tensors through which everything that reaches `output` passes, from the input to `output` itself.

    Where there are several inputs, none of them separates; the first cut is then where they have come together.
    """
    part = needed(nodes, [output])
    last: dict[str, int] = {output: len(part)}  # the position of the last node that uses a tensor
    for position, node in enumerate(part):
        for tensor in node.inputs:
            last[tensor.key] = max(last.get(tensor.key, 0), position)
    alive = {tensor.key: tensor for tensor in inputs if tensor.key in last}
    found = list(alive.values()) if len(alive) == 1 else []
    for position, node in enumerate(part):
        alive = {key: tensor for key, tensor in alive.items() if last[key] > position}
        alive.update({tensor.key: tensor for tensor in node.outputs if tensor.key in last})
        # In any order that respects dependence, the one tensor alive here is the one everything above depends on.
        if len(alive) == 1:
            found += [tensor for tensor in alive.values() if tensor not in found[-1:]]
    return tuple(found)


def _walk(
    functional: Any,
    prefix: str,
    values: dict[int, Tensor],
    nodes: list[Node],
    taken: dict[str, int],
    training: bool | None,
) -> None:
    """Append the nodes of one functional model. values: our tensors by the identity of Keras' own, this model's inputs among them."""
    keras = backend.load()
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input or not all(id(tensor) in values for tensor in node.input_tensors):
                continue
            operation = node.operation
            path = f"{prefix}{operation.name}"
            args, kwargs = node.arguments.fill_in(values)
            if training is not None and getattr(operation, "_call_has_training_arg", False):
                kwargs = {**kwargs, "training": training}
            if isinstance(operation, keras.Model):
                inner = _functional(operation, path)
                said = kwargs.get("training")
                inputs = keras.tree.flatten(
                    (args, {k: v for k, v in kwargs.items() if k not in ("training", "mask")})
                )
                inside = {
                    id(tensor): ours for tensor, ours in zip(inner.inputs, inputs, strict=True)
                }
                _walk(inner, f"{path}/", inside, nodes, taken, training if said is None else said)
                results = [inside[id(tensor)] for tensor in inner.outputs]
                values.update(
                    {id(tensor): ours for tensor, ours in zip(node.outputs, results, strict=True)}
                )
                continue
            key = _unused(path, taken)
            outputs = tuple(
                _tensor(key if position == 0 else f"{key}:{position}", tensor)
                for position, tensor in enumerate(node.outputs)
            )
            inputs = tuple(values[id(tensor)] for tensor in node.input_tensors)
            nodes.append(Node(operation, tuple(args), dict(kwargs), inputs, outputs, path))
            values.update(
                {id(tensor): ours for tensor, ours in zip(node.outputs, outputs, strict=True)}
            )


def _functional(model: Any, path: str) -> Any:
    """The functional model that a model is, or that stands behind a Sequential one."""
    keras = backend.load()
    inner: Any = model
    if isinstance(model, keras.Sequential):
        inner = model._functional
        if inner is None:
            raise BackboneError(
                f"the Sequential model {path!r} has no input shape yet; begin it with keras.Input((S, S, 3)), or call it once before saving"
            )
    # A subclass may be functional underneath and still compute something else in a `call` of its own.
    methods = [
        getattr(kind, "call", None) for kind in type(inner).__mro__ if kind.__name__ == "Functional"
    ]
    if (
        not methods
        or getattr(type(inner), "call", None) is not methods[0]
        or not hasattr(inner, "_nodes_by_depth")
    ):
        raise BackboneError(
            f"the model {path!r} is a subclass ({type(model).__name__}) whose graph exists only as Python code; only functional and "
            "Sequential models can be read: build it from keras.Input and layers"
        )
    return inner


def _tensor(key: str, tensor: Any) -> Tensor:
    return Tensor(key, tuple(tensor.shape), str(tensor.dtype))


def _unused(name: str, taken: dict[str, int]) -> str:
    """`name` the first time, then name#2, name#3, ..."""
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
