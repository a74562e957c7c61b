"""A classifier made in Keras, as what a tailorbird model file is built from: a backbone graph, a head, and what Keras itself answers.

Shapes: N photos, S the side of the square input in pixels, C classes. Photos are uint8 (N, S, S, 3) RGB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.keras import backend, description, model_files
from tailorbird.engines.keras.analysis import Structure, analyse
from tailorbird.engines.keras.converter.backbone import pixels
from tailorbird.engines.keras.converter.convert import PREPROCESS, Output, convert
from tailorbird.engines.keras.converter.graph import Graph, Node, flatten, replay
from tailorbird.errors import BackboneError, ModelFileError, SettingsError
from tailorbird.head import Dense, Head
from tailorbird.images import ResizeRule
from tailorbird.metrics.calibration import PROBABILITY_FLOOR
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx

MODES: Final = tuple(PREPROCESS)
"""What may be done to pixels 0 to 255 in front of a network: tf, caffe, torch, unit (x / 255), none."""

APPLICATIONS: Final = {
    "convnext": "none", "densenet": "torch", "efficientnet": "none", "efficientnet_v2": "none", "inception_resnet_v2": "tf",
    "inception_v3": "tf", "mobilenet": "tf", "mobilenet_v2": "tf", "mobilenet_v3": "none", "nasnet": "tf", "resnet": "caffe",
    "resnet50": "caffe", "resnet_v2": "tf", "vgg16": "caffe", "vgg19": "caffe", "xception": "tf",
}  # fmt: skip
"""The modules of keras.applications, and the mode that each one's `preprocess_input` means."""

# The first that fits counts. Names of whole models nested in another, and names of layers where a base was built in place.
_NESTED: Final = (
    ("xception", r"xception"), ("mobilenet_v3", r"mobilenetv?_?3"), ("mobilenet_v2", r"mobilenetv?_?2"), ("mobilenet", r"mobilenet"),
    ("inception_resnet_v2", r"inception_resnet"), ("inception_v3", r"inception"), ("resnet_v2", r"resnet\d+_?v2"), ("resnet", r"resnet\d+"),
    ("vgg16", r"vgg16"), ("vgg19", r"vgg19"), ("densenet", r"densenet"), ("nasnet", r"nasnet"), ("efficientnet_v2", r"efficientnet_?v2"),
    ("efficientnet", r"efficientnet"), ("convnext", r"convnext"),
)  # fmt: skip
_INNER: Final = (
    ("xception", {"block14_sepconv2", "block13_sepconv2_bn"}), ("mobilenet_v2", {"Conv_1", "expanded_conv_project"}),
    ("mobilenet", {"conv_dw_13", "conv_pw_13"}), ("inception_resnet_v2", {"block8_10_conv", "conv_7b"}), ("inception_v3", {"mixed10", "mixed9"}),
    ("densenet", {"conv5_block16_concat", "pool4_conv"}), ("resnet_v2", {"post_relu", "conv5_block3_out"}),
    ("resnet", {"conv5_block3_out", "conv1_relu"}), ("vgg19", {"block5_conv4", "block5_conv1"}), ("vgg16", {"block5_conv3", "block5_conv1"}),
)  # fmt: skip
_BEFORE: Final = frozenset(
    {"Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add"}
)
_HARMLESS: Final = frozenset({"RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear", "RandomContrast", "RandomBrightness",
                              "RandomCrop", "CenterCrop", "Resizing", "Dropout", "Identity", "GaussianNoise", "ZeroPadding2D"})  # fmt: skip


