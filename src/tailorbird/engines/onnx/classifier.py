"""A classifier in ONNX: the graph below its head, its head, and its own answers.

Shapes: N photos uint8 (N, S, S, 3) RGB, S the side of the square input in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone.assembly import assemble, unused_prefix
from tailorbird.backbone.feature_output import FeatureOutput
from tailorbird.backbone.preprocessor import Preprocessing
from tailorbird.engines import source_graphs
from tailorbird.engines.onnx.analysis import Structure, Weights, analyse, walked
from tailorbird.engines.onnx.batch_axis import NotFreed, free_batch
from tailorbird.engines.onnx.reading import ADVICE, OpenedOnnx, open_onnx
from tailorbird.engines.preprocessing import PREPROCESS, prepare
from tailorbird.engines.protocol import KnownNetwork
from tailorbird.errors import ModelFileError
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model.graph import BackboneGraph
from tailorbird.onnx_files import NodeBuilder

if TYPE_CHECKING:
    import onnx

_BEFORE_PREPARATION = frozenset({"Identity", "Cast", "Transpose"})
_PREPARATION = frozenset({"Sub", "Add", "Mul", "Div", "BatchNormalization"})
_AGREEMENT = 1e-3
_WIDE = 50.0
"""Prepared pixels spread over at most a few units; a wider range means that 0 to 1 was expected."""


@dataclass(frozen=True)
class OnnxClassifier:
    """A classifier in ONNX; see `protocol.SourceClassifier`.

    Attributes:
        opened: the file.
        proto: its graph, for any number of images.
        structure: features, pooling and head.
        half: whether the features are float16.
        notes: what was changed in the graph.
        mean, std: normalisation of pixels from 0 to 1 that is known for the network, applied
            behind `preprocess`; None if the graph gets what `preprocess` makes.
        entry: metadata by which an engine can rebuild the network below the head.
        packages: distributions whose versions the model file states.
    """

    opened: OpenedOnnx
    proto: onnx.ModelProto
    structure: Structure
    half: bool
    notes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    entry: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the file's name without its ending."""
        return self.opened.path.stem

    @property
    def size(self) -> int:
        """Return S in pixels."""
        return self.opened.size

    @property
    def rule(self) -> ResizeRule:
        """Return how photos are resized for it: squashed."""
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
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes that the file states."""
        return self.opened.classes

    @property
    def why_no_heatmaps(self) -> str:
        """Return why there are no heat maps; empty where there are."""
        return self.structure.why

    def own_preprocessing(self) -> str | None:
        """Return the operator that prepares pixels from 0 to 255 inside the model."""
        if self.mean is not None:
            return f"timm's normalisation, mean {_shown(self.mean)} and std {_shown(self.std)}"
        found, spread = self._first_layers
        return found if found is not None and spread <= _WIDE else None

    def known_network(self) -> KnownNetwork | None:
        """Return what is known of how such a file was made."""
        facts, outputs = self.opened.facts, set(self.opened.outputs)
        if facts.get("author") == "Ultralytics":
            return KnownNetwork(
                "Ultralytics", "unit", "its metadata", "pixels / 255, as Ultralytics trains"
            )
        if {"classLabel", "loss"} <= outputs:
            return KnownNetwork(
                "Azure Custom Vision", "bgr", "its outputs classLabel and loss",
                "blue first and not scaled, as Azure Custom Vision exports",
            )  # fmt: skip
        found, spread = self._first_layers
        if found is not None and spread > _WIDE:
            return KnownNetwork(
                "a network that normalises pixels from 0 to 1", "unit", found,
                "pixels / 255, which its first layer normalises",
            )  # fmt: skip
        return None

    def backbone_graph(self, preprocess: str) -> tuple[BackboneGraph, Head]:
        """Return the graph below the head, and the head that gives logits (N, C).

        A sigmoid over one output z becomes the logits (-z / 2, z / 2). If the scores are only known
        as probabilities, the features are their logarithms. Raises BackboneError.
        """
        import onnx

        structure, head = self.structure, self.structure.head
        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        flat = structure.pooling == "flatten"
        features = self._add_flat(model) if flat else structure.features
        chosen = FeatureOutput(features, "pooled", structure.width)
        proto = assemble(
            model, self.opened.pixel, self._preparation(preprocess), chosen, half=self.half
        )
        onnx_files.set_metadata(proto, dict(self.entry) if preprocess == "none" else {})
        width = structure.width
        if structure.ending == "unknown" and self.gives_probabilities:
            source_graphs.take_logarithm(proto, self.outputs)
            head = source_graphs.identity_head(self.classes)
            return BackboneGraph(proto, self.classes, None, "none"), head
        head = head or source_graphs.identity_head(width)
        if flat:
            head = _channels_last(head, self._shape)
        if self.outputs == 1:
            head = source_graphs.two_sided(head)
        if structure.feature_map is None:
            return BackboneGraph(proto, width, None, "none"), head
        self._add_map(proto, structure.feature_map)
        return BackboneGraph(proto, width, self._shape, structure.pooling), head

    def logits(self, images: npt.NDArray[np.uint8], preprocess: str) -> npt.NDArray[np.float64]:
        """Return logits (N, C) of the file as it is, without its softmax or sigmoid.

        For one output z they are (-z / 2, z / 2); where only probabilities are known, their
        logarithms, as in `backbone_graph`.
        """
        rows = self._run(images, preprocess, self.structure.logits).astype(np.float64)
        if self.structure.ending == "unknown" and self.gives_probabilities:
            return source_graphs.log_probabilities(rows)
        return np.asarray(rows * [-0.5, 0.5] if rows.shape[1] == 1 else rows)

    @cached_property
    def gives_probabilities(self) -> bool:
        """Return whether the scores look like probabilities, on generated images."""
        shape = (self.size, self.size, 3)
        random = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
        plain = np.stack([np.full(shape, value, np.uint8) for value in (255, 0)])
        rows = self._run(np.concatenate([random, plain]), "unit", self.opened.scores)
        within = bool((rows >= 0).all() and (rows <= 1 + 1e-4).all())
        return within and (rows.shape[1] == 1 or bool(np.abs(rows.sum(axis=1) - 1).max() < 1e-3))

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Return (K, h, w) of the feature map."""
        name = self.structure.feature_map
        assert name is not None
        shape = measure(self.opened, [name])[name].shape[1:]
        if self.structure.layout == "first":
            channels, height, width = shape
        elif self.structure.layout == "last":
            height, width, channels = shape
        else:
            channels, height = shape[1], round(shape[0] ** 0.5)
            width = height
        return int(channels), int(height), int(width)

    def _add_flat(self, model: onnx.ModelProto) -> str:
        """Append the nodes that flatten the map in the order row, column, channel."""
        from onnx import helper

        prefix, source = unused_prefix(model.graph, "imported"), self.structure.feature_map
        assert source is not None
        model.graph.node.extend(
            [
                helper.make_node("Transpose", [source], [f"{prefix}last"], perm=[0, 2, 3, 1]),
                helper.make_node("Flatten", [f"{prefix}last"], [f"{prefix}flat"], axis=1),
            ]
        )
        return f"{prefix}flat"

    def _add_map(self, proto: onnx.ModelProto, source: str) -> None:
        """Append the output `feature_map`, float32 (N, K, h, w)."""
        from onnx import TensorProto, helper

        add, (channels, height, width) = NodeBuilder(unused_prefix(proto.graph, "map")), self._shape
        if self.half:
            source = add.node("Cast", source, to=TensorProto.FLOAT)
        if self.structure.layout == "first":
            add.node("Identity", source, name="feature_map")
        elif self.structure.layout == "last":
            add.node("Transpose", source, name="feature_map", perm=[0, 3, 1, 2])
        else:
            grid = add.constant("grid", np.array([0, channels, height, width], np.int64))
            rows = add.node("Transpose", source, perm=[0, 2, 1])
            add.node("Reshape", rows, grid, name="feature_map")
        proto.graph.node.extend(add.nodes)
        proto.graph.initializer.extend(add.constants)
        proto.graph.output.append(
            helper.make_tensor_value_info(
                "feature_map", TensorProto.FLOAT, ["N", channels, height, width]
            )
        )

    def _preparation(self, preprocess: str) -> Preprocessing:
        """Return what `preprocess` and the known normalisation do to pixels, as one step."""
        scale, offset, bgr = PREPROCESS[preprocess]
        if self.mean is not None and self.std is not None:
            inner = [1 / 255 / one for one in self.std]
            shift = [-one / other for one, other in zip(self.mean, self.std, strict=True)]
            offset = tuple(o * s + t for o, s, t in zip(offset, inner, shift, strict=True))
            scale = tuple(one * other for one, other in zip(scale, inner, strict=True))
        channels = [(-o / s, 1 / s) for s, o in zip(scale, offset, strict=True)]
        if bgr:
            channels.reverse()
        (m0, s0), (m1, s1), (m2, s2) = channels
        return Preprocessing(
            self.size, 1.0, 0.0, (m0, m1, m2), (s0, s1, s2), bgr, "not stated in the file"
        )

    def _run(
        self, images: npt.NDArray[np.uint8], preprocess: str, tensor: str
    ) -> npt.NDArray[np.float32]:
        """Return a tensor of the file itself, (N, numbers), for images of the file's size."""
        values = prepare(images, preprocess)
        if self.mean is not None and self.std is not None:
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            values = ((values / 255 - mean) / std).astype(np.float32)
        runner, step = self._runner(tensor), self.opened.batch or 8
        rows = []
        for start in range(0, len(values), step):
            part = values[start : start + step]
            missing = (self.opened.batch or len(part)) - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            found = runner.run_batch(_pixels(full, self.opened))[0]
            rows.append(found.reshape(len(full), -1)[: len(part)].astype(np.float32))
        return np.concatenate(rows)

    def _runner(self, tensor: str) -> Runner:
        probe = _with_outputs(self.opened.proto, [tensor])
        return Runner(probe, str(self.opened.path), ModelFileError)

    @cached_property
    def _first_layers(self) -> tuple[str | None, float]:
        """Return the first operator that scales pixels, and the range it and the next ones make.

        The range is that of the values for pixels from 0 to 255.
        """
        graph, here = self.proto.graph, self.opened.pixel.name
        weights, scale, found = Weights(graph), 1.0, None
        while True:
            users = [node for node in graph.node if here in node.input]
            if len(users) != 1:
                return found, 255 * scale
            node = users[0]
            if node.op_type in _PREPARATION:
                found = found or f"{node.name or here} ({node.op_type})"
                scale *= _factor(node, weights)
            elif node.op_type not in _BEFORE_PREPARATION:
                return found, 255 * scale
            here = node.output[0]


