"""Batches of a stage: augmented views of training photos, plain validation photos.

A row is a photo's pixels, uint8 (S, S, 3), at cut 0 or where the network takes pixels at any cut,
else the frozen part's activations as float16. Where the network makes the views, on its device, the
training rows are pictures, and the batch says which view to make of each.
Everything follows from (seed, stage, epoch, step): the order of the photos and their views.
Activations are rounded to float16 whether they are cached or not, and computed for one image at a
time, so that a photo gives the same bits in any batch.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.dataset import Sample, picture_of, pixels_of
from tailorbird.engines.finetune.activation_cache import ActivationFile, clear, to_half
from tailorbird.engines.finetune.plan import Stage
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.finite import listed, non_finite_weights
from tailorbird.engines.protocol import TrainableNetwork, Views
from tailorbird.errors import BackboneError, TrainingError
from tailorbird.images import (
    Pixels,
    draw_view,
    picture_for_views,
    view_random,
    warp,
)
from tailorbird.inference import Runner

Rows = npt.NDArray[Any]
"""uint8 (B, S, S, 3) or float16 (B, ...)."""

AHEAD_BATCHES = 2
"""Number of batches prepared ahead of the one in training, by all threads together."""

MEMORY_BYTES = 4 * 2**30
"""Maximum size of decoded photos in memory, where a network makes the views, or an eighth of the
memory of the machine or container if that is less; more are decoded again in each epoch."""

CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how many bytes a container may use; `max` if there is no limit."""

MOST_STAGES = 100


def memory_bytes() -> int:
    """Return the maximum size in bytes of decoded photos in memory, of all processes together."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # Windows
        return MEMORY_BYTES // 4
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        whole = min(whole, int(CONTAINER.read_text()))
    return min(MEMORY_BYTES, whole // 8)


def shape_of_batches(photos: int, wanted: int, parts: int = 1) -> tuple[int, int]:
    """Return (batches per epoch, photos per batch); all batches have the same size.

    Frameworks compile a step for each batch size. If the batch size does not divide the number of
    photos, the last few in the epoch's order are not used in that epoch; a smaller batch size that
    leaves fewer over is preferred.

    parts: number that the batch size must be a multiple of.
    """
    parts = min(parts, photos)

    def whole(size: int) -> int:
        return max(parts, size - size % parts)

    full = whole(min(wanted, photos))
    even = whole(photos // math.ceil(photos / wanted))
    size = min((full, even), key=lambda size: (photos % size, -size))
    return photos // size, size


def order(photos: int, *, seed: int, stage: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of the photos in an epoch; stage and epoch count from 0."""
    return np.random.default_rng([seed, stage, epoch]).permutation(photos)


def view_number(stage: Stage, *, seed: int, number: int, epoch: int) -> int:
    """Return the view of every training photo in an epoch; it differs between stages and seeds."""
    return 1 + (seed * MOST_STAGES + number) * 10_000 + epoch % stage.views


