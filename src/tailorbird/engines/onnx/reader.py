"""The reader of classifiers in ONNX; see `protocol.ClassifierReader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tailorbird.engines.protocol import ClassifierReader, SourceClassifier
from tailorbird.errors import SettingsError


class OnnxReader:
    """Reads `.onnx` files of any framework; needs none of them."""

    name = "ONNX"
    suffixes: Sequence[str] = (".onnx",)
    preprocess_names: Mapping[str, str] = {}

    def recognises(self, path: Path) -> bool:
        """Return whether the name of a file says that it is ONNX."""
        return path.suffix.lower() == ".onnx"

    def read_classifier(
        self, path: Path, size: int | None, arch: str | None = None
    ) -> SourceClassifier:
        """Read an ONNX file as a classifier."""
        from tailorbird.engines.onnx.classifier import open_classifier

        if arch is not None:
            raise SettingsError(f"{path} holds its own network; leave --arch out")
        return open_classifier(path, size)


READER: ClassifierReader = OnnxReader()
