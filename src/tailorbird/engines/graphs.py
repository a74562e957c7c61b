"""A network's graph as plain data, and the tensors at which it can be cut; for any framework."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """A tensor, identified by its key.

    Attributes:
        key: unique in the graph.
        shape: as the framework states it, None for open axes; the first is the batch.
        dtype: such as float32.
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation.

    Attributes:
        operation: the layer (the model's own object) or operation.
        args: positional arguments, with a Tensor in place of each tensor, at any depth.
        kwargs: keyword arguments, likewise.
        inputs: the tensors among the arguments.
        outputs: the results.
        path: names of the models it is nested in, then the layer's own: `base/conv1`.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    path: str

    @property
    def kind(self) -> str:
        """Return the class of the operation, such as Conv2D."""
        return type(self.operation).__name__


@dataclass(frozen=True)
class Graph:
    """A network taken apart: the nodes that the outputs depend on, in topological order."""

    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def tensor(self, key: str) -> Tensor:
        """Return the tensor of a key. Raises KeyError."""
        for tensor in (*self.inputs, *(made for node in self.nodes for made in node.outputs)):
            if tensor.key == key:
                return tensor
        raise KeyError(key)

    def output_of(self, path: str) -> Tensor:
        """Return the result of the last call of the layer at `path`. Raises KeyError."""
        for node in reversed(self.nodes):
            if node.path == path:
                return node.outputs[0]
        raise KeyError(path)


def needed(
    nodes: Sequence[Node], until: Iterable[str], given: Iterable[str] = ()
) -> tuple[Node, ...]:
    """Return the nodes that tensors depend on, in order.

    Args:
        nodes: in topological order.
        until: keys of the tensors.
        given: keys of tensors that are known already.
    """
    stop = set(given)
    wanted = set(until) - stop
    found = []
    for node in reversed(nodes):
        if wanted.intersection(tensor.key for tensor in node.outputs):
            found.append(node)
            wanted.update({tensor.key for tensor in node.inputs} - stop)
    return tuple(found[::-1])


def cuts(nodes: Sequence[Node], inputs: Sequence[Tensor], output: str) -> tuple[Tensor, ...]:
    """Return the tensors through which all paths to `output` pass, from the input to `output`.

    Where there are several inputs, the first of these tensors is where they have joined.
    """
    part = needed(nodes, [output])
    last: dict[str, int] = {output: len(part)}  # position of the last node that uses a tensor
    for position, node in enumerate(part):
        for tensor in node.inputs:
            last[tensor.key] = max(last.get(tensor.key, 0), position)
    alive = {tensor.key: tensor for tensor in inputs if tensor.key in last}
    found = list(alive.values()) if len(alive) == 1 else []
    for position, node in enumerate(part):
        alive = {key: tensor for key, tensor in alive.items() if last[key] > position}
        alive.update({tensor.key: tensor for tensor in node.outputs if tensor.key in last})
        # In any topological order, a single live tensor is one that everything above depends on.
        if len(alive) == 1:
            found += [tensor for tensor in alive.values() if tensor not in found[-1:]]
    return tuple(found)