def _factor(node: onnx.NodeProto, weights: Weights) -> float:
    """Return by what a node at the input multiplies pixels, at most over the channels."""
    values = [weights.array(name) for name in node.input]
    constant = next((value for value in values if value is not None), None)
    if constant is None or node.op_type in ("Add", "Sub"):
        return 1.0
    if node.op_type == "BatchNormalization" and values[4] is not None:
        return float(np.abs(constant / np.sqrt(values[4] + 1e-5)).max())
    size = np.abs(constant.astype(np.float64))
    return float(size.max() if node.op_type == "Mul" else 1 / max(size.min(), 1e-12))


def _shown(values: tuple[float, ...] | None) -> str:
    return ", ".join(f"{value:.4g}" for value in values or ())


def _pixels(values: npt.NDArray[np.float32], opened: OpenedOnnx) -> npt.NDArray[Any]:
    """Return prepared images (N, S, S, 3) in the layout and type of the file's input."""
    ordered = values if opened.pixel.channels_last else values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(ordered, np.float16 if opened.pixel.half else np.float32)


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return probe


def measure(
    opened: OpenedOnnx, names: list[str], noise: npt.NDArray[np.float32] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Run a file on noise (N, S, S, 3) and return tensors by name. Raises ModelFileError."""
    noise = _noise(opened.batch or 2, opened.size) if noise is None else noise
    runner = Runner(_with_outputs(opened.proto, names), str(opened.path), ModelFileError)
    found = dict(zip(runner.outputs, runner.run_batch(_pixels(noise, opened)), strict=True))
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _noise(count: int, size: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random((count, size, size, 3), np.float32)


def _channels_last(head: Head, shape: tuple[int, int, int]) -> Head:
    """Return a head behind a map flattened as (channel, row, column) for (row, column, channel)."""
    first, *others = head.layers
    order = np.arange(len(first.weight)).reshape(shape).transpose(1, 2, 0).ravel()
    return Head((replace(first, weight=np.ascontiguousarray(first.weight[order])), *others))


def open_classifier(path: Path, size: int | None = None) -> OnnxClassifier:
    """Open an ONNX file as a classifier of square RGB images.

    size: needed where the file takes images of any size. Raises ModelFileError, and SettingsError
    for a size that does not fit.
    """
    return classifier_of(open_onnx(path, size))


def classifier_of(opened: OpenedOnnx, **facts: Any) -> OnnxClassifier:
    """Return an opened file as a classifier; facts: further fields of OnnxClassifier."""
    name = str(opened.path)
    tensors = walked(opened.proto.graph, opened.scores)
    values = measure(opened, tensors)
    scores = values.get(opened.scores)
    if (
        scores is None
        or scores.ndim not in (2, 4)
        or scores.size != scores.shape[0] * max(scores.shape[1:])
    ):
        shape = "no array" if scores is None else f"shape {scores.shape}"
        raise ModelFileError(
            f"{name}: its output {opened.scores} has {shape}; a classifier's is (N, classes): it "
            "was made for another task"
        )
    if not np.isfinite(scores).all():
        raise ModelFileError(f"{name} gives scores that are not finite; {ADVICE}")
    shapes = {key: value.shape for key, value in values.items()}
    structure = analyse(opened.proto.graph, opened.scores, shapes)
    _check_ending(structure, name)
    proto, notes = _any_batch(opened)
    half = values[structure.features].dtype == np.float16
    return OnnxClassifier(opened, proto, structure, half, notes, **facts)


def _check_ending(structure: Structure, name: str) -> None:
    """Raise ModelFileError for several labels per photo, or a score that is always 1."""
    if structure.ending == "sigmoid" and structure.outputs > 1:
        raise ModelFileError(
            f"{name} ends in a sigmoid over {structure.outputs} outputs, so several labels can be "
            "true of one photo; a tailorbird model gives each photo one class"
        )
    if structure.ending == "softmax" and structure.outputs == 1:
        raise ModelFileError(f"{name} ends in a softmax over a single output, which is always 1")


def _any_batch(opened: OpenedOnnx) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the graph for any number of images. Raises ModelFileError when that fails."""
    import onnx

    if opened.batch is None:
        return opened.proto, ()
    proto = onnx.ModelProto()
    proto.CopyFrom(opened.proto)
    refusal = (
        f"{opened.path} is fixed to batches of {opened.batch} inside; export it again with a free "
        "batch axis: dynamic=True in Ultralytics, dynamic_shapes or dynamic_axes in "
        "torch.onnx.export"
    )
    try:
        changed = free_batch(proto, opened.pixel.name, opened.batch, _shapes(opened))
        _compare_batches(opened, replace(opened, proto=proto, batch=None))
    except (NotFreed, ModelFileError) as problem:
        raise ModelFileError(refusal) from problem
    how = f" ({changed} nodes of its graph changed)" if changed else ""
    note = f"the file takes {opened.batch} at a time; the model file takes any number of images"
    return proto, (note + how,)


def _shapes(opened: OpenedOnnx) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the input and of everything that nodes give."""
    noise = _noise(opened.batch or 1, opened.size)
    tensors = [name for node in opened.proto.graph.node for name in node.output if name]
    found = {name: value.shape for name, value in measure(opened, tensors, noise).items()}
    return {**found, opened.pixel.name: _pixels(noise, opened).shape}


def _compare_batches(fixed: OpenedOnnx, free: OpenedOnnx) -> None:
    """Raise NotFreed unless two batches at once, and one, give the scores of each by itself."""
    count, scores = fixed.batch or 1, fixed.scores
    noise = _noise(2 * count, fixed.size)
    halves = [measure(fixed, [scores], part)[scores] for part in (noise[:count], noise[count:])]
    rows = np.concatenate(halves)
    allowed = _AGREEMENT * max(float(np.abs(rows).max()), 1e-6)
    for some in (2 * count, count):
        found = measure(free, [scores], noise[:some])[scores]
        if found.shape != rows[:some].shape:
            raise NotFreed(f"the scores have shape {found.shape} for {some} images")
        if not float(np.abs(found - rows[:some]).max()) <= allowed:
            raise NotFreed("scores depend on the other images")
