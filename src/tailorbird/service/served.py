"""The model being served, and how another takes its place without a lost request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tailorbird.errors import ModelFileError, StorageError
from tailorbird.files import sha256_file, write_bytes
from tailorbird.images import ResizeRule
from tailorbird.model import Classifier

LAST_GOOD = "last-good.onnx"
"""In the folder the workers share: the model they serve, for a worker that starts while the file is bad or another."""


@dataclass(frozen=True)
class Served:
    """A model file that was audited and has answered a probe. Requests hold on to the one they began with."""

    name: str
    sha256: str
    classifier: Classifier
    loaded: str

    @property
    def rule(self) -> ResizeRule:
        """How photos become its input."""
        return self.classifier.info.resize


def open_served(path: Path, *, name: str | None = None) -> Served:
    """Open, audit and probe a model file. Raises ModelFileError when any of it fails, or the file changes meanwhile."""
    digest = _digest(path)
    classifier = Classifier(path)
    if _digest(path) != digest:
        raise ModelFileError(
            f"{path} changed while it was read; put a new model in place by renaming, then reload"
        )
    _probe(classifier)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Served(name or path.stem, digest, classifier, now)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}; give a model made by `tailorbird train`"
        ) from None


def _probe(classifier: Classifier) -> None:
    """Run the model on a picture of every grey and on noise: the answers must be probabilities."""
    size = classifier.info.resize.size
    ramp = np.broadcast_to(
        np.linspace(0, 255, size).astype(np.uint8)[None, :, None], (size, size, 3)
    )
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    try:
        rows, heatmaps = classifier.run(np.stack([ramp, noise]), heatmaps=classifier.has_heatmaps)
    except Exception as error:  # the runtime's exceptions share no base class
        raise ModelFileError(
            f"{classifier.path} fails on a probe picture: {str(error).splitlines()[0][:300]}"
        ) from None
    shapes = rows.shape == (2, len(classifier.classes)) and (
        heatmaps is None or heatmaps.shape[0] == 2
    )
    if (
        not shapes
        or not np.isfinite(rows).all()
        or rows.min() < 0
        or abs(rows.sum(axis=1) - 1).max() > 1e-3
    ):
        raise ModelFileError(
            f"{classifier.path} answers a probe picture with something that is not probabilities"
        )


def _give_back() -> None:
    """Hand memory back to the system: glibc keeps what parsing a model left behind, some 10 MB a reload, as pieces it cannot reuse."""
    with contextlib.suppress(
        OSError, AttributeError, TypeError
    ):  # another system's C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


class Slot:
    """Holds the model being served. `current` is replaced in one step; work under way keeps the model it began with."""

    def __init__(
        self, path: Path, runtime: Path | None = None, note: Callable[..., None] | None = None
    ) -> None:
        """Open the model the other workers serve, for the first of them the file. Raises ModelFileError.

        A worker that is started again does not look at the file: it may be bad by now, or another model that nobody has asked
        to be taken yet, and two models would answer in turn.
        """
        self._path = path
        self._good = runtime / LAST_GOOD if runtime else None
        self._lock = asyncio.Lock()
        if self._good is not None and self._good.exists():
            try:
                self.current = open_served(self._good, name=path.stem)
                return
            except ModelFileError as error:
                if note:
                    note("model-bad", level="error", message=f"{error}; trying the file itself")
        self.current = open_served(path)
        self.keep_good()

    async def reload(self) -> bool:
        """Take the file's present content, if it works. True when it is another model. Raises ModelFileError and keeps the old one."""
        async with self._lock:
            fresh = await asyncio.to_thread(open_served, self._path)
            changed = fresh.sha256 != self.current.sha256
            if changed:
                self.current = fresh
                await asyncio.to_thread(self.keep_good)
                await asyncio.to_thread(_give_back)
            return changed

    def keep_good(self) -> None:
        """Put a copy of the model served where other workers find it. A full disk costs the copy, not the model."""
        if self._good is None:
            return
        try:
            if self._good.exists() and sha256_file(self._good) == self.current.sha256:
                return
            data = self._path.read_bytes()
            if hashlib.sha256(data).hexdigest() == self.current.sha256:
                write_bytes(self._good, data)
                return
        except (OSError, StorageError):
            pass
        self._good.unlink(missing_ok=True)  # better none than that of the model before
