"""Checkpoints of a run on disk: killed at any moment, it resumes from the last one.

    lock                  held by the process that works here
    state-000012.json     the newest checkpoint: position, names and SHA-256 of its arrays
    state-000012.npz      the network's state and the EMA weights
    state-000011.*        the one before, in case the newest is damaged
    best-000009.npz       the best weights of the run or stage, and their validation logits
    *.f16                 activations of the frozen part (see activation_cache)

The JSON file is written last: a checkpoint without it does not count. Arrays are plain numbers,
never pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.finetune import activation_cache
from tailorbird.engines.protocol import Arrays
from tailorbird.files import atomic_path, sha256_file, write_text

FORMAT = 2
"""Format number; increase it when the content changes. Other formats are not resumed."""
KEPT = 2
"""Number of checkpoints kept."""


@dataclass(frozen=True)
class ArraysFile:
    """A written file of arrays: its name in the run folder, and its SHA-256."""

    name: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        about: position and results, as given to `save`.
        state: the arrays given to `save`.
        files: files of kept weights, by what they are.
        kept: their arrays.
        damaged: names of newer checkpoints that could not be read.
    """

    about: dict[str, Any]
    state: Arrays
    files: dict[str, ArraysFile]
    kept: dict[str, Arrays]
    damaged: tuple[str, ...]


class Checkpoints:
    """The checkpoints of a run folder; the user must hold the folder's lock.

    writes: False in all but one of several processes that train together; these only read.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes
        numbers = [int(path.stem.partition("-")[2]) for path in self._states()]
        numbers += [int(path.stem.partition("-")[2]) for path in folder.glob("best-*.npz")]
        self._number = max(numbers, default=0)

    def _states(self) -> list[Path]:
        """Return the JSON files of checkpoints, newest first."""
        return sorted(self.folder.glob("state-*.json"), reverse=True)

    def write_best(self, arrays: Mapping[str, npt.NDArray[Any]]) -> ArraysFile:
        """Write weights to keep; the next `save` must name the file. Raises StorageError."""
        self._number += 1
        return self._write(f"best-{self._number:06}.npz", arrays)

    def save(
        self,
        about: dict[str, Any],
        state: Mapping[str, npt.NDArray[Any]],
        kept: Mapping[str, ArraysFile],
    ) -> None:
        """Write a checkpoint; the last one stays until this one is complete.

        kept: files that `write_best` returned, by what they are. Raises StorageError.
        """
        self._number += 1
        if not self._writes:
            return
        name = f"state-{self._number:06}"
        written = self._write(f"{name}.npz", state)
        names = {what: file.as_dict() for what, file in kept.items()}
        content = {"format": FORMAT, "about": about, "state": written.as_dict(), "kept": names}
        text = json.dumps(content, allow_nan=False)
        checked = {"checksum": hashlib.sha256(text.encode()).hexdigest(), "content": content}
        write_text(self.folder / f"{name}.json", json.dumps(checked, indent=1, allow_nan=False))
        self._tidy()

    def newest(self) -> Saved | None:
        """Return the newest complete checkpoint, or None."""
        damaged: list[str] = []
        for path in self._states():
            content = _content(path)
            if content is not None:
                state = self._read(ArraysFile(**content["state"]))
                files = {what: ArraysFile(**entry) for what, entry in content["kept"].items()}
                read = {file.name: self._read(file) for file in files.values()}
                kept = {
                    what: arrays
                    for what, file in files.items()
                    if (arrays := read[file.name]) is not None
                }
                if state is not None and len(kept) == len(files):
                    return Saved(content["about"], state, files, kept, tuple(damaged))
            damaged.append(path.name)
        return None

    def files(self) -> list[Path]:
        """Return the files of the newest checkpoint, from which a run can be resumed elsewhere."""
        for path in self._states():
            content = _content(path)
            if content is not None:
                named = [content["state"]["name"], *(f["name"] for f in content["kept"].values())]
                return [path, *(self.folder / name for name in dict.fromkeys(named))]
        return []

    def clear(self) -> None:
        """Delete all checkpoints and cached activations."""
        if not self._writes:
            return
        # JSON files first, so that an interrupted deletion leaves nothing like a checkpoint.
        for pattern in ("state-*.json", "state-*.npz", "best-*.npz"):
            for path in self.folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        activation_cache.clear(self.folder)

    def _write(self, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> ArraysFile:
        for key, value in arrays.items():
            if value.dtype.kind not in "fiub":
                raise TypeError(f"{key} is an array of {value.dtype}; a checkpoint holds numbers")
        if not self._writes:
            return ArraysFile(name, "")
        with atomic_path(self.folder / name) as temporary:
            with temporary.open("wb") as file:
                # Prefixed: an array could have the name of a parameter of numpy.savez.
                named: dict[str, Any] = {f"array/{key}": value for key, value in arrays.items()}
                np.savez(file, **named)
            digest = sha256_file(temporary)
        return ArraysFile(name, digest)

    def _read(self, file: ArraysFile) -> Arrays | None:
        path = self.folder / file.name
        try:
            if sha256_file(path) != file.sha256:
                return None
            with np.load(path, allow_pickle=False) as found:
                return {key.removeprefix("array/"): found[key] for key in found.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def _tidy(self) -> None:
        """Delete files that the newest checkpoints do not name."""
        states = self._states()
        named = {"lock"}
        for path in states[:KEPT]:
            content = _content(path)
            if content is not None:
                named |= {
                    path.name,
                    content["state"]["name"],
                    *(file["name"] for file in content["kept"].values()),
                }
        for path in [*states, *self.folder.glob("state-*.npz"), *self.folder.glob("best-*.npz")]:
            if path.name not in named:
                with contextlib.suppress(OSError):
                    path.unlink()


def _content(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint's JSON file; None if damaged or of another format."""
    try:
        checked = json.loads(path.read_text(encoding="utf-8"))
        content = checked["content"]
        text = json.dumps(content, allow_nan=False)
        if hashlib.sha256(text.encode()).hexdigest() != checked["checksum"]:
            return None
        return content if content["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two fingerprints in words; empty if they are equal."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old != new:
            short = all(len(str(value)) <= 40 for value in (old, new))
            found.append(f"{name} was {old}, is {new}" if short else name)
    return found
