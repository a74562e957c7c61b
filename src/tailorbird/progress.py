"""Being told what a long run is doing, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Watcher(Protocol):
    """Told what training is doing. Every method may be called from the training thread only."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins: scan, views, head, finetune, test, write, labels, report. `total` is its number of steps where known."""

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` steps of the stage are over."""

    def note(self, text: str) -> None:
        """Something a person would want to know."""

    def figures(self, **values: float) -> None:
        """Figures of the stage as they are now: loss, accuracy (0 to 1), images_per_second, seconds_left."""


class Silent:
    """A Watcher that says nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def figures(self, **values: float) -> None:
        """Nothing."""


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what the block takes to the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """Seconds by stage, and since the start under `total`."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
