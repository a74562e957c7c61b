"""Batches for a stage: augmented views of training photos, validation photos as they are; pixels or activations at the cut.

Everything follows from (seed, stage, epoch, step): the order of the photos and the numbers of their views. At cut 0 a row is the
photo's pixels, uint8 (S, S, 3). Else it is what the frozen part makes of them, float16, rounded so whether it is kept or not, and
made from one image at a time, so that the same photo gives the same bits in any company.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.dataset import Sample, picture_of, pixels_of
from tailorbird.engines.finetune.activation_cache import ActivationFile, clear, to_half
from tailorbird.engines.finetune.plan import Stage
from tailorbird.engines.finite import listed, non_finite_weights
from tailorbird.engines.protocol import TrainableNetwork
from tailorbird.errors import BackboneError, TrainingError
from tailorbird.images import Augmentation, Pixels, ResizeRule, view_random, warp
from tailorbird.inference import Runner

Rows = npt.NDArray[Any]
"""uint8 (B, S, S, 3) or float16 (B, ...)."""

AHEAD_BATCHES = 2
"""Batches made ahead of the one in training, over all threads together."""

MOST_STAGES = 100


def shape_of_batches(photos: int, wanted: int, devices: int = 1) -> tuple[int, int]:
    """(batches in an epoch, photos in each): all of one size, because frameworks compile a step for each size they meet.

    The few photos left over when it does not divide wait for the next epoch's order. A smaller batch that leaves fewer is taken.
    """
    devices = min(devices, photos)

    def whole(size: int) -> int:
        return max(devices, size - size % devices)

    full = whole(min(wanted, photos))
    even = whole(photos // math.ceil(photos / wanted))
    size = min((full, even), key=lambda size: (photos % size, -size))
    return photos // size, size


def order(photos: int, *, seed: int, stage: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch (counted from 0 within the stage, counted from 0) sees the photos."""
    return np.random.default_rng([seed, stage, epoch]).permutation(photos)


def view_number(stage: Stage, *, seed: int, number: int, epoch: int) -> int:
    """The view of every training photo in an epoch; views differ between stages and between seeds."""
    return 1 + (seed * MOST_STAGES + number) * 10_000 + epoch % stage.views