@dataclass(frozen=True)
class Classifier:
    """A Keras classifier, taken apart. size: S. classes: C, two where it has a single output. changes: see `model_files.Loaded`."""

    model: Any
    graph: Graph
    structure: Structure
    size: int
    keras_version: str
    changes: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Classes it tells apart."""
        return max(2, self.structure.outputs)


def open_classifier(path: str | Path, size: int | None = None) -> Classifier:
    """Open a `.keras` or `.h5` file as a classifier of square RGB images.

    size: needed where the model takes images of any size. Raises ModelFileError, SettingsError for a size that does not fit.
    """
    loaded = model_files.load(path)
    return classifier_of(
        loaded.model, str(path), size, keras_version=loaded.keras_version, changes=loaded.changes
    )


def classifier_of(
    model: Any,
    name: str,
    size: int | None = None,
    *,
    keras_version: str = "",
    changes: tuple[str, ...] = (),
) -> Classifier:
    """`open_classifier` for a Keras model in memory; `name` stands in the messages."""
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
            f"{name} ends in a sigmoid over {outputs} outputs, so any number of its labels may be true of one photo; "
            "a tailorbird model gives each photo one class. End it with a softmax (or, for two classes, with one output) and train that"
        )
    if structure.ending == "softmax" and outputs == 1:
        raise ModelFileError(
            f"{name} ends in a softmax over a single output, which is always 1; for two classes use a sigmoid"
        )
    return Classifier(
        model, graph, structure, size, keras_version or backend.load().__version__, changes
    )


def _size(graph: Graph, name: str, size: int | None) -> int:
    """The side of the model's input. Raises ModelFileError for anything but square RGB images, SettingsError for a size that is not its own."""
    said = "; ".join(str(tensor.shape) for tensor in graph.inputs)
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        raise ModelFileError(
            f"{name} takes {said}; a classifier of photos takes one image each, (N, S, S, 3)"
        )
    _, height, width, channels = graph.inputs[0].shape
    if channels != 3:
        what = "grey-scale images" if channels == 1 else f"images of {channels} channels"
        if height == 3:
            what = "images with the channels first"
        raise ModelFileError(
            f"{name} takes {what}, {said}; only models on RGB images, (N, S, S, 3), can be imported"
        )
    if height != width:
        raise ModelFileError(
            f"{name} takes images of {height} x {width} pixels (height x width); a tailorbird model takes square ones, to which it squashes photos"
        )
    if height is None:
        if size is None:
            raise SettingsError(
                f"{name} takes images of any size; give the one it was trained at, such as --size 150"
            )
    elif size is not None and size != height:
        raise SettingsError(
            f"--size is {size}, but {name} takes images of {height} x {height} pixels; leave --size out"
        )
    side = int(height or size or 0)
    ResizeRule(side)  # raises for a size no model file can have
    return side


def inside(graph: Graph) -> str | None:
    """The layer that already prepares the pixels inside the model, such as Rescaling; None where there is none."""
    here = graph.inputs[0]
    first = [node for node in graph.nodes if [tensor.key for tensor in node.inputs] == [here.key]]
    if len(first) == 3 and {node.kind for node in first} == {
        "GetItem"
    }:  # each channel by itself, as caffe's ways do
        return f"preprocess_input ({first[0].path} and what follows)"
    for node in graph.nodes:
        if [tensor.key for tensor in node.inputs] != [here.key]:
            continue
        if node.kind in _BEFORE:
            return f"{node.path} ({node.kind})"
        if node.kind not in _HARMLESS:
            return None
        here = node.outputs[0]
    return None


def base(graph: Graph) -> tuple[str, str] | None:
    """The Keras application the model is built on: (module of keras.applications, the name by which it is known); None if not known."""
    nested = {part for node in graph.nodes for part in node.path.split("/")[:-1]}
    for module, pattern in _NESTED:
        for name in sorted(nested):
            if re.search(pattern, name, re.IGNORECASE):
                return module, f"its part {name!r}"
    layers = {node.path.rpartition("/")[2] for node in graph.nodes}
    for module, names in _INNER:
        if names <= layers:
            return module, f"its layers {' and '.join(sorted(names))}"
    return None


