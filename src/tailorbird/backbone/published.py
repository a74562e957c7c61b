"""Read a published ONNX file, complete it and check it before anything is built on it.

What other tools export varies: weights in a second file, functions of their own, operators of one
runtime only. The result has one form, or the file is refused with what was seen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tailorbird import onnx_files
from tailorbird.backbone.contract import LEAST_OPSET
from tailorbird.errors import BackboneError
from tailorbird.inference import first_line, runtime_version

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 1_500_000_000
"""Maximum size of a network with all its weights: a protobuf file cannot exceed 2 GB."""

OTHER_FILE = (
    "choose another ONNX file of the repository with `file`, "
    "such as the unquantised, unoptimised onnx/model.onnx"
)


@dataclass(frozen=True)
class PixelInput:
    """The image input of a published network.

    Attributes:
        name: Name of the input.
        half: Whether it takes float16 instead of float32.
        channels_last: Whether it is (N, H, W, 3) rather than (N, 3, H, W).
        fixed: Height and width that the graph fixes; None where it does not.
    """

    name: str
    half: bool
    channels_last: bool
    fixed: tuple[int | None, int | None]


def load(
    path: Path, *, advice: str = OTHER_FILE, least_opset: int = LEAST_OPSET
) -> onnx.ModelProto:
    """Read a network with all weights inside, functions inlined, standard operators only.

    Args:
        path: The file; weights in other files of its folder are read as well.
        advice: What to do instead, at the end of messages.
        least_opset: The earliest operator set that is accepted.

    Raises:
        BackboneError: The file is not ONNX, weights are missing or outside the folder, it exceeds
            1.5 GB, or its operators or versions are not supported.
    """
    import onnx
    import onnx.inliner

    model = _parse(path)
    _embed(model, path)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as problem:  # the C++ inliner throws RuntimeError and ValueError alike
            raise BackboneError(
                f"{path.name} defines functions that cannot be inlined: {first_line(problem)}; "
                f"{advice}"
            ) from None
    _check_operators(model, path.name, advice, least_opset)
    if len(model.graph.node) == 0:
        raise BackboneError(f"{path.name} holds no graph; it is not a network")
    return model


def external_files(path: Path) -> list[str]:
    """Return the names, relative to the file's folder, of other files that hold its weights.

    Raises:
        BackboneError: The file is not ONNX, or a name leads outside the folder.
    """
    outside = filter(onnx_files.is_external, onnx_files.tensors(_parse(path)))
    return sorted({_location(tensor, path.name) for tensor in outside})


def pixel_input(model: onnx.ModelProto) -> PixelInput:
    """Return the only input of a network, which must be an image.

    Raises:
        BackboneError: There is another input, or it is not an image; the message lists the inputs
            and what is supported.
    """
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    seen = f"inputs seen: {onnx_files.describe(inputs)}"
    if len(inputs) != 1:
        advice = (
            "supported is a network with one image input, such as a feature extractor or an image "
            "classifier"
        )
        if any("ids" in value.name or "text" in value.name for value in inputs):
            advice = (
                "choose a vision-only file such as onnx/vision_model.onnx with `file`, "
                "if the repository has one"
            )
        raise BackboneError(
            f"the network takes {len(inputs)} inputs, not just an image; {seen}; {advice}"
        )
    kind = inputs[0].type.tensor_type
    outputs = {value.name for value in model.graph.output}
    if kind.elem_type == onnx.TensorProto.UINT8 and "features" in outputs:
        raise BackboneError(
            "this file is a tailorbird backbone already; use it directly: --backbone FILE.onnx"
        )
    dimensions = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if kind.elem_type not in floats or len(dimensions) != 4:
        raise BackboneError(
            f"the input is not an image; {seen}; "
            "supported is float32 or float16 of shape (N, 3, H, W)"
        )
    # A fixed 3 at the end only is TensorFlow's order; with every axis open, channels come first.
    channels_last = dimensions[3] == 3 and dimensions[1] != 3
    channels = dimensions[3 if channels_last else 1]
    if channels not in (3, None):
        raise BackboneError(f"the input has {channels} channels; {seen}; it must have three (RGB)")
    height, width = dimensions[1:3] if channels_last else dimensions[2:4]
    half = kind.elem_type == onnx.TensorProto.FLOAT16
    return PixelInput(inputs[0].name, half, channels_last, (height or None, width or None))


def _parse(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        if path.stat().st_size > MOST_BYTES:
            raise _too_large(path.name, path.stat().st_size)
        data = path.read_bytes()
    except OSError as problem:
        raise BackboneError(f"{path} cannot be read: {problem.strerror}") from None
    if data.startswith(b"version https://git-lfs"):
        raise BackboneError(
            f"{path.name} is a Git LFS pointer, not the network itself; fetch it with "
            "`git lfs pull`"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError has no stable home
        raise BackboneError(
            f"{path.name} is not an ONNX file, or it is truncated; download it again"
        ) from None
    return model


def _too_large(name: str, size: int) -> BackboneError:
    return BackboneError(
        f"{name} has {size / 1e9:.1f} GB of weights; at most {MOST_BYTES / 1e9:.1f} GB fit into "
        "one backbone file; choose a smaller member of the family"
    )


def _embed(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that are kept in other files into the model.

    onnx.load cannot be used: it refuses symbolic links, and in the download cache every file is
    one.
    """
    outside = [tensor for tensor in onnx_files.tensors(model) if onnx_files.is_external(tensor)]
    total = path.stat().st_size
    for name in {_location(tensor, path.name) for tensor in outside}:
        beside = path.parent / name
        if not beside.is_file():
            raise BackboneError(
                f"{path.name} keeps weights in {name}, which is not beside it; "
                "download both into one folder"
            )
        total += beside.stat().st_size
    if total > MOST_BYTES:
        raise _too_large(path.name, total)
    for tensor in outside:
        _read_weights(tensor, path)