class Inputs:
    """What one stage trains on and is scored on."""

    def __init__(
        self,
        network: TrainableNetwork,
        stage: Stage,
        number: int,
        parts: Mapping[str, Sequence[Sample]],
        *,
        folder: Path,
        seed: int,
        augmentation: Augmentation | None,
        batch_size: int,
        devices: int = 1,
    ) -> None:
        """folder: where activations are kept; those of other stages there are deleted. number: of the stage, from 0."""
        self.stage = stage
        self.steps, self.batch = shape_of_batches(len(parts["train"]), batch_size, devices)
        self._number = number
        self._parts = parts
        self._seed = seed
        self._augmentation = augmentation
        self._rule = ResizeRule(stage.size)
        self._prefix = f"stage-{number + 1}-{stage.size}-{stage.cut}-"
        self._folder = folder
        self._file: ActivationFile | None = None
        self._validation: ActivationFile | None = None
        self._frozen = _Frozen(network, stage) if stage.cut else None
        # Of one photo's row.
        self.shape: tuple[int, ...] = (
            self._frozen.shape if self._frozen else (stage.size, stage.size, 3)
        )
        clear(folder, self._prefix)

    @property
    def made(self) -> int:
        """Runs of the frozen part by this object."""
        return self._frozen.runs if self._frozen else 0

    def training(
        self, epoch: int, start: int = 0
    ) -> Generator[tuple[Rows, npt.NDArray[np.int64]], None, None]:
        """The batches of an epoch from step `start` on, each with the photos' numbers int64 (B,). Raises ImageError, StorageError."""
        samples = self._parts["train"]
        chosen = order(len(samples), seed=self._seed, stage=self._number, epoch=epoch)
        chosen = chosen[start * self.batch : self.steps * self.batch]
        view = 0
        if self._augmentation is not None:
            view = view_number(self.stage, seed=self._seed, number=self._number, epoch=epoch)
        if self.stage.keep:
            self._file = self._opened(self._file, f"view-{view}", len(samples))
        with closing(
            self._rows(samples, chosen, view, self._file if self.stage.keep else None)
        ) as rows:
            for numbers in chosen.reshape(-1, self.batch):
                yield self._stacked(rows, self.batch), numbers

    def validation(self) -> Generator[Rows, None, None]:
        """The validation photos in order and never augmented, in batches; the last one is filled up with its last row."""
        samples = self._parts["validation"]
        if self.stage.keep_validation:
            self._validation = self._opened(self._validation, "validation", len(samples))
        with closing(self._rows(samples, range(len(samples)), 0, self._validation)) as rows:
            for first in range(0, len(samples), self.batch):
                yield self._stacked(rows, min(self.batch, len(samples) - first))

    def close(self) -> None:
        """Close the files; what they keep stays."""
        for file in (self._file, self._validation):
            if file is not None:
                file.close()

    def _opened(self, now: ActivationFile | None, name: str, rows: int) -> ActivationFile:
        path = self._folder / f"{self._prefix}{name}.f16"
        if now is not None and now.path == path:
            return now
        if now is not None:
            now.close()
        return ActivationFile(path, rows, math.prod(self.shape))

    def _stacked(self, rows: Iterator[Rows], count: int) -> Rows:
        batch = np.empty((self.batch, *self.shape), np.float16 if self._frozen else np.uint8)
        for place, row in enumerate(itertools.islice(rows, count)):
            batch[place] = row.reshape(self.shape)
        batch[count:] = batch[count - 1]
        return batch

    def _rows(
        self,
        samples: Sequence[Sample],
        chosen: Sequence[int] | Rows,
        view: int,
        file: ActivationFile | None,
    ) -> Generator[Rows, None, None]:
        """Rows in order, made on all cores and ahead of their use."""

        def one(number: int) -> Rows:
            kept = file.get(number) if file is not None else None
            if kept is not None and np.isfinite(kept).all():
                return kept
            pixels = self._pixels(samples[number], view)
            if self._frozen is None:
                return pixels
            row = self._frozen.row(pixels, samples[number].name)
            if file is not None:
                file.put(number, row)
            return row

        ahead = math.ceil(AHEAD_BATCHES * self.batch / parallel.cores())
        yield from parallel.ordered(one, (int(number) for number in chosen), ahead=ahead)

    def _pixels(self, sample: Sample, view: int) -> Pixels:
        """uint8 (S, S, 3): as it is for view 0. Raises ImageError when the file is not what was scanned."""
        if view == 0 or self._augmentation is None:
            return pixels_of(sample, self._rule)
        random = view_random(bytes.fromhex(sample.digest), view)
        return warp(
            picture_of(sample, self._rule.least_side), self._rule, self._augmentation, random
        )


class _Frozen:
    """The frozen part of a network, run on one photo at a time from several threads at once."""

    def __init__(self, network: TrainableNetwork, stage: Stage) -> None:
        self._name = f"{network.name} below {stage.cut_name}"
        model = network.frozen_part(stage.size, stage.cut)
        damaged = non_finite_weights(model)
        if damaged:
            raise BackboneError(
                f"the weights of {self._name} hold NaN or infinity in {listed(damaged)}; the file "
                "is damaged: download or train the backbone again"
            )
        self._runner = Runner(model, self._name, BackboneError)
        self._lock = threading.Lock()
        self.runs = 0
        # Of one photo's row.
        self.shape: tuple[int, ...] = self._run(
            np.zeros((stage.size, stage.size, 3), np.uint8)
        ).shape

    def _run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = self._runner.run_batch(pixels[None], ["activations"])[0][
            0
        ]
        return result

    def row(self, pixels: Pixels, photo: str) -> npt.NDArray[np.float16]:
        """Return the activations of uint8 (S, S, 3) as float16 (values,).

        Raises TrainingError, which names the photo, when they hold NaN or infinity.
        """
        with self._lock:
            self.runs += 1
        values = self._run(pixels)
        if not np.isfinite(values).all():
            raise TrainingError(
                f"the activations of {photo} hold NaN or infinity, computed by {self._name}; "
                "use another backbone or input size"
            )
        return to_half(values).ravel()
