"""The plan of a fine-tuning run: its stages.

Small images come first, then larger ones; the top of the backbone first, then lower layers, at
lower learning rates. The layers below a stage's cut keep their pretrained weights. The cut of a
later stage is never above that of an earlier one, so layers that have trained go on training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.protocol import TrainableNetwork, Training
from tailorbird.errors import SettingsError

SMALLER = 0.7
"""Default first size as a share of the last."""
SINGLE = 0.85
"""Default size of networks that train at one size, as a share of the backbone's own. For `lite` it
is 224 px: before training, 85.0% of the validation clothes are recognised at that size, 83.9% at
192 px and 86.8% at its own 260 px (docs/finetuning.md). Work grows with the square of the size."""
SMALLEST = 0.5
"""Default size for small photos as a share of the backbone's own, for networks with one size."""
SIZE_STEP = 32
"""Default sizes are multiples of 32, as convolutional networks halve the side five times."""
TOP_SHARE = 0.7
"""gradual: the first stage trains the fewest layers with this share of the parameters."""
LOW_SHARE = 0.97
"""gradual: later stages train the fewest layers with this share. The first layers hold few
parameters (edges and colours, useful for photos of any subject) on the largest feature maps:
training them too takes two to four times as long."""
TOP_EPOCHS = 0.2
LAST_EPOCHS = 0.5
"""Shares of the epochs for the first stage of `gradual` and for the last size; the sizes between
share the rest. The model is used at the last size: with 0.3 of the epochs there, clothing photos
were recognised no better than at the size before (on validation photos)."""
LARGER_RATE = 0.5
"""Factor on the learning rate at each larger size."""
VALUE_BYTES = 2
"""Activations are cached as float16."""
DISK_BYTES = 8 * 2**30
"""Maximum size of the activation cache; never more than half of the free disk either."""


@dataclass(frozen=True)
class Stage:
    """One stage of a plan.

    Attributes:
        size: S in pixels.
        cut: index into the network's cuts at this size.
        cut_name: name of the cut.
        layers: number of backbone layers that train.
        all_layers: number of backbone layers with weights.
        epochs: maximum number of passes over the training photos.
        learning_rate: initial learning rate of the head.
        base_rate: as in `Training`.
        depth_decay: as in `Training`.
        augmented: whether the training photos are augmented.
        views: number of different views of each training photo.
        keep: whether the frozen part's activations of training photos are cached on disk, so that
            it runs once per view and not once per epoch.
        keep_validation: whether they are cached for validation photos.
        disk: size of the cache in bytes.
        work: cost of the stage, relative to other stages.
    """

    size: int
    cut: int
    cut_name: str
    layers: int
    all_layers: int
    epochs: int
    learning_rate: float
    base_rate: float
    depth_decay: float
    augmented: bool
    views: int
    keep: bool
    keep_validation: bool
    disk: int
    work: float

    def training(
        self, settings: FinetuneSettings, seed: int, class_weights: tuple[float, ...] | None
    ) -> Training:
        """Return the settings with which the network begins the stage."""
        return Training(
            size=self.size,
            cut=self.cut,
            base_rate=self.base_rate,
            depth_decay=self.depth_decay,
            optimizer=settings.optimizer,
            regularisation=settings.regularisation,
            mixed_precision=bool(settings.mixed_precision),
            devices=settings.devices,
            seed=seed,
            class_weights=class_weights,
            accumulate=settings.accumulate,
            clip=settings.clip,
        )

    def sentence(self) -> str:
        """Return the stage as a sentence."""
        if self.layers == 0:
            what = "the head alone"
        elif self.cut == 0:
            what = f"all {self.all_layers} layers and the head"
        else:
            top = f"the top {self.layers} of {self.all_layers} layers"
            what = f"{top} (above {self.cut_name}) and the head"
        below = self.learning_rate * self.base_rate
        rates = f"learning rate {self.learning_rate:.2g}"
        if self.layers:
            rates += f", {below:.2g} in the backbone"
            if self.depth_decay < 1:
                rates += f" falling to {below * self.depth_decay:.2g}"
        photos = "" if self.augmented else ", unaugmented photos"
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        text = f"{self.size} px, {what}, {epochs}{photos}, {rates}"
        if self.keep:
            times = f"{self.views} views" if self.views > 1 else "one view"
            text += (
                f"; the layers below run once for {times} of each photo "
                f"({self.disk / 2**20:,.0f} MiB on disk)"
            )
        elif self.cut and self.views < self.epochs:
            text += "; the disk has no room for their activations: the layers below run each epoch"
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for a model file's metadata."""
        return {**asdict(self), "sentence": self.sentence()}