def _read_weights(tensor: onnx.TensorProto, path: Path) -> None:
    stored = {entry.key: entry.value for entry in tensor.external_data}
    beside = path.parent / _location(tensor, path.name)
    try:
        offset, length = int(stored.get("offset", 0)), int(stored.get("length", -1))
        with beside.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
    except (ValueError, OSError) as problem:
        raise BackboneError(
            f"{path.name}: weight {tensor.name!r} cannot be read from {beside.name}: {problem}"
        ) from None
    if length >= 0 and len(data) != length:
        raise BackboneError(
            f"{beside.name} is truncated: weight {tensor.name!r} ends after {len(data)} of "
            f"{length} bytes"
        )
    tensor.raw_data = data
    del tensor.external_data[:]
    tensor.data_location = tensor.DEFAULT


def _location(tensor: onnx.TensorProto, name: str) -> str:
    """Return the file of a tensor's weights, relative to the folder and never outside it."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    parts = PurePosixPath(location).parts
    escapes = location.startswith("/") or ".." in parts or "\\" in location or ":" in location
    if not parts or escapes:
        raise BackboneError(
            f"{name} keeps weights at {location!r}, outside its own folder; "
            "such files are not opened"
        )
    return location


def _check_operators(model: onnx.ModelProto, name: str, advice: str, least_opset: int) -> None:
    """Refuse operators outside the ONNX standard and operator sets that are too old or too new."""
    import onnx

    unknown: dict[str, set[str]] = defaultdict(set)
    for node in onnx_files.nodes(model.graph):
        if node.domain not in onnx_files.STANDARD_DOMAINS:
            unknown[node.domain].add(node.op_type)
    if unknown:
        listed = "; ".join(
            f"{domain}: {', '.join(sorted(operators))}"
            for domain, operators in sorted(unknown.items())
        )
        raise BackboneError(
            f"{name} uses operators outside the ONNX standard ({listed}), which run in one runtime "
            f"only; {advice}"
        )
    if any(node.op_type == "DynamicQuantizeLinear" for node in onnx_files.nodes(model.graph)):
        raise BackboneError(
            f"{name} is dynamically quantised: the quantisation step is taken over the whole "
            f"batch, so a photo's features would depend on the photos beside it; {advice}"
        )
    opset = onnx_files.standard_opset(model)
    if opset < least_opset:
        raise BackboneError(
            f"{name} is written in operator set {opset}; at least {least_opset} is needed: {advice}"
        )
    if opset > onnx.defs.onnx_opset_version() or model.ir_version > onnx.IR_VERSION:
        raise BackboneError(
            f"{name} is written in operator set {opset}, IR version {model.ir_version}; the "
            f"installed onnx {onnx.__version__} and onnxruntime {runtime_version()} are older: "
            "pip install --upgrade onnxruntime onnx"
        )
