"""Read a classifier made in Keras: where its features are, its head, and its own answers.

Shapes: N photos uint8 (N, S, S, 3) RGB, S the side of the square input in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines import source_graphs
from tailorbird.engines.graphs import Graph, Node
from tailorbird.engines.keras import backend, description, model_files
from tailorbird.engines.keras.analysis import Structure, analyse
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten, in_inference, replay
from tailorbird.engines.keras.recognition import recognise
from tailorbird.engines.preprocessing import prepare
from tailorbird.engines.protocol import KnownNetwork
from tailorbird.errors import BackboneError, ModelFileError, SettingsError
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.model.graph import BackboneGraph

BATCH: Final = 8

_PREPROCESSING: Final = frozenset(
    {"Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add"}
)
_SKIPPED: Final = frozenset(
    {
        "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear",
        "RandomContrast", "RandomBrightness", "RandomCrop", "CenterCrop", "Resizing", "Dropout",
        "Identity", "GaussianNoise", "ZeroPadding2D",
    }
)  # fmt: skip
"""Layers that may stand in front of the one that prepares the pixels."""


@dataclass(frozen=True)
class KerasClassifier:
    """A Keras classifier of square RGB images; see `protocol.SourceClassifier`.

    Attributes:
        model: the Keras model.
        graph: the graph of the model's layers.
        structure: features, pooling and head of the model.
        size: S in pixels.
        notes: changes that were made to an old configuration while reading the file.
    """

    model: Any
    graph: Graph
    structure: Structure
    size: int
    notes: tuple[str, ...]
    packages: tuple[str, ...] = ("keras",)

    @property
    def name(self) -> str:
        """Return the model's own name."""
        return str(self.model.name)

    @property
    def rule(self) -> ResizeRule:
        """Return how photos are resized for it: squashed, as Keras' loaders do."""
        return ResizeRule(self.size)

    @property
    def outputs(self) -> int:
        """Return the number of outputs."""
        return self.structure.outputs

    @property
    def classes(self) -> int:
        """Return the number of classes: 2 for a model with a single output."""
        return max(2, self.structure.outputs)

    @property
    def why_no_heatmaps(self) -> str:
        """Return why there are no heat maps; empty where there are."""
        return self.structure.why

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return nothing: Keras' files do not hold names of classes."""
        return ()

    def own_preprocessing(self) -> str | None:
        """Return the layer that prepares the pixels inside the model, such as Rescaling."""
        here = self.graph.inputs[0]
        first = [n for n in self.graph.nodes if [t.key for t in n.inputs] == [here.key]]
        # preprocess_input of the mode caffe takes each channel by itself.
        if len(first) == 3 and {node.kind for node in first} == {"GetItem"}:
            return f"preprocess_input ({first[0].path} and what follows)"
        for node in self.graph.nodes:
            if [tensor.key for tensor in node.inputs] != [here.key]:
                continue
            if node.kind in _PREPROCESSING:
                return f"{node.path} ({node.kind})"
            if node.kind not in _SKIPPED:
                return None
            here = node.outputs[0]
        return None

    def known_network(self) -> KnownNetwork | None:
        """Return the Keras application that the model is built on, if it is recognised."""
        return recognise([node.path for node in self.graph.nodes])

    def backbone_graph(self, preprocess: str) -> tuple[BackboneGraph, Head]:
        """Return the graph below the head, and the head that gives logits (N, C).

        A sigmoid over one output z becomes the logits (-z / 2, z / 2). Where Keras can serialise
        the network below the head, the graph's metadata describe it for `description.rebuild`.
        If the model's outputs are only known as probabilities, the features are their logarithms.
        Raises BackboneError for a layer that cannot be converted.
        """
        structure = self.structure
        wanted = {"features": Output(structure.features.key)}
        if structure.feature_map is not None:
            wanted["feature_map"] = Output(structure.feature_map.key, "channels_first")
        described = self._below_head() if structure.head is not None else None
        weights = self.model.weights if described is None else described.weights
        proto = convert(self.graph, wanted, preprocess=preprocess, size=self.size, weights=weights)
        if described is not None:
            entry = description.describe(preprocess=preprocess, model=described)
            onnx_files.set_metadata(proto, entry)
        shapes = source_graphs.output_shapes(proto)
        width = shapes["features"][-1]
        if len(shapes["features"]) > 1:
            source_graphs.flatten_features(proto, width)
        head = structure.head
        if head is None and self._gives_probabilities():
            source_graphs.take_logarithm(proto, self.outputs)
            width = self.classes
            return BackboneGraph(proto, width, None, "none"), source_graphs.identity_head(width)
        head = head or source_graphs.identity_head(width)
        if self.outputs == 1:
            head = source_graphs.two_sided(head)
        if "feature_map" not in shapes:
            return BackboneGraph(proto, width, None, "none"), head
        channels, height, breadth = shapes["feature_map"]
        return BackboneGraph(proto, width, (channels, height, breadth), structure.pooling), head

    def _below_head(self) -> Any:
        """Return the layers below the head as a Keras model; None where Keras refuses that."""
        keras = backend.load()
        image = keras.Input((self.size, self.size, 3), name="images")
        values, features = {self.graph.inputs[0].key: image}, self.structure.features.key
        try:
            result = replay(self.graph.nodes, values, features, in_inference)
            if len(result.shape) > 2:
                result = keras.layers.Flatten(name="features")(result)
            return keras.Model(image, result, name=self.model.name)
        except ValueError:  # layers in different parts of the model with the same name
            return None

    def answers(self, images: npt.NDArray[np.uint8], preprocess: str) -> npt.NDArray[np.float32]:
        """Return the model's own outputs for images, float32 (N, outputs)."""
        return _run(images, preprocess, lambda values: self.model(values, training=False))

    def logits(self, images: npt.NDArray[np.uint8], preprocess: str) -> npt.NDArray[np.float64]:
        """Return logits (N, C) that Keras computes, without the model's last activation.

        For one output z they are (-z / 2, z / 2); where only probabilities are known, their
        logarithms, as in `backbone_graph`.
        """
        node = self.structure.activation
        if node is None:
            rows = self.answers(images, preprocess).astype(np.float64)
            if self.structure.ending == "unknown" and self._gives_probabilities():
                return source_graphs.log_probabilities(rows)
        else:
            found = _run(images, preprocess, lambda values: self._before(node, values))
            rows = found.reshape(len(found), -1).astype(np.float64)
        return np.asarray(rows * [-0.5, 0.5] if rows.shape[1] == 1 else rows)

    def _before(self, last: Node, values: Any) -> Any:
        """Return the inputs of the model's last activation, a layer or part of one."""
        linear = backend.load().activations.linear

        def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if node is not last:
                return in_inference(node, args, kwargs)
            if node.kind not in ("Dense", "Conv2D"):
                return args[0]
            activation = node.operation.activation
            node.operation.activation = linear
            try:
                return node.operation(*args, **kwargs)
            finally:
                node.operation.activation = activation

        start = {self.graph.inputs[0].key: values}
        return replay(self.graph.nodes, start, last.outputs[0].key, call)

    def _gives_probabilities(self) -> bool:
        """Return whether the outputs look like probabilities, on generated images."""
        shape = (self.size, self.size, 3)
        random = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
        plain = np.stack([np.full(shape, value, np.uint8) for value in (255, 0)])
        rows = self.answers(np.concatenate([random, plain]), "none")
        within = bool((rows >= 0).all() and (rows <= 1 + 1e-4).all())
        return within and (rows.shape[1] == 1 or bool(np.abs(rows.sum(axis=1) - 1).max() < 1e-3))


