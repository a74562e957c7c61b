"""Exponential moving average (EMA) of the weights, which is validated and kept as the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Arrays

PERIOD = 10
"""Steps between updates: copying the weights at each step would cost more than it improves."""


class EMA:
    """Bias-corrected exponential moving average of named arrays.

    After t updates with decay d it is sum_i d^(t-i) w_i / sum_i d^(t-i). The division is Adam's
    bias correction (Kingma and Ba 2015), so nothing of the weights before the stage remains.
    Arrays that are not floating-point keep their last value.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._means: Arrays = {}

    def update(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Update the average with the current weights; every update has the same names."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        for name, value in weights.items():
            if self.updates == 1 or not np.issubdtype(value.dtype, np.floating):
                self._means[name] = value.copy()
            else:
                mean = self._means[name]
                mean += (value - mean) * mean.dtype.type(share)

    def weights(self) -> Arrays:
        """Return the EMA weights in their own types; empty before the first update."""
        return self._means

    def restore(self, updates: int, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore the state of another process."""
        self.updates = updates
        self._means = {name: value.copy() for name, value in weights.items()}
