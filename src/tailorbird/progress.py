"""Progress callbacks and per-stage timing.

Every library function that may run for long takes `progress: Progress | None = None`. The function
that does the work announces its stage and then advances it; callers pass the object on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives progress of a long operation; called from the thread that started the operation.

    An exception raised by one of these methods stops the operation and reaches its caller.
    """

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage, such as `scan`, `embed`, `head`, `finetune` or `write`.

        Args:
            name: of the stage.
            total: its number of steps, where known.
        """

    def advance(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps of the current stage are finished."""

    def note(self, text: str) -> None:
        """Report a sentence for the user."""

    def metrics(self, **values: float) -> None:
        """Report the current values of loss, accuracy (0 to 1), images_per_second, seconds_left."""


class NoProgress:
    """A Progress that ignores everything."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore the stage."""

    def advance(self, done: int, total: int) -> None:
        """Ignore the step."""

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def metrics(self, **values: float) -> None:
        """Ignore the values."""


class StageTimer:
    """Measure the seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """Return the seconds of each stage, and those since the start under `total`."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
