"""Keras as an engine; importing this module imports neither Keras nor a backend."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras.recognition import PREPROCESS_NAMES
from tailorbird.engines.protocol import (
    SQUASH,
    Engine,
    PublishedClassifier,
    SourceClassifier,
    TrainableNetwork,
)
from tailorbird.errors import SettingsError
from tailorbird.head import Head
from tailorbird.progress import Progress

if TYPE_CHECKING:
    import onnx

SUFFIXES = (".keras", ".h5", ".hdf5")
_HDF5 = b"\x89HDF\r\n\x1a\n"


class KerasEngine:
    """Keras 3 on TensorFlow, JAX or PyTorch; see `protocol.Engine`."""

    name = "keras"
    example = "keras:MobileNetV2"
    model_suffix = ".keras"
    model_name = "{}.keras"
    model_use = (
        "input {size} x {size} pixels, uint8 or float RGB 0 to 255; output {classes} probabilities"
    )
    model_opening = 'keras.saving.load_model("{path}")'
    suffixes: Sequence[str] = (".keras", ".h5")
    preprocess_names: Mapping[str, str] = PREPROCESS_NAMES

    def open_network(self, backbone: onnx.ModelProto) -> TrainableNetwork:
        """Return the Keras network that a backbone file was made from."""
        from tailorbird.engines.keras.network import KerasNetwork

        return KerasNetwork(backbone)

    def scratch_network(
        self, *, size: int, classes: int, seed: int
    ) -> tuple[TrainableNetwork, Head]:
        """Return the network `cnn` with random weights and its head."""
        from tailorbird.engines.keras.scratch import scratch_network

        return scratch_network(classes, size=size, seed=seed)

    def pull(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        arguments: Mapping[str, object] | None = None,
        resize: str = SQUASH,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write a Keras application as a backbone file."""
        _refuse(reference, arguments)
        if resize != SQUASH:
            raise SettingsError(
                f"{reference} has no other resize rule: Keras squashes photos; leave --resize out"
            )
        from tailorbird.engines.keras.pull import pull

        return pull(reference, size=size, weights=weights, folder=folder, progress=progress)

    def recognises(self, path: Path) -> bool:
        """Return whether a file is HDF5 or a `.keras` archive, or its name says so."""
        if path.suffix.lower() in SUFFIXES or (path / "saved_model.pb").exists():
            return True
        if (path / "config.json").exists():
            return True
        try:
            with path.open("rb") as file:
                head = file.read(len(_HDF5))
            if head == _HDF5:
                return True
            return zipfile.is_zipfile(path) and "config.json" in zipfile.ZipFile(path).namelist()
        except (OSError, zipfile.BadZipFile):
            return False

    def read_classifier(
        self, path: Path, size: int | None, arch: str | None = None
    ) -> SourceClassifier:
        """Read a `.keras` or `.h5` file as a classifier."""
        if arch is not None:
            raise SettingsError(f"{path} holds its own network; leave --arch out")
        from tailorbird.engines.keras.classifier import open_classifier

        return open_classifier(path, size)

    def published_classifier(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        arguments: Mapping[str, object] | None = None,
        progress: Progress | None = None,
    ) -> PublishedClassifier:
        """Return a Keras application with its 1000 ImageNet classes."""
        _refuse(reference, arguments)
        from tailorbird.engines.keras.pull import published_classifier

        return published_classifier(reference, size, weights, progress)

    def published_classes(self, reference: str) -> Sequence[str]:
        """Return the names of ImageNet's 1000 classes as Keras has them."""
        from tailorbird.engines.keras.pull import imagenet_classes

        return imagenet_classes()

    def save_model(
        self, model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
    ) -> None:
        """Write a model file as a `.keras` file."""
        from tailorbird.engines.keras.export import save_model

        save_model(model, head, size=size, temperature=temperature, path=path)

    def run_saved(self, path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Open a `.keras` file and return the probabilities of images."""
        from tailorbird.engines.keras.export import run_saved

        return run_saved(path, images)

    def runtime(self) -> str:
        """Return the name of Keras' backend."""
        from tailorbird.engines.keras import backend

        return str(backend.load().backend.backend())


def _refuse(reference: str, arguments: Mapping[str, object] | None) -> None:
    """Raise SettingsError if there are arguments."""
    if arguments:
        raise SettingsError(
            f"{reference} takes no model arguments, as its published weights fit only the network "
            "as it is; leave --model-args out"
        )


ENGINE: Engine = KerasEngine()
