"""A network of timm as a graph (torch.fx), the tensors at which it can be cut, and its parts.

    pixels (N, 3, S, S), normalised -> [below a cut] -> activations -> [above it] -> features (N, K)

Parts share the modules of the network, so that training a part trains the network itself. They are
traced in inference mode: batch normalisation keeps its statistics, dropout and stochastic depth are
off. Where a network cannot be traced it has no cuts between the pixels and the features.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from tailorbird.engines.graphs import Node, Tensor, cuts, needed
from tailorbird.engines.protocol import Cut
from tailorbird.engines.torch import backend

IMAGES = "images"
FEATURES = "features"


@dataclass(frozen=True)
class Layer:
    """One layer with weights.

    Attributes:
        names: of its parameters in the network.
        level: number of cuts below it, so that the layers between two cuts have one level.
    """

    names: tuple[str, ...]
    level: int


@dataclass(frozen=True)
class Place:
    """A cut and what is above it.

    Attributes:
        cut: as the training loop knows it.
        key: of the tensor; None for the pixels and the features.
        layers: those above it, lowest first.
    """

    cut: Cut
    key: str | None
    layers: tuple[Layer, ...]


class TracedNetwork:
    """A network of timm at one input size, with its cuts and parts."""

    def __init__(self, net: Any, size: int) -> None:
        """Trace a network in inference mode, and compute the shapes at an input size."""
        self.net = net
        self.size = size
        self._graph = _traced(net)
        self._names = {id(value): name for name, value in net.named_parameters()}
        self.width, self._nodes, self._tensors, self._output = self._shapes()
        self.places = self._places()

    def _shapes(self) -> tuple[int, tuple[Node, ...], dict[str, Any], str]:
        """Return K, the nodes as plain data, example tensors by key, and the output's key."""
        torch, _ = backend.load()
        example = torch.zeros(1, 3, self.size, self.size, device=_device(self.net))
        if self._graph is None:
            with torch.inference_mode():
                return int(self.net(example).shape[1]), (), {}, ""
        found: dict[str, Any] = {}

        base: Any = torch.fx.Interpreter

        class Recorder(base):  # type: ignore[misc]
            def run_node(self, node: Any) -> Any:
                found[node.name] = result = super().run_node(node)
                return result

        module = torch.fx.GraphModule(self.net, self._graph)
        with torch.inference_mode():
            features = Recorder(module).run(example)
        tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
        nodes, output = [], ""
        for node in self._graph.nodes:
            if node.op == "output":
                output = node.all_input_nodes[0].name
            if node.op not in ("call_module", "call_function", "call_method", "get_attr"):
                continue
            inputs = tuple(_tensor(one.name, found) for one in node.all_input_nodes)
            made = _tensor(node.name, found)
            nodes.append(Node(node, (), {}, inputs, (made,), str(node.target)))
        return int(features.shape[1]), tuple(nodes), tensors, output

    def _places(self) -> tuple[Place, ...]:
        """Return every cut from the pixels to the features; see `Cut`.

        Of cuts with the same layers above them, the one with the fewest values is kept, and the
        highest of equal ones.
        """
        every = self._layers_of(self._nodes, [])
        if self._graph is None:
            every = tuple(
                Layer(names, 0) for names in _modules_with_parameters(self.net, self._names)
            )
        pixels = next(iter(self._inputs()), None)
        tensors = cuts(self._nodes, self._inputs(), self._output) if pixels else ()
        crossings = [one.key for one in tensors if one != pixels and one.key in self._tensors]
        every = self._layers_of(self._nodes, crossings) if crossings else every
        found = [Place(self._cut(IMAGES, every, self.size * self.size * 3), None, every)]
        for key in crossings:
            above = needed(self._nodes, [self._output], [key])
            names = {name for layer in self._layers_of(above, []) for name in layer.names}
            layers = tuple(layer for layer in every if names.intersection(layer.names))
            values = math.prod(self._tensors[key].shape[1:])
            cut = self._cut(self._readable(key), layers, values)
            if not 0 < cut.layers < len(every):
                continue
            if len(found) > 1 and cut.layers == found[-1].cut.layers:
                if cut.values > found[-1].cut.values:
                    continue
                found.pop()
            found.append(Place(cut, key, layers))
        return (*found, Place(Cut(FEATURES, 0, 0, self.width), None, ()))

    def _inputs(self) -> list[Tensor]:
        if self._graph is None:
            return []
        return [_tensor(one.name, {}) for one in self._graph.nodes if one.op == "placeholder"]

    def _readable(self, key: str) -> str:
        """Return the name of the module that made a tensor."""
        node = next(node.operation for node in self._nodes if node.outputs[0].key == key)
        inside = list(node.meta.get("nn_module_stack", {}))
        if node.op == "call_module":
            return str(node.target)
        return str(inside[-1]) if inside and inside[-1] else key

    def _cut(self, name: str, layers: tuple[Layer, ...], values: int) -> Cut:
        parameters = dict(self.net.named_parameters())
        held = sum(parameters[name].numel() for layer in layers for name in layer.names)
        return Cut(name, len(layers), held, values)

    def _layers_of(self, nodes: tuple[Node, ...], crossings: list[str]) -> tuple[Layer, ...]:
        """Return the layers that nodes call, each once, in order."""
        level, seen, found = 0, set[str](), []
        for node in nodes:
            names = tuple(name for name in self._parameters_of(node.operation) if name not in seen)
            if names:
                seen.update(names)
                found.append(Layer(names, level))
            level += node.outputs[0].key in crossings
        return tuple(found)

    def _parameters_of(self, node: Any) -> tuple[str, ...]:
        """Return the names of the parameters that a node of torch.fx uses itself."""
        if node.op == "get_attr":
            owner = self.net
            for part in node.target.split("."):
                owner = getattr(owner, part)
            return (self._names[id(owner)],) if id(owner) in self._names else ()
        if node.op != "call_module":
            return ()
        values = self.net.get_submodule(node.target).parameters()
        return tuple(self._names[id(value)] for value in values)

    def above(self, number: int) -> Any:
        """Return the part above a cut as a module: activations, or normalised pixels, to features.

        number: index into `places`, but not that of the features.
        """
        key = self.places[number].key
        return self.net if self._graph is None else self._part(key, self._output)

    def below(self, number: int) -> Any:
        """Return the part below a cut, but not cut 0, as a module: normalised pixels to it."""
        key = self.places[number].key
        return self.net if key is None else self._part(None, key)

    def _part(self, start: str | None, end: str) -> Any:
        """Return the nodes from a tensor, or the pixels, to another as a module."""
        torch, _ = backend.load()
        graph = torch.fx.Graph()
        copies: dict[str, Any] = {}
        wanted = needed(self._nodes, [end], [start] if start else [])
        inside = {node.operation.name for node in wanted}
        for node in self._graph.nodes:
            begins = node.name == start if start else node.op == "placeholder"
            if begins:
                copies[node.name] = graph.placeholder(IMAGES if start is None else "activations")
            elif node.name in inside:
                copies[node.name] = graph.node_copy(node, lambda one: copies[one.name])
        graph.output(copies[end])
        return torch.fx.GraphModule(self.net, graph).eval()


