"""What most networks answer to the training loop: one process, activations as inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.engines.finetune.ema import Averages
from tailorbird.engines.protocol import Arrays
from tailorbird.progress import Progress

if TYPE_CHECKING:
    from tailorbird.engines.finetune.task import FinetuneTask


class _Weighed(Protocol):
    @property
    def _averages(self) -> Averages: ...

    def weights(self) -> Arrays: ...


class NetworkDefaults:
    """Base of a `protocol.TrainableNetwork` whose weights are read as NumPy arrays."""

    lag = 0
    takes_pixels = False
    takes_views = False
    depth_decay = 0.5
    mixing = (0.0, 0.0)
    single_size = False
    sixteen_bit = False
    process = 0
    processes = 1

    def __init__(self) -> None:
        self._averages = Averages()

    def average(self: _Weighed, share: float) -> None:
        """Move the moving averages of the weights by this share towards the weights."""
        self._averages.update(self.weights(), share)

    def averages(self) -> Arrays:
        """Return a copy of the moving averages."""
        return {name: value.copy() for name, value in self._averages.arrays.items()}

    def load_averages(self, averages: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `averages` returned."""
        self._averages.load(averages)

    def launch(self, task: FinetuneTask, progress: Progress) -> None:
        """Do nothing: this process trains."""

    def agree(self, value: float) -> float:
        """Return the value."""
        return value

    def gather(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rows of this process alone."""
        return rows[None]
