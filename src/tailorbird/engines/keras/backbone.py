"""The part of a network below the head: where it can be cut, what its weights are called, and the part above a cut as layers.

images uint8 (N, S, S, 3) -> preprocess -> graph -> features (N, K)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.graph import Graph, Node, Tensor, cuts, needed, replay
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.engines.protocol import Arrays, Cut
from tailorbird.errors import SettingsError

FEATURES = "features"
IMAGES = "images"


@dataclass(frozen=True)
class KerasBackbone:
    """A base at one input size.

    model: the Keras model whose `weights` number the weights in an ONNX file. preprocess: what becomes of the pixels first, a key
    of convert.PREPROCESS.
    output: the features, float (N, K).
    """

    size: int
    model: Any
    graph: Graph
    output: Tensor
    preprocess: str

    @property
    def width(self) -> int:
        """K, the number of features."""
        return int(self.output.shape[-1] or 0)

    def layers(self, nodes: Iterable[Node] | None = None) -> list[Any]:
        """The layers with weights, lowest first, each once; those of `nodes`, by default of the whole base."""
        found = {
            id(node.operation): node.operation
            for node in nodes or needed(self.graph.nodes, [self.output.key])
        }
        return [operation for operation in found.values() if getattr(operation, "weights", None)]

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Keras variables by name. The names count the layers, so they are the same at every size and in every process."""
        return {
            f"base/{number}/{position}/{variable.name}": variable
            for number, layer in enumerate(self.layers())
            for position, variable in enumerate(layer.weights)
        }

    def above(self, tensor: Tensor) -> tuple[Node, ...]:
        """The nodes between a tensor and the output, the output's among them."""
        return needed(self.graph.nodes, [self.output.key], [tensor.key])

    @cached_property
    def places(self) -> tuple[tuple[Cut, Tensor | None], ...]:
        """Every cut with its tensor, from the pixels (the graph's input) to the pooled features (None).

        Of cuts with the same layers above them, the one with the fewest values is kept, the highest of equals.
        """
        pixels = self.graph.inputs[0]
        whole = self._cut(IMAGES, self.layers(), self.size * self.size * 3)
        found: list[tuple[Cut, Tensor | None]] = [(whole, pixels)]
        for tensor in cuts(self.graph.nodes, self.graph.inputs, self.output.key):
            cut = self._cut(
                tensor.key,
                self.layers(self.above(tensor)),
                math.prod(side or 0 for side in tensor.shape[1:]),
            )
            if not 0 < cut.layers < whole.layers:
                continue
            if len(found) > 1 and cut.layers == found[-1][0].layers:
                if cut.values > found[-1][0].values:
                    continue
                found.pop()
            found.append((cut, tensor))
        return (*found, (Cut(FEATURES, 0, 0, self.width), None))

    @staticmethod
    def _cut(name: str, layers: list[Any], values: int) -> Cut:
        return Cut(
            name,
            len(layers),
            sum(math.prod(w.shape) for layer in layers for w in layer.weights),
            values,
        )

    def whole(self, pixels: Any) -> Any:
        """Call every layer on pixels as a Keras tensor, uint8 or float (N, S, S, 3) RGB from 0 to 255 -> features (N, K)."""
        start = preprocessing(self.preprocess, self.free_name("preprocess"))(pixels)
        return replay(self.graph.nodes, {self.graph.inputs[0].key: start}, self.output.key)

    def free_name(self, wanted: str) -> str:
        """`wanted`, or it with a number behind, so that no layer of the base is called so: a model's layers differ in name."""
        taken = {getattr(node.operation, "name", "") for node in self.graph.nodes}
        taken |= {layer.name for layer in self.model.layers}
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        return (
            wanted if wanted not in taken else next(name for name in numbered if name not in taken)
        )

    def part(self, tensor: Tensor) -> Any:
        """A Keras layer that calls what lies above a tensor: its values -> features (N, K); of the graph's input, the pixels.

        It calls in inference mode whether the model trains or not: batch normalisation keeps its statistics, and the base's own
        dropout rests. A functional model cannot say so: Keras passes its own `training` to every layer, whatever a layer was
        called with when the model was built.
        """
        prepare = preprocessing(self.preprocess) if tensor == self.graph.inputs[0] else None
        nodes = self.above(tensor)

        def call(values: Any) -> Any:
            start = values if prepare is None else prepare(values)
            return replay(nodes, {tensor.key: start}, self.output.key, _inference)

        return _part_class()(call, self.layers(nodes))


def preprocessing(mode: str, name: str = "preprocess") -> Callable[[Any], Any]:
    """From pixels, uint8 or float (N, S, S, 3) RGB from 0 to 255, to float32, as convert.PREPROCESS says. name: the layer's."""
    keras = backend.load()
    scale, offset, bgr = PREPROCESS[mode]
    # One number where one is enough, so that the layer reads as people write it; float32 also where the rest is float16.
    plain = len(set(scale)) == len(set(offset)) == 1
    factors = (scale[0], offset[0]) if plain else (list(scale), list(offset))
    rescaling = keras.layers.Rescaling(*factors, dtype="float32", name=name)

    def prepare(pixels: Any) -> Any:
        return rescaling(keras.ops.flip(pixels, axis=-1) if bgr else pixels)

    return prepare


@cache
def _part_class() -> Any:
    class Part(backend.load().layers.Layer):  # type: ignore[misc]
        def __init__(self, run: Callable[[Any], Any], layers: list[Any]) -> None:
            super().__init__(name="base", autocast=False)
            self._run = run
            self.parts = layers  # Keras finds the variables that train here

        def call(self, values: Any) -> Any:
            return self._run(values)

    return Part


def _inference(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if getattr(node.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


def read(variables: Mapping[str, Any]) -> Arrays:
    """Copies of Keras variables as NumPy arrays."""
    convert = backend.load().ops.convert_to_numpy
    return {name: np.array(convert(variable.value)) for name, variable in variables.items()}


def write(variables: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], what: str) -> None:
    """Assign arrays to variables of the same names. Raises SettingsError for a name that is not there and for another shape."""
    strange = sorted(set(arrays) - set(variables))
    if strange:
        raise SettingsError(
            f"{what} holds {len(strange)} weights this network lacks, such as {strange[0]!r}; it belongs to another network or head"
        )
    for name, array in arrays.items():
        if tuple(variables[name].shape) != array.shape:
            raise SettingsError(
                f"{what} holds {name} of shape {array.shape}, the network has {tuple(variables[name].shape)}; "
                "it belongs to another network, head or input size"
            )
    for name, array in arrays.items():
        variables[name].assign(array)