def backbone_graph(classifier: Classifier, mode: str) -> tuple[BackboneGraph, Head]:
    """The network below the head as a backbone graph, and the head that gives logits (N, C) for its features.

    mode: one of MODES. A sigmoid over one output z becomes the logits (-z / 2, z / 2), whose softmax it is, so that each of the two classes
    has heat maps. The proto's metadata describe the network below the head as `description.rebuild` wants it, where Keras can write it down.
    Where the logits cannot be told from the probabilities, the features are the logarithms of these, at least PROBABILITY_FLOOR.
    Raises BackboneError for a layer that has no translation into ONNX.
    """
    structure = classifier.structure
    wanted = {"features": Output(structure.features.key)}
    if structure.feature_map is not None:
        wanted["feature_map"] = Output(structure.feature_map.key, "channels_first")
    described = _base(classifier) if structure.head is not None else None
    weights = classifier.model.weights if described is None else described.weights
    proto = convert(
        classifier.graph, wanted, preprocess=mode, size=classifier.size, weights=weights
    )
    if described is not None:
        onnx_files.set_metadata(proto, description.describe(preprocess=mode, model=described))
    outputs = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim][1:]
        for value in proto.graph.output
    }
    if len(outputs["features"]) > 1:
        _flatten_features(proto, outputs["features"][-1])
    width = outputs["features"][-1]
    head = structure.head
    if head is None:
        if _gives_probabilities(classifier):
            _take_logarithm(proto, classifier.structure.outputs)
            width = classifier.classes
            return BackboneGraph(proto, width, None, "none"), _identity(width)
        head = _identity(width)
    if classifier.structure.outputs == 1:
        head = _two_sided(head)
    if "feature_map" not in outputs:
        return BackboneGraph(proto, width, None, "none"), head
    channels, height, breadth = outputs["feature_map"]
    return BackboneGraph(proto, width, (channels, height, breadth), structure.pooling), head


def _base(classifier: Classifier) -> Any:
    """The network below the head as a Keras model of its own, of the same layers, (N, S, S, 3) to (N, F); None where Keras refuses that."""
    keras = backend.load()
    graph, features = classifier.graph, classifier.structure.features
    image = keras.Input((classifier.size, classifier.size, 3), name="images")
    try:
        result = replay(graph.nodes, {graph.inputs[0].key: image}, features.key, _as_in_use)
        if len(result.shape) > 2:
            result = keras.layers.Flatten(name="features")(result)
        return keras.Model(image, result, name=classifier.model.name)
    except ValueError:  # layers in different parts of the model with the same name
        return None


