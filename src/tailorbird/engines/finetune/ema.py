"""Exponential moving average (EMA) of the weights, which is validated and kept as the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Arrays

PERIOD = 10
"""Steps between updates: averaging at each step would cost more than it improves."""


class EMA:
    """Bias-corrected exponential moving average: which share of it each update replaces.

    After t updates with decay d it is sum_i d^(t-i) w_i / sum_i d^(t-i). The division is Adam's
    bias correction (Kingma and Ba 2015), so nothing of the weights before the stage remains.
    """

    def __init__(self, decay: float, updates: int = 0) -> None:
        self.decay = decay
        self.updates = updates

    def share(self) -> float:
        """Count one more update, and return the share of the average that it replaces."""
        self.updates += 1
        return (1 - self.decay) / (1 - self.decay**self.updates)


class Averages:
    """Moving averages of named arrays, for networks whose weights are read as NumPy arrays.

    Arrays that are not floating-point keep their last value.
    """

    def __init__(self) -> None:
        self.arrays: Arrays = {}

    def update(self, weights: Mapping[str, npt.NDArray[Any]], share: float) -> None:
        """Move the averages by a share towards the weights; share 1 copies them."""
        for name, value in weights.items():
            if share == 1 or not np.issubdtype(value.dtype, np.floating):
                self.arrays[name] = value.copy()
            else:
                mean = self.arrays[name]
                mean += (value - mean) * mean.dtype.type(share)

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the averages by copies of arrays."""
        self.arrays = {name: value.copy() for name, value in arrays.items()}
