"""A Keras backbone: its cuts, weights and parts, and conversion to and from backbone files.

images uint8 (N, S, S, 3) -> preprocess -> graph -> features (N, K)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.graphs import Graph, Node, Tensor, cuts, needed
from tailorbird.engines.keras import backend, description
from tailorbird.engines.keras.converter.backbone import export
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten, in_inference, replay
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.engines.protocol import Arrays, Cut
from tailorbird.errors import SettingsError
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx

FEATURES = "features"
IMAGES = "images"
FINE_TUNED = "fine-tuned"
_ORIGIN = ("name", "source", "licence", "trained_on", description.ENTRY)
"""Metadata of a backbone that hold at any size and with any weights."""


@dataclass(frozen=True)
class KerasBackbone:
    """A backbone at one input size.

    Attributes:
        size: S in pixels.
        model: the Keras model; the order of its `weights` numbers them in an ONNX file.
        graph: the graph of the model's layers.
        output: the features, float (N, K).
        preprocess: how pixels are prepared, a key of PREPROCESS.
    """

    size: int
    model: Any
    graph: Graph
    output: Tensor
    preprocess: str

    @classmethod
    def of_model(cls, model: Any, preprocess: str, size: int) -> KerasBackbone:
        """Return a Keras model from images to features (N, K) as a backbone.

        Raises BackboneError for a model whose graph cannot be read.
        """
        graph = flatten(model)
        return cls(size, model, graph, graph.outputs[0], preprocess)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, size: int) -> KerasBackbone:
        """Return the backbone that a backbone or model file was made from, with its weights.

        Raises BackboneError when the file did not come from this engine, SettingsError for a size
        that the network cannot have.
        """
        model, preprocess = description.rebuild(proto, size)
        return cls.of_model(model, preprocess, size)

    def to_proto(self, about: Mapping[str, str]) -> onnx.ModelProto:
        """Return the content of a backbone file with the current weights.

        about: further metadata. Raises BackboneError.
        """
        return export(self.model, preprocess=self.preprocess, size=self.size, about=about)

    def part_below(self, tensor: Tensor) -> onnx.ModelProto:
        """Return the part below a tensor, with the output `activations`, channels last."""
        return self._converted({"activations": Output(tensor.key)})

    def backbone_graph(self, proto: onnx.ModelProto) -> BackboneGraph:
        """Return what a model file is built on; a flattened map also gives heat maps.

        proto: what `to_proto` returned.
        """
        last = self.graph.nodes[-1]
        under = last.inputs[0]
        if last.kind not in ("GlobalAveragePooling2D", "Flatten") or len(under.shape) != 4:
            return BackboneGraph(proto, self.width, None, "none")
        height, width, channels = (int(side or 0) for side in under.shape[1:])
        if last.kind == "GlobalAveragePooling2D":
            return BackboneGraph(proto, self.width, (channels, height, width), "mean")
        with_map = self._converted(
            {
                "features": Output(self.output.key),
                "feature_map": Output(under.key, "channels_first"),
            }
        )
        onnx_files.set_metadata(with_map, onnx_files.metadata(proto))
        return BackboneGraph(with_map, self.width, (channels, height, width), "flatten")

    def _converted(self, outputs: Mapping[str, Output]) -> onnx.ModelProto:
        return convert(
            self.graph,
            outputs,
            preprocess=self.preprocess,
            size=self.size,
            weights=self.model.weights,
        )

    @property
    def width(self) -> int:
        """Return K, the number of features."""
        return int(self.output.shape[-1] or 0)

    def layers(self, nodes: Iterable[Node] | None = None) -> list[Any]:
        """Return the layers with weights, lowest first; of `nodes`, or of the whole backbone."""
        found = {
            id(node.operation): node.operation
            for node in nodes or needed(self.graph.nodes, [self.output.key])
        }
        return [operation for operation in found.values() if getattr(operation, "weights", None)]

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Return Keras variables by name: numbered by layer, so the same at every size."""
        return {
            f"base/{number}/{position}/{variable.name}": variable
            for number, layer in enumerate(self.layers())
            for position, variable in enumerate(layer.weights)
        }

    def above(self, tensor: Tensor) -> tuple[Node, ...]:
        """Return the nodes between a tensor and the output, the output's node included."""
        return needed(self.graph.nodes, [self.output.key], [tensor.key])

    @cached_property
    def places(self) -> tuple[tuple[Cut, Tensor | None], ...]:
        """Return every cut with its tensor, from the pixels (the input) to the features (None).

        Of cuts with the same layers above them, the one with the fewest values is kept, and the
        highest of equal ones.
        """
        pixels = self.graph.inputs[0]
        whole = _cut(IMAGES, self.layers(), self.size * self.size * 3)
        found: list[tuple[Cut, Tensor | None]] = [(whole, pixels)]
        for tensor in cuts(self.graph.nodes, self.graph.inputs, self.output.key):
            values = math.prod(side or 0 for side in tensor.shape[1:])
            cut = _cut(tensor.key, self.layers(self.above(tensor)), values)
            if not 0 < cut.layers < whole.layers:
                continue
            if len(found) > 1 and cut.layers == found[-1][0].layers:
                if cut.values > found[-1][0].values:
                    continue
                found.pop()
            found.append((cut, tensor))
        return (*found, (Cut(FEATURES, 0, 0, self.width), None))

    def whole(self, pixels: Any) -> Any:
        """Call every layer on pixels, a Keras tensor (N, S, S, 3) RGB from 0 to 255."""
        start = preprocessing(self.preprocess, self.free_name("preprocess"))(pixels)
        return replay(self.graph.nodes, {self.graph.inputs[0].key: start}, self.output.key)

    def free_name(self, wanted: str) -> str:
        """Return a name that no layer has: a model's layers must differ in name."""
        taken = {getattr(node.operation, "name", "") for node in self.graph.nodes}
        taken |= {layer.name for layer in self.model.layers}
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        return next(name for name in itertools.chain([wanted], numbered) if name not in taken)

    def part_above(self, tensor: Tensor) -> Any:
        """Return a Keras layer that computes features from a tensor; of the input, from pixels.

        It is always in inference mode: batch normalisation keeps its statistics, and the backbone's
        own dropout is off. A functional model cannot do that: Keras passes its own `training` to
        every layer, whatever a layer was called with when the model was built.
        """
        prepare = preprocessing(self.preprocess) if tensor == self.graph.inputs[0] else None
        nodes = self.above(tensor)

        def call(values: Any) -> Any:
            start = values if prepare is None else prepare(values)
            return replay(nodes, {tensor.key: start}, self.output.key, in_inference)

        return _part_class()(call, self.layers(nodes))


