"""What is computed of a partition: the answers of a model, or the features of a backbone.

The files that a task needs are kept in the folder of the answers, which every machine reaches; a
worker is a task that was opened from there. Photos of object stores are read while others are
computed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import Backbone, open_backbone
from tailorbird.backbone.catalogue import find, names_in
from tailorbird.cluster import storage
from tailorbird.cluster.sources import Photo
from tailorbird.dataset.samples import printable
from tailorbird.errors import BackboneError, ImageError, ModelFileError, StorageError
from tailorbird.images import decode, resize
from tailorbird.inference import DeviceChoice, chosen, map_batches, use_device
from tailorbird.model import Classifier, Failure, Source
from tailorbird.validation import Problems

_KEPT: Final = "_network-{}.onnx"
"""Names of a task's files in the folder of the answers."""

_READERS: Final = 8
"""Threads of a worker that read from an object store, where waiting takes longer than computing."""


class Worker(Protocol):
    """A task opened in the process that computes it."""

    def table(self, photos: Sequence[Photo]) -> Any:
        """Return the Arrow table of these photos: a row each, in order, with a column `error`."""


def _keep(output: str, contents: Sequence[bytes]) -> None:
    for number, content in enumerate(contents):
        storage.write(storage.joined(output, _KEPT.format(number)), content)


def _kept(output: str, count: int) -> tuple[bytes, ...]:
    """Return the files that were kept. Raises StorageError."""
    found = [storage.read(storage.joined(output, _KEPT.format(number))) for number in range(count)]
    if None in found:
        raise StorageError(
            f"{output} lacks files that the command wrote there; every worker must reach the folder"
        )
    return tuple(content for content in found if content is not None)


class Task(Protocol):
    """What to compute of each photo; it can be pickled."""

    @property
    def device(self) -> DeviceChoice:
        """Where it is computed, by whichever process opens it."""

    def about(self) -> Mapping[str, Any]:
        """Return what decides about the answers, as JSON."""

    def keep(self, output: str) -> Task:
        """Write the files to the folder of the answers; return the task that reads them there."""

    def open(self, output: str) -> Worker:
        """Open the files in this process, those that were kept if it has none itself."""


