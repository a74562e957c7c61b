"""The model file: one ONNX file whose metadata say everything else. Written only if it agrees with the pipeline, opened only
after an audit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.errors import ModelFileError, TrainingError
from tailorbird.files import atomic_path
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model.graph import TOP

if TYPE_CHECKING:
    import onnx

KEY = "tailorbird"
"""The metadata entry that holds everything as one JSON object."""

FORMAT = 1
"""Raised when an older tailorbird could misread a file. Every number from 1 on stays readable."""

AGREEMENT = 1e-3
"""The largest difference of a probability between the finished file and the pipeline that made it."""


@dataclass(frozen=True)
class ModelInfo:
    """A model file's metadata.

    classes: in the order of the probabilities. threshold: below this probability the model is unsure. temperature: what the
    logits were divided by. scores: {"validation": ..., "test": ...} as in `evaluate --json`, empty where it was not scored.
    backbone: name, licence, source and hash of the features' origin. settings, seed, data (fingerprint, counts), versions,
    created: how it was made.
    """

    classes: tuple[str, ...]
    resize: ResizeRule
    threshold: float
    temperature: float
    scores: dict[str, Any]
    backbone: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    data: dict[str, Any]
    versions: dict[str, str]
    created: str

    def as_dict(self) -> dict[str, Any]:
        """The JSON object under the key `tailorbird`."""
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "resize": self.resize.as_dict(),
            "threshold": self.threshold,
            "temperature": self.temperature,
            "scores": self.scores,
            "backbone": self.backbone,
            "settings": self.settings,
            "seed": self.seed,
            "data": self.data,
            "versions": self.versions,
            "created": self.created,
        }


def _number(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )


def info_from(model: onnx.ModelProto, name: str) -> ModelInfo:
    """Read and check a model file's metadata against its graph. Raises ModelFileError."""
    text = onnx_files.metadata(model).get(KEY)
    if text is None:
        raise ModelFileError(
            f"{name} is not a tailorbird model: its metadata lack the key {KEY!r}; a backbone alone cannot predict"
        )
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ModelFileError(
            f"{name}: the metadata are not JSON ({error}); the file is damaged"
        ) from None
    if not isinstance(said, dict):
        raise ModelFileError(f"{name}: the metadata are not a JSON object; the file is damaged")
    if said.get("format") != FORMAT:
        raise ModelFileError(
            f"{name} has format number {said.get('format')!r}; this tailorbird reads format {FORMAT}; upgrade tailorbird or train the model again"
        )
    classes = said.get("classes")
    if (
        not isinstance(classes, list)
        or len(classes) < 2
        or not all(isinstance(c, str) for c in classes)
        or len(set(classes)) < len(classes)
    ):
        raise ModelFileError(
            f"{name}: 'classes' must be a list of at least two different names; it is {str(classes)[:100]}"
        )
    if not _number(said.get("threshold"), 0, 1) or not _number(said.get("temperature"), 1e-6, 1e6):
        raise ModelFileError(f"{name}: 'threshold' must be a number from 0 to 1 and 'temperature' a positive one; they are "
                             f"{said.get('threshold')!r} and {said.get('temperature')!r}")  # fmt: skip
    for field, kind in (
        ("scores", dict),
        ("backbone", dict),
        ("settings", dict),
        ("seed", int),
        ("data", dict),
        ("versions", dict),
        ("created", str),
    ):
        if not isinstance(said.get(field), kind):
            raise ModelFileError(
                f"{name}: the metadata's {field!r} is missing or of the wrong type; the file is damaged"
            )
    info = ModelInfo(
        classes=tuple(classes),
        resize=ResizeRule.from_dict(said.get("resize")),
        **{
            key: said[key]
            for key in (
                "threshold",
                "temperature",
                "scores",
                "backbone",
                "settings",
                "seed",
                "data",
                "versions",
                "created",
            )
        },
    )
    _agree(model, info, name)
    return info


def _agree(model: onnx.ModelProto, info: ModelInfo, name: str) -> None:
    """The metadata's classes and size must be the graph's."""
    import onnx

    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    outputs = {value.name: value for value in model.graph.output}
    size, count = info.resize.size, len(info.classes)

    def dimensions(value: onnx.ValueInfoProto) -> list[int]:
        return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]

    if (
        len(inputs) != 1
        or inputs[0].name != "images"
        or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8
    ):
        raise ModelFileError(
            f"{name}: the graph must take the single input images, uint8; it takes {onnx_files.describe(inputs)}"
        )
    if dimensions(inputs[0])[1:] != [size, size, 3]:
        raise ModelFileError(
            f"{name}: the metadata say pictures of {size} x {size}, the graph takes {onnx_files.describe(inputs)}; "
            "they must agree: the file was altered"
        )
    if "probabilities" not in outputs or dimensions(outputs["probabilities"])[1:] != [count]:
        raise ModelFileError(
            f"{name}: the metadata name {count} classes, the graph gives {onnx_files.describe(model.graph.output)}; "
            "they must agree: the file was altered"
        )
    if "heatmaps" in outputs and (
        len(dimensions(outputs["heatmaps"])) != 4
        or dimensions(outputs["heatmaps"])[1] != min(TOP, count)
    ):
        raise ModelFileError(
            f"{name}: heatmaps must have shape (N, {min(TOP, count)}, h, w); it is {onnx_files.describe([outputs['heatmaps']])}"
        )


def write(
    path: str | Path,
    graph: onnx.ModelProto,
    info: ModelInfo,
    *,
    images: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.floating[Any]],
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write the model file, but only once the finished bytes, opened as a user would and run, agree with the pipeline.

    images: uint8 (M, S, S, 3), real validation photos. expected: the pipeline's probabilities for them, (M, C).
    extra: further metadata entries beside `tailorbird`, such as `engines.registry.carried` returns.
    Raises TrainingError when they disagree by AGREEMENT or more, StorageError when the file cannot be written. Either way
    `path` keeps what it held.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    onnx_files.set_metadata(
        model, {**(extra or {}), KEY: json.dumps(info.as_dict(), ensure_ascii=False)}
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        verify(temporary, images, expected)


def verify(
    path: Path,
    images: npt.NDArray[np.uint8],
    expected: Sequence[Any] | npt.NDArray[np.floating[Any]],
) -> float:
    """Open a model file as a user would, run it, and compare; the largest difference. Raises TrainingError or ModelFileError."""
    proto = onnx_files.read_audited(path, ModelFileError)
    info_from(proto, str(path))
    runner = Runner(proto, str(path), ModelFileError)
    results = dict(zip(runner.outputs, runner.run(images), strict=True))
    if not all(np.isfinite(result).all() for result in results.values()):
        raise TrainingError(
            "the finished model gives values that are not finite; it was not written"
        )
    worst = float(np.abs(results["probabilities"] - np.asarray(expected)).max())
    if worst >= AGREEMENT:
        raise TrainingError(
            f"the finished model's probabilities differ from the pipeline's by up to {worst:.2g}, {AGREEMENT:g} is allowed; it was not written"
        )
    return worst