@dataclass(frozen=True)
class _Draft:
    """A stage before its epochs and learning rate are known: size, cut, share of the epochs."""

    size: int
    cut: int
    share: float
    augmented: bool


def plan(
    network: TrainableNetwork,
    settings: FinetuneSettings,
    photos: Mapping[str, int],
    *,
    size: int,
    disk: int = DISK_BYTES,
) -> tuple[Stage, ...]:
    """Return the stages of a run.

    Args:
        network: the network to fine-tune.
        settings: settings of the run.
        photos: number of photos under `train` and `validation`.
        size: the backbone's own input size in pixels.
        disk: maximum size of the activation cache in bytes. It decides what is cached, not what is
            trained on.

    Raises SettingsError for sizes that the network cannot have.
    """
    settings = settings.for_network(network)
    drafts = _drafts(network, settings, settings.sizes or _possible(network, default_sizes(size)))
    epochs = apportion(settings.epochs, [draft.share for draft in drafts])
    stages: list[Stage] = []
    rate, before, layers = settings.learning_rate, drafts[0].size, 0
    for draft, count in zip(drafts, epochs, strict=True):
        if not count:
            continue
        if stages and draft.size > before:
            rate *= LARGER_RATE
        cuts = network.cuts(draft.size)
        layers, before = max(layers, cuts[draft.cut].layers), draft.size
        lowest = max(i for i, cut in enumerate(cuts) if i == 0 or cut.layers >= layers)
        found = _Draft(draft.size, lowest, draft.share, draft.augmented)
        stages.append(_stage(network, settings, photos, found, epochs=count, rate=rate, disk=disk))
    return tuple(stages)


def _drafts(
    network: TrainableNetwork, settings: FinetuneSettings, sizes: tuple[int, ...]
) -> list[_Draft]:
    """Return sizes, cuts and shares of the epochs of all stages."""
    augmented = settings.augmentation is not None
    gradual = settings.unfreeze == "gradual"
    share = LOW_SHARE if gradual else 0.0
    spent = LAST_EPOCHS + TOP_EPOCHS * gradual
    between = (1 - spent) / max(1, len(sizes) - 1)
    last = LAST_EPOCHS if len(sizes) > 1 else 1 - TOP_EPOCHS * gradual
    drafts = [
        _Draft(size, _choose(network, size, settings, share), epochs, augmented)
        for size, epochs in zip(sizes, [*[between] * (len(sizes) - 1), last], strict=True)
    ]
    if gradual:
        first = drafts[0]
        top = _choose(network, first.size, settings, TOP_SHARE)
        if top == first.cut:  # no cut between the top and the rest: one stage
            joined = first.share + TOP_EPOCHS
            drafts[0] = _Draft(first.size, first.cut, joined, augmented)
        else:
            drafts.insert(0, _Draft(first.size, top, TOP_EPOCHS, augmented))
    if settings.plain_first and augmented:
        first = drafts[0]
        drafts.insert(0, _Draft(first.size, first.cut, sum(d.share for d in drafts), False))
    return drafts


def default_sizes(size: int, share: float = SMALLER) -> tuple[int, ...]:
    """Return a smaller size, a multiple of 32, if there is one, and the backbone's own."""
    smaller = max(SIZE_STEP, round(share * size / SIZE_STEP) * SIZE_STEP)
    return (smaller, size) if smaller < size else (size,)


