"""Hold the model being served, and replace it without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tailorbird.errors import ModelFileError, StorageError
from tailorbird.files import sha256_file, write_bytes
from tailorbird.images import ResizeRule
from tailorbird.inference import DeviceChoice
from tailorbird.model import Classifier

LAST_GOOD = "last-good.onnx"
"""Name of a copy of the served model in the workers' shared folder. A worker that starts later uses
it, because the model file may be invalid or another by then."""


@dataclass(frozen=True)
class Served:
    """A model file that was audited and tested; a request keeps the one with which it began."""

    name: str
    sha256: str
    classifier: Classifier
    loaded: str

    @property
    def warning(self) -> str | None:
        """What people should know of the model on this device; None if all is well."""
        tested = self.classifier.self_test
        return None if tested is None or tested.passed else tested.sentence(self.name)

    @property
    def rule(self) -> ResizeRule:
        """The rule that turns photos into the model's input."""
        return self.classifier.info.resize


def open_served(
    path: Path,
    *,
    name: str | None = None,
    strict: bool = False,
    device: DeviceChoice | None = None,
) -> Served:
    """Open, audit and test a model file.

    strict: whether a difference in the self-test is an error rather than a logged warning.
    device: where to run; None: as `Classifier` chooses.

    Raises ModelFileError when any of it fails, or when the file changes meanwhile.
    """
    digest = _digest(path)
    classifier = Classifier(path, strict=strict, device=device)
    if _digest(path) != digest:
        raise ModelFileError(
            f"{path} changed while it was read; put a new model in place by renaming, then reload"
        )
    _check_metadata(classifier)
    _check_answers(classifier)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Served(name or path.stem, digest, classifier, now)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}; give a model made by `tailorbird train`"
        ) from None


def _check_metadata(classifier: Classifier) -> None:
    """Refuse metadata that /v1/model could not return as JSON: NaN, lone surrogates."""
    try:
        text = json.dumps(classifier.info.as_dict(), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f"the metadata of {classifier.path} cannot be written as JSON: {error}"
        ) from None


def _check_answers(classifier: Classifier) -> None:
    """Run the model on a grey ramp and on noise; the answers must be probabilities."""
    size = classifier.info.resize.size
    ramp = np.broadcast_to(
        np.linspace(0, 255, size).astype(np.uint8)[None, :, None], (size, size, 3)
    )
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    try:
        rows, maps, scores = classifier.outputs(
            np.stack([ramp, noise]), heatmaps=classifier.has_heatmaps
        )
    except Exception as error:  # the runtime's exceptions share no base class
        raise ModelFileError(
            f"{classifier.path} fails on a test image: {str(error).splitlines()[0][:300]}"
        ) from None
    shaped = rows.shape == (2, len(classifier.classes)) and (maps is None or len(maps) == 2)
    finite = shaped and bool(np.isfinite(rows).all())
    if not finite or rows.min() < 0 or abs(rows.sum(axis=1) - 1).max() > 1e-3:
        raise ModelFileError(
            f"{classifier.path} answers a test image with values that are not probabilities"
        )
    if scores is not None and not (scores.shape == (2,) and np.isfinite(scores).all()):
        raise ModelFileError(
            f"{classifier.path} answers a test image with an unfamiliarity that is not a number"
        )


def _trim_memory() -> None:
    """Return memory to the system: glibc keeps some 10 MB of fragments per opened model."""
    # Other C libraries have no malloc_trim.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Slot:
    """Holds the model being served; `current` is replaced in one step."""

    def __init__(
        self,
        path: Path,
        runtime: Path | None = None,
        note: Callable[..., None] | None = None,
        *,
        strict: bool = False,
        device: DeviceChoice | None = None,
    ) -> None:
        """Open the model that the other workers serve or, in the first of them, the file.

        A restarted worker does not read the file: it may be invalid by now, or a new model that
        was not loaded yet, so that the workers would serve different models.

        note: receives an event and its fields. strict, device: see `open_served`.

        Raises ModelFileError, or SettingsError for a device that is not available.
        """
        self._path = path
        self._open = partial(open_served, strict=strict, device=device)
        self._good = runtime / LAST_GOOD if runtime else None
        self._lock = asyncio.Lock()
        if self._good is not None and self._good.exists():
            try:
                self.current = self._open(self._good, name=path.stem)
                return
            except ModelFileError as error:
                if note:
                    note("model-bad", level="error", message=f"{error}; trying the file itself")
        self.current = self._open(path)
        self.keep_good()

    async def reload(self) -> bool:
        """Load the file's present content if it works; return whether it is another model.

        Raises ModelFileError and keeps the old one.
        """
        async with self._lock:
            fresh = await asyncio.to_thread(self._open, self._path)
            changed = fresh.sha256 != self.current.sha256
            if changed:
                self.current = fresh
                await asyncio.to_thread(self.keep_good)
                await asyncio.to_thread(_trim_memory)
            return changed

    def keep_good(self) -> None:
        """Copy the served model to the workers' shared folder.

        If the copy cannot be written, serving continues without it.
        """
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
        self._good.unlink(missing_ok=True)  # no copy is better than one of the previous model
