"""Open a classifier in ONNX as untrusted input: audit it, find its scores, free its batch axis."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import onnx_files
from tailorbird.backbone import published
from tailorbird.backbone.assembly import names_of, rename
from tailorbird.backbone.contract import LEAST_OPSET
from tailorbird.backbone.published import PixelInput
from tailorbird.errors import BackboneError, ModelFileError, SettingsError
from tailorbird.images import ResizeRule

if TYPE_CHECKING:
    import onnx

ADVICE = "export the classifier again, as a float32 ONNX file"
_SCORES = ("logits", "output", "probabilities", "scores", "model_output", "loss")
"""Names of outputs that hold scores, the most telling first, where a file has several."""

_OWN_NAMES = ("images", "feature", "probabilities", "heatmaps", "tailorbird", "imported", "map")
"""What names of tensors begin with that are added to the graph."""

_UINT8 = 2
"""TensorProto.UINT8."""


@dataclass(frozen=True)
class OpenedOnnx:
    """A classifier in ONNX.

    Attributes:
        path: the file.
        proto: its graph, with the scores as the only output; inlined, without external weights.
        pixel: its input.
        scores: name of that output.
        batch: number of images that the file fixes; None where it takes any.
        size: S in pixels.
        classes: names of the classes that the file states; empty if it states none.
        facts: the file's metadata.
        outputs: names of all outputs that the file has.
    """

    path: Path
    proto: onnx.ModelProto
    pixel: PixelInput
    scores: str
    batch: int | None
    size: int
    classes: tuple[str, ...]
    facts: dict[str, str]
    outputs: tuple[str, ...]


def open_onnx(path: Path, size: int | None) -> OpenedOnnx:
    """Open a file; size: side of the images in pixels, where the file does not fix it.

    Raises ModelFileError for a file that is damaged, unsafe or no classifier of photos,
    SettingsError for a size that does not fit.
    """
    _refuse_own(path)
    try:
        model = published.load(path, advice=ADVICE, least_opset=1)
        pixel = published.pixel_input(model)
    except BackboneError as problem:
        raise ModelFileError(_without_hub(f"{path}: {problem}")) from None
    onnx_files.parse_audited(model.SerializeToString(), str(path), ModelFileError)
    facts = onnx_files.metadata(model)
    outputs = tuple(value.name for value in model.graph.output)
    scores, classes = _scores(model, str(path))
    taken = names_of(model.graph)
    renamed = {name: f"source/{name}" for name in taken if name.startswith(_OWN_NAMES)}
    rename(model.graph, renamed)
    scores = renamed.get(scores, scores)
    pixel = PixelInput(
        renamed.get(pixel.name, pixel.name), pixel.half, pixel.channels_last, pixel.fixed
    )
    batch = _batch(model, pixel)
    model = _cut(model, pixel, scores, str(path))
    side = _side(pixel, size, facts, str(path))
    names = classes or _stated_classes(facts)
    return OpenedOnnx(path, model, pixel, scores, batch, side, names, facts, outputs)


def _refuse_own(path: Path) -> None:
    """Raise ModelFileError for a model file or backbone of tailorbird, and for what is no ONNX."""
    try:
        model = onnx_files.read_audited(path, ModelFileError)
    except ModelFileError as problem:
        if "is not an ONNX file" in str(problem) or "does not exist" in str(problem):
            raise
        return  # perhaps weights beside it: refused below, or read
    outputs = {value.name for value in model.graph.output}
    pixels = [value.type.tensor_type.elem_type for value in model.graph.input]
    if pixels == [model.graph.input[0].type.tensor_type.elem_type] == [_UINT8]:
        if "probabilities" in outputs:
            raise ModelFileError(f"{path} is a tailorbird model, which needs no import")
        if "features" in outputs:
            raise ModelFileError(
                f"{path} is a tailorbird backbone, not a classifier; use it with `train --backbone "
                f"{path.name}`"
            )


def _without_hub(text: str) -> str:
    """Return a message without what is only true of a repository on the hub."""
    return text.replace(published.OTHER_FILE, ADVICE)


def _scores(model: onnx.ModelProto, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the tensor that holds a classifier's scores, and the class names beside it."""
    import onnx

    makers = {output: node for node in model.graph.node for output in node.output}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for value in model.graph.output:
        node = makers.get(value.name)
        if node is not None and node.op_type == "ZipMap":  # names and scores in a list of maps
            found[value.name] = (node.input[0], _zipped(node))
        elif value.type.tensor_type.elem_type in floats and _row(value):
            found[value.name] = (value.name, ())
    if len(found) == 1:
        return next(iter(found.values()))
    for wanted in _SCORES:
        matches = [key for key in found if key.lower() == wanted]
        if matches:
            return found[matches[0]]
    seen = onnx_files.describe(model.graph.output)
    raise ModelFileError(
        f"{name} has {len(found)} outputs that may be the scores of classes; outputs seen: {seen}; "
        "a classifier has one, (N, classes); it may have been made for another task"
    )


