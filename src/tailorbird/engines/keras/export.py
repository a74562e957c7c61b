"""A model file as a Keras model: what was learnt goes back to those who work in Keras.

    images (N, S, S, 3) RGB, 0 to 255 -> preprocess -> base -> head -> / temperature -> softmax -> probabilities (N, C)

Standard layers only, so the file opens with `keras.saving.load_model` and its `safe_mode`. The base's layers stand in it as they
are, under their own names; who trains it on and wants to keep batch norm's statistics sets `trainable = False` on those layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tailorbird import onnx_files
from tailorbird.engines.keras import backend, rebuilt
from tailorbird.engines.keras.backbone import KerasBackbone
from tailorbird.engines.keras.description import ENTRY
from tailorbird.errors import ModelFileError, SettingsError, TrainingError
from tailorbird.files import storage_error, write_bytes
from tailorbird.head import Dense, Head
from tailorbird.inference import Runner
from tailorbird.model.file import AGREEMENT, ModelInfo, info_from
from tailorbird.model.graph import PREFIX

if TYPE_CHECKING:
    import onnx

SUFFIX = ".keras"
_IMAGES = 8


@dataclass(frozen=True)
class HandedBack:
    """A written Keras file.

    classes: in the order of the probabilities. size: S. difference: the largest of a probability between it and the model file,
    on images drawn for the purpose.
    """

    path: Path
    classes: tuple[str, ...]
    size: int
    difference: float
    backend: str

    def as_dict(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "output": str(self.path),
            "classes": list(self.classes),
            "input_size": self.size,
            "difference": self.difference,
            "backend": self.backend,
            "bytes": self.path.stat().st_size,
        }


def to_keras(model_file: str | Path, output: str | Path) -> HandedBack:
    """Write a model file as a Keras model that takes uint8 or float pixels and predicts the same, or nothing.

    The saved file is opened again, in safe mode, and must agree with the model file to AGREEMENT before it takes its place.
    Raises ModelFileError for a model that did not come from the Keras engine, naming what it came from; SettingsError for a name
    that does not end in .keras; TrainingError when the two disagree; StorageError; MissingExtra.
    """
    model_file, output = Path(model_file), Path(output)
    if output.suffix != SUFFIX:
        raise SettingsError(
            f"{output} must end in {SUFFIX}; Keras chooses the format by the name: -o {output.stem}{SUFFIX}"
        )
    proto = onnx_files.read_audited(model_file, ModelFileError)
    info = info_from(proto, str(model_file))
    if ENTRY not in onnx_files.metadata(proto):
        origin = f"{info.backbone.get('name', 'an unknown backbone')} (source: {info.backbone.get('source', 'not stated')})"
        raise ModelFileError(
            f"{model_file} was made from {origin}, and holds no Keras layers to go back to: "
            "it did not come from Keras, or, imported, could not be written down anew; "
            "models trained on `backbones pull keras:NAME` or with --engine keras can be exported to Keras"
        )
    model = _assemble(rebuilt.base(proto, info.resize.size), head_in(proto, str(model_file)), info)
    # Beside the output: where the file has room to be written, it has room to be checked.
    with _temporary(output.absolute().parent) as folder:
        written = folder / f"model{SUFFIX}"
        try:
            model.save(written)
        except OSError as error:
            raise storage_error(written, error) from error
        difference = _difference(written, proto, info, str(model_file))
        if not difference < AGREEMENT:
            raise TrainingError(
                f"the Keras model's probabilities differ from those of {model_file} by up to {difference:.2g}, {AGREEMENT:g} is "
                "allowed; it was not written"
            )
        write_bytes(output, written.read_bytes())
    return HandedBack(
        output, info.classes, info.resize.size, difference, backend.load().backend.backend()
    )


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """A folder in another, gone afterwards. Raises StorageError."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".tailorbird-", dir=parent)
    except OSError as error:
        raise storage_error(parent, error) from error
    with made as folder:
        yield Path(folder)


def head_in(proto: onnx.ModelProto, name: str) -> Head:
    """The head inside a model file's graph. Raises ModelFileError when it has none of its own."""
    from onnx import numpy_helper

    tensors = {
        tensor.name: tensor for tensor in proto.graph.initializer if tensor.name.startswith(PREFIX)
    }
    layers: list[Dense] = []
    while {f"{PREFIX}weight{len(layers)}", f"{PREFIX}bias{len(layers)}"} <= set(tensors):
        weight, bias = (
            numpy_helper.to_array(tensors[f"{PREFIX}{kind}{len(layers)}"])
            for kind in ("weight", "bias")
        )
        layers.append(Dense(np.asarray(weight, np.float32), np.asarray(bias, np.float32)))
    if not layers:
        raise ModelFileError(
            f"{name} holds no head of dense layers; models made by `tailorbird train` do"
        )
    return Head(tuple(layers))


def _assemble(base: KerasBackbone, head: Head, info: ModelInfo) -> Any:
    keras = backend.load()
    layers = keras.layers
    # Keras casts uint8 pixels to the input's float32.
    images = keras.Input((base.size, base.size, 3), name=base.free_name("images"))
    hidden = base.whole(images)
    dense = []
    for number, layer in enumerate(head.layers):
        last = number + 1 == len(head.layers)
        activation = None if last else "relu"
        dense.append(
            layers.Dense(
                layer.weight.shape[1], activation, name=base.free_name(f"head_dense{number}")
            )
        )
        hidden = dense[-1](hidden)
    hidden = layers.Rescaling(1.0 / info.temperature, name=base.free_name("temperature"))(hidden)
    model = keras.Model(
        images, layers.Softmax(name=base.free_name("probabilities"))(hidden), name="tailorbird"
    )
    for made, layer in zip(dense, head.layers, strict=True):
        made.set_weights([layer.weight, layer.bias])
    return model


def _difference(written: Path, proto: onnx.ModelProto, info: ModelInfo, name: str) -> float:
    """The largest difference of a probability between the saved Keras file and the model file."""
    size = info.resize.size
    images = drawn(size)
    expected = Runner(proto, name, ModelFileError).run(images, ["probabilities"])[0]
    loaded = backend.load().saving.load_model(written, compile=False, safe_mode=True)
    found = np.asarray(loaded.predict_on_batch(images))
    return float(np.abs(found - expected).max()) if np.isfinite(found).all() else float("inf")


def drawn(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (8, S, S, 3): noise, coarse to fine, from one colour to one colour a pixel; what a network answers to all of it differs."""
    generator = np.random.default_rng(0)
    images = []
    for number in range(_IMAGES):
        fields = min(size, 2**number)
        coarse = generator.integers(0, 256, (fields, fields, 3), np.uint8)
        index = np.arange(size) * fields // size
        images.append(coarse[index][:, index])
    return np.stack(images)
