"""Bases out of backbone and model files, and back into backbone files: the file says what network it was, and holds its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import onnx_files
from tailorbird.engines.keras import description
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.engines.keras.converter.backbone import export
from tailorbird.engines.keras.converter.convert import Output, convert
from tailorbird.engines.keras.converter.graph import flatten
from tailorbird.errors import BackboneError
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx

FINE_TUNED = "fine-tuned"
KEPT = ("name", "source", "licence", "trained_on", description.ENTRY)
"""Metadata of a backbone that hold for it at any size and with any weights."""


def open_proto(backbone: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """A backbone's content, from its file where a path is given. Raises BackboneError."""
    if isinstance(backbone, str | Path):
        return onnx_files.read_audited(backbone, BackboneError)
    return backbone


def input_size(proto: onnx.ModelProto) -> int:
    """S of the input `images`."""
    images = next(value for value in proto.graph.input if value.name == "images")
    return int(images.type.tensor_type.shape.dim[1].dim_value)


def base(proto: onnx.ModelProto, size: int) -> KerasBackbone:
    """The base that a backbone or model file was made from, with its weights, at an input size.

    Raises BackboneError when the file did not come from the Keras engine, SettingsError for a size the network cannot have.
    """
    model, preprocess = description.rebuild(proto, size)
    return of_model(model, preprocess, size)


def of_model(model: Any, preprocess: str, size: int) -> KerasBackbone:
    """A base around a Keras model from images to features (N, K). Raises BackboneError for one whose graph cannot be read."""
    graph = flatten(model)
    return KerasBackbone(size, model, graph, graph.outputs[0], preprocess)


def backbone(base: KerasBackbone, about: Mapping[str, str]) -> onnx.ModelProto:
    """A base with its weights of now as a backbone file's content, with `about` in its metadata. Raises BackboneError."""
    return export(base.model, preprocess=base.preprocess, size=base.size, about=about)


def below(base: KerasBackbone, key: str) -> onnx.ModelProto:
    """What lies below a tensor: input `images` uint8 (N, S, S, 3), output `activations` float32, channels last."""
    outputs = {"activations": Output(key)}
    return convert(
        base.graph, outputs, preprocess=base.preprocess, size=base.size, weights=base.model.weights
    )


def backbone_graph(proto: onnx.ModelProto) -> BackboneGraph:
    """What `model.graph.build` joins with a head, for a backbone of this engine: heat maps also where a map is flattened.

    Raises BackboneError when the file did not come from the Keras engine.
    """
    made = base(proto, input_size(proto))
    last = made.graph.nodes[-1]
    under = last.inputs[0]
    if last.kind not in ("GlobalAveragePooling2D", "Flatten") or len(under.shape) != 4:
        return BackboneGraph(proto, made.width, None, "none")
    height, width, channels = (int(side or 0) for side in under.shape[1:])
    if last.kind == "GlobalAveragePooling2D":
        return BackboneGraph(proto, made.width, (channels, height, width), "mean")
    outputs = {
        "features": Output(made.output.key),
        "feature_map": Output(under.key, "channels_first"),
    }
    with_map = convert(
        made.graph, outputs, preprocess=made.preprocess, size=made.size, weights=made.model.weights
    )
    onnx_files.set_metadata(with_map, onnx_files.metadata(proto))
    return BackboneGraph(with_map, made.width, (channels, height, width), "flatten")


def about(proto: onnx.ModelProto, *, tuned: bool) -> dict[str, str]:
    """What a backbone's metadata say of its origin. tuned: its weights have been trained on since."""
    said = {key: value for key, value in onnx_files.metadata(proto).items() if key in KEPT}
    before = said.get("trained_on", "not stated")
    if tuned and not before.endswith(FINE_TUNED):
        said["trained_on"] = f"{before}, {FINE_TUNED}"
    return said
