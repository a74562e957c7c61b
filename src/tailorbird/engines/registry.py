"""The engines by name, and the engine for a given file or reference.

To add an engine: a folder with a module whose `ENGINE` satisfies `protocol.Engine`, and one line in
ENGINES. Nothing here imports a framework.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import onnx_files
from tailorbird.backbone import catalogue
from tailorbird.engines.protocol import ClassifierReader, Engine, TrainableNetwork
from tailorbird.errors import HubError, ModelFileError, SettingsError
from tailorbird.head import Head
from tailorbird.progress import Progress

if TYPE_CHECKING:
    import onnx

ENGINES = {
    "keras": "tailorbird.engines.keras.engine",
    "timm": "tailorbird.engines.torch.engine",
}
"""Modules by engine name; each has an `ENGINE`."""

_PYTORCH = (
    "a PyTorch file, which holds no network or is a pickle, which can run any code; export the "
    "model to ONNX (torch.onnx.export), or save the weights of a timm network as .safetensors and "
    "name it with --arch"
)

SCRATCH = "cnn"
"""Name of the small network that an engine trains from random weights, given as a backbone."""

_READERS = ("tailorbird.engines.onnx.reader",)
"""Modules of readers that are no engines; each has a `READER`."""

_OTHER_FILES = {
    ".pb": "a TensorFlow graph; import the Keras model it was made from, a .keras or .h5 file",
    ".tflite": "a TensorFlow Lite model, which cannot be converted back; import the .keras or .h5 "
    "file it was made from",
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".pkl": "a pickle, which can run any code when it is opened and is never read; save the model "
    "in its framework's own format",
}
"""Descriptions by suffix of known files that no engine reads, for messages."""


def engine(name: str) -> Engine:
    """Return an engine by name. Raises SettingsError for an unknown one."""
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}; available: {', '.join(ENGINES)}")
    found: Engine = importlib.import_module(ENGINES[name]).ENGINE
    return found


def engines() -> Iterator[Engine]:
    """Return all engines."""
    return map(engine, ENGINES)


def engine_of(proto: onnx.ModelProto) -> str | None:
    """Return the name of the engine that wrote a backbone or the backbone of a model file."""
    return next((name for name in ENGINES if name in onnx_files.metadata(proto)), None)


def carried(backbone: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata entries of a backbone that engines need, which model files keep."""
    return {key: value for key, value in onnx_files.metadata(backbone).items() if key in ENGINES}


def engine_for_reference(reference: str) -> Engine | None:
    """Return the engine of a reference such as `keras:Xception`; None for other references."""
    scheme = reference.strip().partition(":")[0].lower()
    return engine(scheme) if ":" in reference and scheme in ENGINES else None


def reader_for_file(path: Path) -> ClassifierReader:
    """Return what can read a framework's model file. Raises ModelFileError."""
    others = [importlib.import_module(module).READER for module in _READERS]
    readers: list[ClassifierReader] = [*engines(), *others]
    found = next((one for one in readers if one.recognises(path)), None)
    if found is not None:
        return found
    endings = ", ".join(f"{', '.join(one.suffixes)} ({one.name})" for one in readers)
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; give a model file such as {endings}")
    try:
        empty = path.is_file() and path.stat().st_size == 0
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from None
    what = _OTHER_FILES.get(path.suffix.lower())
    if empty or what is None:
        kind = "empty" if empty else "not a model file of a known framework, or is damaged"
        what = f"{kind}; valid: {endings}"
    raise ModelFileError(f"{path} is {what}")


def open_network(
    backbone: onnx.ModelProto, path: Path, name: str | None = None
) -> TrainableNetwork:
    """Return a backbone as a network that can be fine-tuned.

    Args:
        backbone: content of the backbone file.
        path: path of the file, for messages.
        name: the engine that must be used; None takes the one that wrote the file.

    Raises:
        SettingsError: unknown engine, or the file was not written by it.
        BackboneError: the description in the file is damaged.
        MissingExtra: the framework is not installed.
    """
    author = engine_of(backbone)
    wanted = engine(name) if name is not None else None
    if author is None or (wanted is not None and wanted.name != author):
        example = (wanted or next(engines())).example
        origin = f"was exported from {author}" if author else "was not made by a training engine"
        by = f" by {name}" if name else ""
        raise SettingsError(
            f"{path.name} {origin}, so it cannot be fine-tuned{by}; pull a backbone that can, for "
            f"example `tailorbird backbones pull {example}`, then use train --finetune "
            f"--backbone {example.partition(':')[2]}"
        )
    return engine(author).open_network(backbone)


FLOAT = {"lite": "timm:tf_efficientnet_lite2"}
"""The float32 networks that shipped int8 backbones were made from, which can be trained."""


def trainable(backbone: str | Path, name: str | None, progress: Progress) -> str | Path:
    """Return the backbone to fine-tune for one that a user named; it is pulled if necessary.

    Args:
        backbone: name, path, or a reference such as `timm:convnext_atto`. For a shipped int8
            backbone, its float32 network is taken.
        name: the engine that must be used, if any.
        progress: receives a note.

    Raises HubError when the weights cannot be downloaded; what `Engine.pull` raises.
    """
    reference = str(backbone)
    wanted = FLOAT.get(reference)
    if wanted is not None and name in (None, wanted.partition(":")[0]):
        progress.note(f"{reference} is int8; fine-tuning takes its float32 network, {wanted}")
        reference = wanted
    return pulled(reference, progress) if engine_for_reference(reference) else backbone


def pulled(reference: str, progress: Progress) -> Path:
    """Return the backbone file of a reference such as `timm:convnext_atto`, pulled if necessary.

    A file of this name in the catalogue is taken, whatever weights it was pulled with.
    """
    found = engine_for_reference(reference)
    assert found is not None
    kept = catalogue.folder() / f"{reference.partition(':')[2]}{catalogue.SUFFIX}"
    if kept.exists():
        return kept
    try:
        return found.pull(reference, progress=progress)
    except HubError as error:
        raise HubError(
            f"{error} - where there is no connection, get the weights on another machine, run "
            f"`tailorbird backbones pull {reference} --weights FILE`, and then this command again"
        ) from None


def scratch_network(
    name: str | None, *, size: int, classes: int, seed: int
) -> tuple[TrainableNetwork, Head]:
    """Return a small network with random weights and its head.

    name: name of the engine; None takes the first. Raises SettingsError, MissingExtra.
    """
    return engine(name or next(iter(ENGINES))).scratch_network(
        size=size, classes=classes, seed=seed
    )
