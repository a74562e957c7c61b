"""The history of a labelling: one JSON line per step, on the disk before the step counts.

A line is appended and flushed; nothing before it changes. What a killed process left of a last line
is cut off at the next start.

    {"tailorbird": "labelling", "format": 1}
    {"step": 1, "about": ..., "asked": ..., "classes": [...], "answers": {NAME: ANSWER}}
    {"undo": 1}
    {"manifest": "<SHA-256 of a manifest that is about to be written>"}

An ANSWER is [KIND, LABEL, BLIND], or null where a photo has none any more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from tailorbird.dataset.samples import printable
from tailorbird.errors import DatasetError, StorageError
from tailorbird.files import storage_error, sync_folder
from tailorbird.labelling.answers import Answers, Step

FORMAT: Final = 1
_HEAD: Final = {"tailorbird": "labelling", "format": FORMAT}


class History:
    """The file of a history, and the answers that it gives. One process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Read the history, which need not exist yet.

        Raises:
            DatasetError: the file is something else, or was damaged other than at its end.
            StorageError: it cannot be read.
        """
        self.path = path
        self.answers = Answers()
        self.manifests: set[str] = set()
        """SHA-256 of every manifest that was written from this history."""
        self.cut = 0
        """Bytes of an unfinished last line that were left out."""
        self._size = 0
        self._read()

    def record(self, step: Step) -> None:
        """Write a step, then apply it. Raises StorageError; nothing has changed then."""
        self._append(step.as_dict())
        self.answers.apply(step)

    def undo(self) -> Step | None:
        """Take back the last step and return it; None without one. Raises StorageError."""
        last = self.answers.last
        if last is None:
            return None
        self._append({"undo": last.number})
        return self.answers.undo()

    def wrote(self, digest: str) -> None:
        """Record the SHA-256 of a manifest before it is written. Raises StorageError."""
        if digest not in self.manifests:
            self._append({"manifest": digest})
            self.manifests.add(digest)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"{printable(str(self.path))} cannot be read: {error.strerror}"
            ) from None
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                self._take(json.loads(line), number)
            except (ValueError, DatasetError) as error:
                raise DatasetError(
                    f"{printable(str(self.path))}, line {number}, is not the history of a "
                    f"labelling ({error}); it was not changed: restore the file, or move it away "
                    "to go on with the labels of the manifest alone"
                ) from None
        self.cut, self._size = len(data) - whole, whole

    def _take(self, entry: Any, number: int) -> None:
        if number == 1:
            if entry != _HEAD:
                raise DatasetError(f"its first line is not {json.dumps(_HEAD)}")
        elif not isinstance(entry, dict):
            raise DatasetError("the line is not an object")
        elif "undo" in entry:
            last = self.answers.last
            if last is None or last.number != entry["undo"]:
                raise DatasetError(f"it undoes the step {entry['undo']}, which is not the last")
            self.answers.undo()
        elif "manifest" in entry:
            self.manifests.add(str(entry["manifest"]))
        else:
            self.answers.apply(Step.from_dict(entry))

    def _append(self, entry: dict[str, Any]) -> None:
        lines = [entry] if self._size else [_HEAD, entry]
        data = "".join(
            # Names that are not UTF-8 are surrogates, which only escapes can hold.
            json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"
            for line in lines
        ).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "x+b") as file:
                # Cuts off what a failed or killed write left behind the last whole line.
                file.truncate(self._size)
                file.seek(self._size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._size:
                sync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._size += len(data)