class Inputs:
    """Inputs of one stage, for training and validation."""

    def __init__(
        self, task: FinetuneTask, stage: Stage, number: int, *, pixels: bool | None = None
    ) -> None:
        """Open the inputs and delete the cached activations of other stages.

        Args:
            task: photos, settings and network.
            stage: the stage.
            number: number of the stage, from 0.
            pixels: whether rows are pixels at any cut; by default as the network takes them.
        """
        settings, network = task.settings, task.network
        self.stage = stage
        self.steps, self.batch = shape_of_batches(
            len(task.parts["train"]), settings.batch_size, settings.devices * settings.accumulate
        )
        self._number = number
        self._parts = task.parts
        self._seed = task.seed
        self._augmentation = settings.augmentation if stage.augmented else None
        self._rule = task.rule_at(stage.size)
        self._prefix = f"stage-{number + 1}-{stage.size}-{stage.cut}-"
        self._folder = task.folder
        self._process, self._processes = network.process, network.processes
        self._share = self.batch // self._processes
        self._file: ActivationFile | None = None
        self._validation: ActivationFile | None = None
        pixels = network.takes_pixels if pixels is None else pixels
        self._frozen = FrozenPart(network, stage) if stage.cut and not pixels else None
        self._views = network.takes_views and self._frozen is None
        self._memory: dict[tuple[str, bool], Pixels] | None = {} if self._fits_memory() else None
        square = (stage.size, stage.size, 3)
        self.shape: tuple[int, ...] = self._frozen.shape if self._frozen else square
        clear(task.folder, self._prefix)

    def _fits_memory(self) -> bool:
        """Return whether decoded photos are kept: the next epochs then need not decode them."""
        if not self._views:
            return False
        wide = self._rule.size * (1 + (self._augmentation.zoom if self._augmentation else 0))
        photos = sum(map(len, self._parts.values())) // self._processes
        return photos * math.ceil(wide) ** 2 * 3 <= memory_bytes() // self._processes

    @property
    def made(self) -> int:
        """Return the number of images that the frozen part has run on."""
        return self._frozen.runs if self._frozen else 0

    def training(
        self, epoch: int, start: int = 0
    ) -> Generator[tuple[Rows | Views, npt.NDArray[np.int64]], None, None]:
        """Yield the batches of an epoch from step `start` on, with the photos' numbers int64 (B,).

        Of several processes, each yields its own part of every batch. Raises ImageError,
        StorageError, TrainingError.
        """
        samples = self._parts["train"]
        chosen = order(len(samples), seed=self._seed, stage=self._number, epoch=epoch)
        chosen = chosen[start * self.batch : self.steps * self.batch].reshape(-1, self.batch)
        chosen = chosen[:, self._process :: self._processes]
        view = 0
        if self._augmentation is not None:
            view = view_number(self.stage, seed=self._seed, number=self._number, epoch=epoch)
        file = None
        if self.stage.keep and self._frozen is not None:
            file = self._file = self._opened(self._file, f"view-{view}", len(samples))
        with closing(self._rows(samples, chosen.ravel(), view, file)) as rows:
            for numbers in chosen:
                if self._views and self._augmentation is not None:
                    yield self._drawn([samples[n] for n in numbers], rows, view), numbers
                else:
                    yield self._stacked(rows, self._share, self._share), numbers

    def validation(self) -> Generator[Rows, None, None]:
        """Yield the validation photos, unaugmented; the last batch repeats its last row.

        Of several processes, process p yields photos p, p + P, ..., as many batches as the others.
        """
        samples = self._parts["validation"]
        if self.stage.keep_validation and self._frozen is not None:
            self._validation = self._opened(self._validation, "validation", len(samples))
        most = math.ceil(len(samples) / self._processes)
        chosen = np.arange(self._process, most * self._processes, self._processes)
        chosen = np.minimum(chosen, len(samples) - 1)
        with closing(self._rows(samples, chosen, 0, self._validation)) as rows:
            for first in range(0, most, self.batch):
                yield self._stacked(rows, min(self.batch, most - first), self.batch)

    def close(self) -> None:
        """Close the cache files; they stay on disk."""
        for file in (self._file, self._validation):
            if file is not None:
                file.close()

    def _opened(self, now: ActivationFile | None, name: str, rows: int) -> ActivationFile:
        process = f"-{self._process}" if self._processes > 1 else ""
        path = self._folder / f"{self._prefix}{name}{process}.f16"
        if now is not None and now.path == path:
            return now
        if now is not None:
            now.close()
        return ActivationFile(path, rows, math.prod(self.shape))

    def _stacked(self, rows: Iterator[Rows], count: int, size: int) -> Rows:
        """Return `count` rows as a batch of `size`, which repeats the last one."""
        batch = np.empty((size, *self.shape), np.float16 if self._frozen else np.uint8)
        for place, row in enumerate(itertools.islice(rows, count)):
            batch[place] = row.reshape(self.shape)
        batch[count:] = batch[count - 1]
        return batch

    def _drawn(self, samples: Sequence[Sample], rows: Iterator[Rows], view: int) -> Views:
        """Return pictures and the views to make of them."""
        assert self._augmentation is not None
        drawn = [
            draw_view(self._rule, self._augmentation, _random(sample, view)) for sample in samples
        ]
        return Views(
            np.stack(list(itertools.islice(rows, len(samples)))),
            np.stack([one.map for one in drawn]).astype(np.float32),
            np.array([one.brightness for one in drawn], np.float32),
            np.array([one.erased or (0, 0, 0, 0) for one in drawn], np.int64),
        )

    def _rows(
        self,
        samples: Sequence[Sample],
        chosen: Rows,
        view: int,
        file: ActivationFile | None,
    ) -> Generator[Rows, None, None]:
        """Yield rows in order, computed on all cores ahead of their use."""

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

        ahead = math.ceil(AHEAD_BATCHES * self._share / parallel.cores())
        yield from parallel.ordered(one, (int(number) for number in chosen), ahead=ahead)

    def _pixels(self, sample: Sample, view: int) -> Pixels:
        """Return uint8 (S, S, 3), unaugmented for view 0; or the picture that views are made of.

        Raises ImageError when the file has changed since it was scanned.
        """
        plain = view == 0 or self._augmentation is None
        if self._memory is None:
            return self._decoded(sample, view, plain=plain)
        key = (sample.digest, plain)
        if key not in self._memory:
            self._memory[key] = self._decoded(sample, view, plain=plain)
        return self._memory[key]

    def _decoded(self, sample: Sample, view: int, *, plain: bool) -> Pixels:
        if plain or self._augmentation is None:
            return pixels_of(sample, self._rule)
        picture = picture_of(sample, self._rule.least_side)
        if self._views:
            return np.asarray(picture_for_views(picture, self._rule, self._augmentation))
        return warp(picture, self._rule, self._augmentation, _random(sample, view))


def _random(sample: Sample, view: int) -> np.random.Generator:
    return view_random(bytes.fromhex(sample.digest), view)


class FrozenPart:
    """The frozen part of a network, run in several threads on one image at a time."""

    def __init__(self, network: TrainableNetwork, stage: Stage) -> None:
        """Open the part below the stage's cut. Raises BackboneError for damaged weights."""
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
        probe = np.zeros((stage.size, stage.size, 3), np.uint8)
        self.shape: tuple[int, ...] = self._run(probe).shape

    def _run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        (rows,) = self._runner.run_batch(pixels[None], ["activations"])
        result: npt.NDArray[np.float32] = rows[0]
        return result

    def row(self, pixels: Pixels, photo: str) -> npt.NDArray[np.float16]:
        """Return the activations of an image uint8 (S, S, 3) as float16 (values,).

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