def _tensor(key: str, found: dict[str, Any]) -> Tensor:
    shape = getattr(found.get(key), "shape", ())
    return Tensor(key, tuple(shape), "float32")


def _device(net: Any) -> Any:
    return next(net.parameters()).device


def _modules_with_parameters(net: Any, names: dict[int, str]) -> list[tuple[str, ...]]:
    """Return the names of parameters, by the module that holds them, in order."""
    found = []
    for module in net.modules():
        own = tuple(names[id(value)] for value in module.parameters(recurse=False))
        if own:
            found.append(own)
    return found


def _traced(net: Any) -> Any:
    """Return the network as a graph of torch.fx, or None where it cannot be traced."""
    _, *others = inspect.signature(net.forward).parameters.values()
    defaults = {one.name: one.default for one in others if one.default is not one.empty}
    try:
        graph = _tracer()().trace(net, concrete_args=defaults or None)
    except Exception:  # a network's own code fails in its own way when it meets a proxy
        return None
    # Assertions about shapes are dropped with all that has no effect on the features.
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op == "output")
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        return None
    return graph


@cache
def _tracer() -> Any:
    """Return a tracer that keeps whole what timm says cannot be traced through."""
    torch, _ = backend.load()
    from timm.models import get_notrace_functions, get_notrace_modules

    base: Any = torch.fx.Tracer

    class Tracer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(autowrap_functions=tuple(get_notrace_functions()))

        def is_leaf_module(self, module: Any, name: str) -> bool:
            return isinstance(module, tuple(get_notrace_modules())) or bool(
                super().is_leaf_module(module, name)
            )

    return Tracer
