"""Fixtures for fine-tuning tests: photos, progress that interrupts, a network that gets worse."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from support.numpy_network import NumpyNetwork, Task, draw
from tailorbird.engines.protocol import Step


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 training and 24 validation photos; tests must not change them."""
    return draw(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def task(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    """Return the scanned photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Task(photos)


class Listener:
    """A Progress that records; sends Ctrl-C after `interrupt_at` steps."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.told: list[dict[str, float]] = []
        self.advanced: list[tuple[int, int]] = []
        self.interrupt_at = interrupt_at

    def stage(self, name: str, total: int | None = None) -> None:
        assert name == "finetune"

    def advance(self, done: int, total: int) -> None:
        self.advanced.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def metrics(self, **values: float) -> None:
        self.told.append(values)
        if len(self.told) == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)

    @property
    def text(self) -> str:
        return "\n".join(self.notes)


class Spoiling(NumpyNetwork):
    """Learns for some steps; then each step makes it worse."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def step(
        self, inputs: npt.NDArray[np.generic], labels: npt.NDArray[np.int64], rate: float
    ) -> Step:
        seen = super().step(inputs, labels, rate)
        if self.steps > self.after:
            # The same answer to every photo, with confidence: worse than chance.
            self.values |= {
                "head": np.zeros_like(self.values["head"]),
                "head bias": np.array([9, 0, -9], np.float32),
            }
        return seen