def open_classifier(path: str | Path, size: int | None = None) -> KerasClassifier:
    """Open a `.keras` or `.h5` file as a classifier of square RGB images.

    size: needed where the model takes images of any size. Raises ModelFileError, and SettingsError
    for a size that does not fit.
    """
    loaded = model_files.load(path)
    notes = [f"written by Keras {loaded.keras_version}: {change}" for change in loaded.changes]
    return classifier_of(loaded.model, str(path), size, notes=tuple(notes))


def classifier_of(
    model: Any, name: str, size: int | None = None, *, notes: tuple[str, ...] = ()
) -> KerasClassifier:
    """Return a Keras model in memory as a classifier; `name` is used in messages."""
    try:
        graph = flatten(model)
    except BackboneError as error:
        raise ModelFileError(f"{name}: {error}") from None
    size = _size(graph, name, size)
    try:
        structure = analyse(graph)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    outputs = structure.outputs
    if structure.ending == "sigmoid" and outputs > 1:
        raise ModelFileError(
            f"{name} ends in a sigmoid over {outputs} outputs, so several labels can be true of "
            "one photo; a tailorbird model gives each photo one class. Train a model that ends in "
            "a softmax (or, for two classes, in one output)"
        )
    if structure.ending == "softmax" and outputs == 1:
        raise ModelFileError(
            f"{name} ends in a softmax over a single output, which is always 1; for two classes "
            "use a sigmoid"
        )
    return KerasClassifier(model, graph, structure, size, notes)


def _size(graph: Graph, name: str, size: int | None) -> int:
    """Return the side of the input of a model of square RGB images.

    Raises ModelFileError for other models, SettingsError for a size that is not the model's.
    """
    shapes = "; ".join(str(tensor.shape) for tensor in graph.inputs)
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        raise ModelFileError(
            f"{name} has inputs of shape {shapes}; a classifier of photos has one, (N, S, S, 3)"
        )
    _, height, width, channels = graph.inputs[0].shape
    if channels != 3:
        what = "grey-scale images" if channels == 1 else f"images of {channels} channels"
        if height == 3:
            what = "images with the channels first"
        raise ModelFileError(
            f"{name} takes {what}, {shapes}; only models of RGB images, (N, S, S, 3), can be "
            "imported"
        )
    if height != width:
        raise ModelFileError(
            f"{name} takes images of {height} x {width} pixels (height x width); a tailorbird "
            "model takes square ones"
        )
    if height is None and size is None:
        raise SettingsError(
            f"{name} takes images of any size; give the one it was trained at, such as --size 150"
        )
    if height is not None and size not in (None, height):
        raise SettingsError(
            f"--size is {size}, but {name} takes images of {height} x {height} pixels; leave "
            "--size out"
        )
    side = int(height or size or 0)
    ResizeRule(side)  # raises for a size no model file can have
    return side


def _run(
    images: npt.NDArray[np.uint8], preprocess: str, function: Callable[[Any], Any]
) -> npt.NDArray[np.float32]:
    ops = backend.load().ops
    rows = [
        ops.convert_to_numpy(
            function(ops.convert_to_tensor(prepare(images[start : start + BATCH], preprocess)))
        )
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(rows).astype(np.float32)
