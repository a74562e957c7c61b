"""Tasks for workers of a cluster that die or fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.cluster.sources import Photo
from tailorbird.cluster.work import Predict, Worker
from tailorbird.errors import ModelFileError


@dataclass(frozen=True)
class KilledOnce(Predict):
    """A prediction whose first worker is killed while it computes its second partition."""

    mark: str = ""

    def open(self, output: str) -> Worker:
        return _Killed(super().open(output), Path(self.mark))


class _Killed:
    def __init__(self, worker: Worker, mark: Path) -> None:
        self._worker = worker
        self._mark = mark
        self._calls = 0

    def table(self, photos: Sequence[Photo]) -> Any:
        self._calls += 1
        result = self._worker.table(photos)
        if self._calls == 2 and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@dataclass(frozen=True)
class Refused(Predict):
    """A prediction whose workers raise an error on purpose, or by mistake."""

    mistake: bool = False

    def open(self, output: str) -> Worker:
        if self.mistake:
            raise ZeroDivisionError("a mistake")
        raise ModelFileError("no such model here")
