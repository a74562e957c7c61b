"""Fixtures for fine-tuning tests: photos, progress that interrupts, networks that get worse."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.numpy_network import NumpyNetwork, Task, draw, weights_of
from tailorbird.engines.protocol import Mix, Step, Training, Views


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
    """A network that learns for some steps; each later step makes it worse."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        seen = super().step(inputs, labels, rate, mix)
        if self.steps > self.after:
            # The same confident output for every photo: worse than chance.
            self.values |= {
                "head": np.zeros_like(self.values["head"]),
                "head bias": np.array([9, 0, -9], np.float32),
            }
        return seen


class PoorAtSmallImages(NumpyNetwork):
    """A network whose outputs for small images are bad, however well it is trained."""

    entered: dict[int, bytes]

    def begin(self, training: Training) -> None:
        self.entered = {**getattr(self, "entered", {}), training.size: weights_of(self)}
        super().begin(training)

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        worse = np.array([9, 0, -9], np.float32) * (self.training.size == 16)
        return (super().logits(inputs) + worse).astype(np.float32)
