"""An average of the weights over the last steps: what is scored and kept is the average, what trains on is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Arrays

PERIOD = 10
"""Steps from one look at the weights to the next: copying them each step would cost more than it tells."""


class Average:
    """Exponential moving average a_t = sum of d^(t-i) w_i / sum of d^(t-i) over the looks i = 1..t, d the decay from look to look.

    The division is Adam's correction of the start (Kingma and Ba 2015): the first looks count as a plain mean, and no weight from
    before the stage stays in it. Arrays that are not of floats are taken as they are at the last look.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.looks = 0
        self._sums: Arrays = {}

    def look(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take in the weights of now. All looks must name the same arrays."""
        self.looks += 1
        share = (1 - self.decay) / (1 - self.decay**self.looks)
        for name, value in weights.items():
            if self.looks == 1 or not np.issubdtype(value.dtype, np.floating):
                self._sums[name] = value.copy()
            else:
                mean = self._sums[name]
                mean += (value - mean) * mean.dtype.type(share)

    def weights(self) -> Arrays:
        """The average of now, in the weights' own types; empty before the first look."""
        return self._sums

    def restore(self, looks: int, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what another process had."""
        self.looks = looks
        self._sums = {name: value.copy() for name, value in weights.items()}
