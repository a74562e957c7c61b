"""Mixup and CutMix: each photo of a batch is mixed with another one of it, and so are the labels.

mixup (Zhang et al. 2018): x = s x + (1 - s) x', s drawn from Beta(a, a). CutMix (Yun et al. 2019):
a rectangle of 1 - s of the area is replaced by the other photo's. Inputs are images (B, S, S, 3) or
activations (B, ...); activations without two spatial axes have no rectangles, so they are added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Mix


def draw(count: int, *, mixup: float, cutmix: float, random: np.random.Generator) -> Mix | None:
    """Return how a batch is mixed; None where neither is asked for.

    Args:
        count: number of photos in the batch.
        mixup: a of the Beta distribution for mixup; 0: no mixup.
        cutmix: likewise for CutMix; with both, each batch takes one of them, as often.
        random: generator of the batch.
    """
    if not (mixup or cutmix) or count < 2:
        return None
    cuts = bool(cutmix) and (not mixup or random.random() < 0.5)
    width = cutmix if cuts else mixup
    share = float(random.beta(width, width))
    partners = random.permutation(count)
    if not cuts:
        return Mix(partners, share)
    half = math.sqrt(1 - share) / 2
    row, column = random.random(2)
    top, bottom, left, right = (
        min(1.0, max(0.0, value))
        for value in (row - half, row + half, column - half, column + half)
    )
    return Mix(partners, share, (top, left, bottom, right))


def corners(mix: Mix, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the box of a CutMix in cells of an input: top, left, bottom, right."""
    assert mix.box is not None
    top, left, bottom, right = mix.box
    return round(top * height), round(left * width), round(bottom * height), round(right * width)


def share_kept(mix: Mix, spatial: tuple[int, ...]) -> float:
    """Return the share of each photo's own label; of a CutMix, by the cells that were replaced.

    spatial: height and width of the inputs, or () for activations without them.
    """
    if mix.box is None or len(spatial) != 2:
        return mix.share
    top, left, bottom, right = corners(mix, *spatial)
    return 1 - (bottom - top) * (right - left) / (spatial[0] * spatial[1])


def mixed(inputs: npt.NDArray[Any], mix: Mix) -> tuple[npt.NDArray[Any], float]:
    """Return mixed inputs, channels last, of the same type, and the share of their own labels."""
    spatial = inputs.shape[1:3] if inputs.ndim == 4 else ()
    share = share_kept(mix, spatial)
    if mix.box is None or not spatial:
        found = inputs * np.float32(share) + inputs[mix.partners] * np.float32(1 - share)
        if inputs.dtype == np.uint8:
            found = np.rint(found)
        return found.astype(inputs.dtype), share
    top, left, bottom, right = corners(mix, *spatial)
    found = inputs.copy()
    found[:, top:bottom, left:right] = inputs[mix.partners, top:bottom, left:right]
    return found, share


def soft_labels(
    labels: npt.NDArray[np.int64], classes: int, mix: Mix | None, share: float = 1.0
) -> npt.NDArray[np.float32]:
    """Return labels (B,) as targets (B, C), mixed like the photos."""
    targets = np.zeros((len(labels), classes), np.float32)
    rows = np.arange(len(labels))
    targets[rows, labels] = share
    if mix is not None:
        targets[rows, labels[mix.partners]] += np.float32(1 - share)
    return targets