def _cut(name: str, layers: list[Any], values: int) -> Cut:
    parameters = sum(math.prod(weight.shape) for layer in layers for weight in layer.weights)
    return Cut(name, len(layers), parameters, values)


def input_size(proto: onnx.ModelProto) -> int:
    """Return S of the input `images`."""
    images = next(value for value in proto.graph.input if value.name == "images")
    return int(images.type.tensor_type.shape.dim[1].dim_value)


def origin(proto: onnx.ModelProto, *, tuned: bool) -> dict[str, str]:
    """Return a backbone's metadata about its origin; tuned: its weights have been trained."""
    facts = {key: value for key, value in onnx_files.metadata(proto).items() if key in _ORIGIN}
    before = facts.get("trained_on", "not stated")
    if tuned and not before.endswith(FINE_TUNED):
        facts["trained_on"] = f"{before}, {FINE_TUNED}"
    return facts


def preprocessing(mode: str, name: str = "preprocess") -> Callable[[Any], Any]:
    """Return a function that prepares pixels (N, S, S, 3) RGB, 0 to 255, as float32 tensors.

    mode: a key of PREPROCESS. name: of the layer that rescales.
    """
    keras = backend.load()
    scale, offset, bgr = PREPROCESS[mode]
    # A single number where one is enough, for readability; float32 in float16 networks too.
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


def read(variables: Mapping[str, Any]) -> Arrays:
    """Return copies of Keras variables as NumPy arrays."""
    convert = backend.load().ops.convert_to_numpy
    return {name: np.array(convert(variable.value)) for name, variable in variables.items()}


def write(variables: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], what: str) -> None:
    """Assign arrays to the variables of the same names.

    what: the arrays' origin, for messages. Raises SettingsError for unknown names or other shapes.
    """
    unknown = sorted(set(arrays) - set(variables))
    if unknown:
        raise SettingsError(
            f"{what} holds {len(unknown)} weights that this network does not have, such as "
            f"{unknown[0]!r}; it belongs to another network or head"
        )
    for name, array in arrays.items():
        shape = tuple(variables[name].shape)
        if shape != array.shape:
            raise SettingsError(
                f"{what} holds {name} of shape {array.shape}, the network has {shape}; it belongs "
                "to another network, head or input size"
            )
    for name, array in arrays.items():
        variables[name].assign(array)