def _as_in_use(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a node as in inference: augmenting layers take no word for yes."""
    if getattr(node.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


def _identity(width: int) -> Head:
    return Head((Dense(np.eye(width, dtype=np.float32), np.zeros(width, np.float32)),))


def _two_sided(head: Head) -> Head:
    """One output z as two logits, -z / 2 and z / 2."""
    *inner, last = head.layers
    signs = np.array([-0.5, 0.5], np.float32)
    return Head((*inner, Dense(last.weight * signs, last.bias * signs)))


def _rename(proto: onnx.ModelProto, name: str) -> str:
    """Free an output's name for another tensor; the tensor's new name."""
    for node in proto.graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = f"{name}/before"
    return f"{name}/before"


def _append(
    proto: onnx.ModelProto, operator: str, inputs: list[str], output: str, **attributes: Any
) -> None:
    from onnx import helper

    proto.graph.node.append(
        helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes)
    )


def _constant(proto: onnx.ModelProto, name: str, values: npt.ArrayLike) -> str:
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def _declare(proto: onnx.ModelProto, width: int) -> None:
    """Say that the output `features` is float32 (N, width)."""
    from onnx import TensorProto, helper

    kept = [value for value in proto.graph.output if value.name != "features"]
    del proto.graph.output[:]
    proto.graph.output.extend(
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width]), *kept]
    )


def _flatten_features(proto: onnx.ModelProto, width: int) -> None:
    """Features (N, 1, 1, F) as (N, F)."""
    before = _rename(proto, "features")
    _append(
        proto,
        "Reshape",
        [before, _constant(proto, "features/shape", np.array([-1, width], np.int64))],
        "features",
    )
    _declare(proto, width)


def _take_logarithm(proto: onnx.ModelProto, outputs: int) -> None:
    """Probabilities as their logarithms; one of them, p, first as (1 - p, p)."""
    before = _rename(proto, "features")
    if outputs == 1:
        _append(
            proto,
            "Sub",
            [_constant(proto, "features/one", np.float32(1)), before],
            "features/other",
        )
        _append(proto, "Concat", ["features/other", before], "features/both", axis=1)
        before = "features/both"
    limits = [
        _constant(proto, f"features/{name}", np.float32(value))
        for name, value in (("least", PROBABILITY_FLOOR), ("most", 1))
    ]
    _append(proto, "Clip", [before, *limits], "features/clipped")
    _append(proto, "Log", ["features/clipped"], "features")
    _declare(proto, max(2, outputs))


def outputs(
    classifier: Classifier, images: npt.NDArray[np.uint8], mode: str
) -> npt.NDArray[np.float32]:
    """What the Keras model itself gives for photos, float32 (N, outputs)."""
    return _run(images, mode, lambda values: classifier.model(values, training=False))


def logits(
    classifier: Classifier, images: npt.NDArray[np.uint8], mode: str
) -> npt.NDArray[np.float64]:
    """Logits (N, C) as the Keras model itself computes them: its last activation left away.

    Of one output z they are (-z / 2, z / 2). Where only probabilities are known, their logarithms, as in `backbone_graph`.
    """
    structure = classifier.structure
    node = structure.activation
    if node is None:
        rows = outputs(classifier, images, mode).astype(np.float64)
        if structure.ending == "unknown" and _gives_probabilities(classifier):
            both = np.concatenate([1 - rows, rows], axis=1) if rows.shape[1] == 1 else rows
            return np.asarray(np.log(np.clip(both, PROBABILITY_FLOOR, 1)))
    else:
        rows = _run(
            images, mode, lambda values: _before_activation(classifier, node, values)
        ).astype(np.float64)
        rows = rows.reshape(len(rows), -1)
    return np.asarray(rows * [-0.5, 0.5] if rows.shape[1] == 1 else rows)


def _run(
    images: npt.NDArray[np.uint8], mode: str, function: Callable[[Any], Any], batch: int = 8
) -> npt.NDArray[np.float32]:
    keras = backend.load()
    rows = [
        keras.ops.convert_to_numpy(
            function(keras.ops.convert_to_tensor(pixels(images[start : start + batch], mode)))
        )
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(rows).astype(np.float32)


def _before_activation(classifier: Classifier, last: Node, values: Any) -> Any:
    """What goes into the model's last activation, which is a layer of its own or part of one."""
    linear = backend.load().activations.linear

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node is not last:
            return _as_in_use(node, args, kwargs)
        if node.kind not in ("Dense", "Conv2D"):
            return args[0]
        activation = node.operation.activation
        node.operation.activation = linear
        try:
            return node.operation(*args, **kwargs)
        finally:
            node.operation.activation = activation

    graph = classifier.graph
    return replay(graph.nodes, {graph.inputs[0].key: values}, last.outputs[0].key, call)


def _gives_probabilities(classifier: Classifier) -> bool:
    """Whether outputs that are not understood look like probabilities, on drawn images of all kinds."""
    random = np.random.default_rng(0)
    shape = (4, classifier.size, classifier.size, 3)
    images = np.concatenate(
        [
            random.integers(0, 256, shape, np.uint8),
            np.full((1, *shape[1:]), 255, np.uint8),
            np.zeros((1, *shape[1:]), np.uint8),
        ]
    )
    rows = outputs(classifier, images, "none")
    within = bool((rows >= 0).all() and (rows <= 1 + 1e-4).all())
    return within and (rows.shape[1] == 1 or bool(np.abs(rows.sum(axis=1) - 1).max() < 1e-3))
