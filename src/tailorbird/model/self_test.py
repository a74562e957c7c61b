"""The self-test: what a model file says of one generated image, here and where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ALLOWED: Final = 0.02
"""Largest difference of a probability that is not reported.

Measured with benchmarks/self_test.py for heads on MobileNetV2 and `lite`: processors that compute
the same give the same probabilities. A device that computes int8 graphs in float32 rounds some
activations to the next step: 0.002. A processor whose 8-bit products saturate: 0.04.
"""


@dataclass(frozen=True)
class SelfTest:
    """The result of a self-test.

    device: the one that was tested. difference: the largest one of a probability of the probe
    image from that in the file. allowed: the bound.
    """

    device: str
    difference: float
    allowed: float = ALLOWED

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound."""
        return self.difference <= self.allowed

    def sentence(self, name: str) -> str:
        """Return what a failed test means, for people."""
        return (
            f"{name} gives other answers on the device {self.device} than where it was made: a "
            f"probability of its self-test differs by {self.difference:.2g}, at most "
            f"{self.allowed:g} is expected; score it here (tailorbird evaluate), or use another "
            "device or version of ONNX Runtime"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "device": self.device,
            "difference": self.difference,
            "allowed": self.allowed,
            "passed": self.passed,
        }


def probe_image(size: int) -> npt.NDArray[np.uint8]:
    """Return the image of the self-test, uint8 (1, S, S, 3): x + 2 y + x y / 16 + 85 c mod 256.

    x and y are column and row, c is the channel from 0, and the division drops the remainder.
    """
    y, x, c = np.indices((size, size, 3))
    image: npt.NDArray[np.uint8] = ((x + 2 * y + x * y // 16 + 85 * c) % 256).astype(np.uint8)
    return image[None]


def compared(
    found: npt.NDArray[np.floating[Any]], stored: Sequence[float], device: str
) -> SelfTest:
    """Compare the probabilities of the probe image, (C,), with those in the file."""
    return SelfTest(device, float(np.abs(found - np.asarray(stored)).max()))