def single_size(network: TrainableNetwork, size: int, side: int) -> int:
    """Return the default size of a network that trains, and is used, at one size.

    It is a little smaller than the backbone's own, and for small photos it is smaller still:
    enlarged photos cost as much as sharp ones and show nothing more. Training at one size and
    predicting at another loses accuracy where the network has learned how large and how sharp
    things are.

    Args:
        network: the network to fine-tune.
        size: the backbone's own input size in pixels.
        side: shorter side of a typical photo in pixels.
    """
    least = max(SIZE_STEP, round(SMALLEST * size / SIZE_STEP) * SIZE_STEP)
    sharp = max(least, math.ceil(side / SIZE_STEP) * SIZE_STEP)
    return _possible(network, (min(default_sizes(size, SINGLE)[0], sharp), size))[0]


def _possible(network: TrainableNetwork, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return default sizes, or only the last where the network is too deep for a smaller one."""
    try:
        for size in sizes[:-1]:
            network.cuts(size)
    except SettingsError:
        return sizes[-1:]
    return sizes


def apportion(epochs: int, shares: Sequence[float]) -> list[int]:
    """Return whole epochs by shares, by the largest-remainder method, at least one each.

    With fewer epochs than shares, the last shares get one epoch each.
    """
    if epochs <= len(shares):
        return [0] * (len(shares) - epochs) + [1] * epochs
    spare = epochs - len(shares)  # each has one already
    exact = [max(0.0, epochs * share / sum(shares) - 1) for share in shares]
    exact = [spare * value / (sum(exact) or 1.0) for value in exact]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], -i))
    for index in by_remainder[: spare - sum(counts)]:
        counts[index] += 1
    return [1 + count for count in counts]


def _choose(network: TrainableNetwork, size: int, settings: FinetuneSettings, share: float) -> int:
    """Return the highest cut with enough above it: a share of the parameters, or N layers."""
    cuts = network.cuts(size)
    wanted = settings.unfreeze
    if wanted == "all":
        return 0
    if wanted == "gradual":
        least = share * cuts[0].parameters
        return max(i for i, cut in enumerate(cuts) if i == 0 or cut.parameters >= least)
    if wanted > cuts[0].layers:
        raise SettingsError(
            f"unfreeze is {wanted}, but {network.name} has {cuts[0].layers} layers with weights; "
            "give a smaller number, or 'all'"
        )
    return max(i for i, cut in enumerate(cuts) if i == 0 or cut.layers >= wanted)


def _stage(
    network: TrainableNetwork,
    settings: FinetuneSettings,
    photos: Mapping[str, int],
    draft: _Draft,
    *,
    epochs: int,
    rate: float,
    disk: int,
) -> Stage:
    cuts = network.cuts(draft.size)
    cut = cuts[draft.cut]
    views, caches = epochs, draft.cut > 0 and not network.takes_pixels
    if not draft.augmented:
        views = 1
    elif caches and epochs >= 2 * settings.views:
        views = settings.views
    row = cut.values * VALUE_BYTES
    train, validation = row * photos["train"] * views, row * photos["validation"]
    keep_validation = caches and validation <= disk
    spare = disk - validation * keep_validation
    keep = caches and views < epochs and train <= spare
    depth = cut.layers / max(1, cuts[0].layers)
    # Measured with MobileNetV2: the upper half costs a fifth of the whole; at the pixels the
    # largest feature maps are added.
    work = 1.0 if draft.cut == 0 else 0.1 + 0.4 * depth**2
    return Stage(
        size=draft.size,
        cut=draft.cut,
        cut_name=cut.name,
        layers=cut.layers,
        all_layers=cuts[0].layers,
        epochs=epochs,
        learning_rate=rate,
        base_rate=settings.base_rate,
        # A layer has the same rate in every stage: the decay spans the whole backbone.
        depth_decay=(settings.depth_decay or 1.0) ** depth,
        augmented=draft.augmented,
        views=views,
        keep=keep,
        keep_validation=keep_validation,
        disk=train * keep + validation * keep_validation,
        work=work * epochs * draft.size**2,
    )