def _row(value: onnx.ValueInfoProto) -> bool:
    """Return whether an output may be a row of scores per image: (N, C) or (N, C, 1, 1)."""
    dimensions = value.type.tensor_type.shape.dim
    if not dimensions:
        return True  # not stated: it is measured later
    return len(dimensions) in (2, 4) and all(side.dim_value in (0, 1) for side in dimensions[2:])


def _zipped(node: onnx.NodeProto) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_strings":
            return tuple(text.decode("utf-8", "replace") for text in attribute.strings)
    return ()


def _batch(model: onnx.ModelProto, pixel: PixelInput) -> int | None:
    """Return the number of images that the input is fixed at; None if it is free."""
    value = next(value for value in model.graph.input if value.name == pixel.name)
    first = value.type.tensor_type.shape.dim[0]
    return int(first.dim_value) or None if first.HasField("dim_value") else None


def _cut(model: onnx.ModelProto, pixel: PixelInput, scores: str, name: str) -> onnx.ModelProto:
    """Return the graph with the scores as its only output, in an operator set that can be joined.

    The shapes that the exporter noted are removed: they may fix the batch.
    """
    import onnx

    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.append(onnx.ValueInfoProto(name=scores))
    onnx_files.remove_unused(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name == pixel.name]
    inputs[0].type.tensor_type.shape.dim[0].dim_param = "N"
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # before, every weight had to be an input too
    opset = onnx_files.standard_opset(model)
    if opset >= LEAST_OPSET:
        return model
    try:
        model.graph.output[0].CopyFrom(
            onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, ["N", "C"])
        )
        entries = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        kept_opsets = [onnx.OperatorSetIdProto(domain="", version=entries[0].version)]
        del model.opset_import[:]
        model.opset_import.extend(kept_opsets)
        assert weights is not None
        return onnx.version_converter.convert_version(model, 13)
    except Exception as problem:  # the C++ converter throws RuntimeError and others
        raise ModelFileError(
            f"{name} is written in operator set {opset}, and cannot be converted to a newer one "
            f"({str(problem).splitlines()[0][:200]}); {ADVICE} of operator set {LEAST_OPSET} or "
            "newer"
        ) from None


def _side(pixel: PixelInput, size: int | None, facts: dict[str, str], name: str) -> int:
    """Return the side of the images in pixels."""
    height, width = pixel.fixed
    if height != width and None not in pixel.fixed:
        raise ModelFileError(
            f"{name} takes images of {height} x {width} pixels (height x width); a tailorbird "
            "model takes square ones"
        )
    fixed = height or width
    if fixed is not None and size not in (None, fixed):
        raise SettingsError(
            f"--size is {size}, but {name} takes images of {fixed} x {fixed} pixels; leave --size "
            "out"
        )
    stated = _literal(facts.get("imgsz"))
    if isinstance(stated, list) and len(stated) == 2 and stated[0] == stated[1]:
        stated = stated[0]
    side = fixed or size or (stated if isinstance(stated, int) else None)
    if side is None:
        raise SettingsError(
            f"{name} takes images of any size; give the one it was trained at, such as --size 224"
        )
    ResizeRule(side)  # raises for a size no model file can have
    return side


def _stated_classes(facts: dict[str, str]) -> tuple[str, ...]:
    """Return the class names in metadata, as Ultralytics writes them: {0: 'hat', 1: 'shoe'}."""
    for key in ("names", "classes", "labels", "class_names"):
        stated = _literal(facts.get(key))
        if isinstance(stated, dict):
            numbers = {str(number): name for number, name in stated.items()}
            stated = [numbers.get(str(number)) for number in range(len(numbers))]
        if isinstance(stated, list) and stated and all(isinstance(name, str) for name in stated):
            return tuple(stated)
    return ()


def _literal(text: str | None) -> Any:
    """Return the value of a literal of JSON or Python; None where it is not one."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text or "")
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None