@dataclass(frozen=True)
class Predict:
    """Answers of a model file.

    Attributes:
        model: the content of the file; empty where it is kept in the folder of the answers.
        top: number of most probable classes to keep.
        strict: whether to refuse a file that gives other answers on this device.
        device: where to run.
    """

    model: bytes
    top: int = 3
    strict: bool = False
    device: DeviceChoice = field(default_factory=chosen)

    def __post_init__(self) -> None:
        """Raise SettingsError for an invalid `top`."""
        with Problems() as problems:
            problems.whole("top", self.top, 1)

    @classmethod
    def of(cls, path: Path, *, top: int = 3, strict: bool = False) -> Predict:
        """Read and open a model file once, to refuse it here and not on a worker.

        Raises:
            ModelFileError: the file is missing, damaged or unsafe.
        """
        Classifier(path, device="cpu")
        return cls(path.read_bytes(), top, strict)

    def about(self) -> Mapping[str, Any]:
        """Return what decides about the answers, as JSON."""
        digest = hashlib.sha256(self.model).hexdigest()
        about = {"holds": "predictions", "model_sha256": digest, "top": self.top}
        return {**about, "half": self.device.half}

    def keep(self, output: str) -> Predict:
        """Write the model to the folder of the answers. Raises StorageError."""
        _keep(output, (self.model,))
        return replace(self, model=b"")

    def open(self, output: str) -> Worker:
        """Open the model in this process. Raises ModelFileError, StorageError."""
        (model,) = (self.model,) if self.model else _kept(output, 1)
        with tempfile.TemporaryDirectory(prefix="tailorbird-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            try:
                classifier = Classifier(path, strict=self.strict, device=self.device)
                return _Predicting(classifier, self.top)
            except ModelFileError as error:
                raise ModelFileError(str(error).replace(str(path), "the model file")) from None


class _Predicting:
    def __init__(self, classifier: Classifier, top: int) -> None:
        self._classifier = classifier
        self._top = top

    def table(self, photos: Sequence[Photo]) -> Any:
        """Return label, probability and so on of each photo."""
        arrow = storage.pyarrow()
        sources = [_source(photo.path) for photo in photos]
        answers = self._classifier.stream(sources, top=self._top, workers=_threads(photos))
        rows = []
        for photo, answer in zip(photos, answers, strict=True):
            if isinstance(answer, Failure):
                row: dict[str, Any] = {"error": str(answer.error)}
            else:
                row = answer.as_dict()
            rows.append({**row, "path": printable(photo.path), "given_label": photo.label})
        ranked = arrow.struct([("label", arrow.string()), ("probability", arrow.float64())])
        schema = arrow.schema(
            [
                ("path", arrow.string()),
                ("given_label", arrow.string()),
                ("label", arrow.string()),
                ("probability", arrow.float64()),
                ("unsure", arrow.bool_()),
                ("unfamiliar", arrow.bool_()),
                ("unfamiliarity", arrow.float64()),
                ("top", arrow.list_(ranked)),
                ("error", arrow.string()),
            ]
        )
        return arrow.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Features:
    """Features of one backbone, or of several side by side.

    Attributes:
        count: number of backbones.
        mirror: whether to average features with those of the mirrored photo.
        backbones: the content of each file; empty where they are kept in the folder of the answers.
        device: where to run.
    """

    count: int
    mirror: bool = False
    backbones: tuple[bytes, ...] = ()
    device: DeviceChoice = field(default_factory=chosen)

    @classmethod
    def of(cls, names: str | Path, *, mirror: bool = False) -> Features:
        """Read and open backbones once, to refuse them here and not on a worker.

        Raises:
            BackboneError: there is no such backbone, or its file breaks the contract.
        """
        with use_device("cpu"):
            open_backbone(names, mirror=mirror)
        contents = tuple(find(name).read_bytes() for name in names_in(names))
        return cls(len(contents), mirror, contents)

    def about(self) -> Mapping[str, Any]:
        """Return what decides about the features, as JSON."""
        digests = [hashlib.sha256(content).hexdigest() for content in self.backbones]
        about = {"holds": "features", "backbones_sha256": digests, "mirror": self.mirror}
        return {**about, "half": self.device.half}

    def keep(self, output: str) -> Features:
        """Write the backbones to the folder of the answers. Raises StorageError."""
        _keep(output, self.backbones)
        return replace(self, backbones=())

    def open(self, output: str) -> Worker:
        """Open the backbones in this process. Raises BackboneError, StorageError."""
        contents = self.backbones or _kept(output, self.count)
        with tempfile.TemporaryDirectory(prefix="tailorbird-") as folder:
            paths = [Path(folder) / f"{i}.onnx" for i in range(self.count)]
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
            with use_device(self.device.name, half=self.device.half):
                backbone = open_backbone(",".join(map(str, paths)), mirror=self.mirror)
                _ = [part.runner for part in backbone.parts]  # opened while the files are there
            return _Embedding(backbone)


class _Embedding:
    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def table(self, photos: Sequence[Photo]) -> Any:
        """Return the features of each photo."""
        arrow = storage.pyarrow()
        width = self._backbone.info.width
        found: npt.NDArray[np.float32] = np.zeros((len(photos), width), np.float32)
        errors: list[str | None] = []
        for i, (error, row) in enumerate(self._rows(photos)):
            errors.append(error)
            if row is not None:
                found[i] = row
        missing = arrow.array([error is not None for error in errors])
        flat = arrow.array(found.reshape(-1))
        features = arrow.FixedSizeListArray.from_arrays(flat, width, mask=missing)
        columns = {
            "path": arrow.array([printable(photo.path) for photo in photos], arrow.string()),
            "label": arrow.array([photo.label for photo in photos], arrow.string()),
            "split": arrow.array([photo.split for photo in photos], arrow.string()),
            "features": features,
            "error": arrow.array(errors, arrow.string()),
        }
        return arrow.table(columns)

    def _rows(
        self, photos: Sequence[Photo]
    ) -> Iterator[tuple[str | None, npt.NDArray[np.float32] | None]]:
        rule, backbone = self._backbone.info.rule, self._backbone

        def load(photo: Photo) -> tuple[ImageError | None, npt.NDArray[np.uint8] | None]:
            try:
                picture = decode(storage.photo_bytes(photo.path), at_least=rule.least_side)
                return None, resize(picture.image, rule)
            except ImageError as error:
                return error, None

        def run(images: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
            return list(backbone.features(np.stack(images)))

        device = backbone.parts[0].runner.device
        rows = map_batches(photos, load, run, device=device, workers=_threads(photos))
        for photo, (error, row) in zip(photos, rows, strict=True):
            if row is not None and not np.isfinite(row).all():
                raise BackboneError(
                    f"the backbone gives features of {printable(photo.path)} that are NaN or "
                    "infinite; use another backbone, or leave the photo out"
                )
            yield None if error is None else str(error), row


def _source(path: str) -> Source:
    remote: Any = storage.RemotePhoto(path)  # a binary file as far as `read` goes
    return remote if storage.is_remote(path) else path


def _threads(photos: Sequence[Photo]) -> int | None:
    """Return the threads for these photos; None for one per core."""
    return _READERS if photos and storage.is_remote(photos[0].path) else None
