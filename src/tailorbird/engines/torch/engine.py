"""PyTorch with timm as an engine; importing this module imports neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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


class TimmEngine:
    """Networks of timm in PyTorch; see `protocol.Engine`."""

    name = "timm"
    example = "timm:mobilenetv3_large_100"
    model_suffix = ".safetensors"
    model_name = "{}.timm/model.safetensors"
    model_use = (
        "input (N, 3, {size}, {size}), normalised as config.json says; output {classes} logits, "
        "calibrated"
    )
    model_opening = 'timm.create_model("local-dir:{folder}", pretrained=True)'
    suffixes: Sequence[str] = (".safetensors",)
    preprocess_names: Mapping[str, str] = {}

    def open_network(self, backbone: onnx.ModelProto) -> TrainableNetwork:
        """Return the PyTorch network that a backbone file was made from."""
        from tailorbird.engines.torch.network import TorchNetwork

        return TorchNetwork(backbone)

    def scratch_network(
        self, *, size: int, classes: int, seed: int
    ) -> tuple[TrainableNetwork, Head]:
        """Refuse: the small network from random weights is one of Keras."""
        raise SettingsError(
            "the small network `cnn` is built with Keras; leave --engine out, or use --engine keras"
        )

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
        """Write a network of timm as a backbone file."""
        from tailorbird.engines.torch.pull import pull

        return pull(
            reference,
            size=size,
            weights=weights,
            arguments=arguments,
            resize=resize,
            folder=folder,
            progress=progress,
        )

    def recognises(self, path: Path) -> bool:
        """Return whether a file's name says that it holds weights as safetensors."""
        return path.suffix.lower() == ".safetensors"

    def read_classifier(
        self, path: Path, size: int | None, arch: str | None = None
    ) -> SourceClassifier:
        """Read a weights file of timm as a classifier."""
        from tailorbird.engines.torch.classifier import read_classifier

        return read_classifier(path, size, arch)

    def published_classifier(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        arguments: Mapping[str, object] | None = None,
        progress: Progress | None = None,
    ) -> PublishedClassifier:
        """Return a network of timm with its published classes."""
        from tailorbird.engines.torch.classifier import published_classifier

        return published_classifier(reference, size, weights, arguments, progress)

    def published_classes(self, reference: str) -> Sequence[str]:
        """Return the names of ImageNet's classes in timm, as many as the network has."""
        from tailorbird.engines.torch.classifier import published_classes

        return published_classes(reference)

    def save_model(
        self, model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
    ) -> None:
        """Write a model file as weights and a configuration that timm loads."""
        from tailorbird.engines.torch.export import save_model

        save_model(model, head, size=size, temperature=temperature, path=path)

    def run_saved(self, path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Open a file that `save_model` wrote and return the probabilities of images."""
        from tailorbird.engines.torch.export import run_saved

        return run_saved(path, images)

    def runtime(self) -> str:
        """Return the versions of PyTorch and timm."""
        from tailorbird.engines.torch import backend

        return backend.versions()


ENGINE: Engine = TimmEngine()
