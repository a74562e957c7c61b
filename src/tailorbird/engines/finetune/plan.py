"""The stages of fine-tuning: small images first, then larger; the top of the base first, then lower layers, more slowly.

What lies below a stage's cut stays as it was pretrained. A later stage's cut never lies above an earlier one's, so what has
been trained goes on training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.protocol import Cut, TrainableNetwork, Training
from tailorbird.errors import SettingsError

SMALLER = 0.7
"""The first size as a share of the last, where none are given."""
SIZE_STEP = 32
"""Convolutional networks halve the side five times, and what divides by 32 halves without a remainder."""
TOP_SHARE = 0.7
"""gradual: the first stage trains the fewest layers that hold this share of the base's parameters."""
LOW_SHARE = 0.97
"""gradual: the others train the fewest that hold this share. The first layers hold few parameters (edges and colours, which photos
of any subject share) at the largest maps: to train them too takes two to four times as long."""
TOP_EPOCHS = 0.2
LAST_EPOCHS = 0.5
"""Shares of the epochs that the first stage of `gradual` and the last size get; the rest goes to the sizes between. The model is used
at the last size: with 0.3 of the epochs there clothing photos were told apart no better than at the size before (validation)."""
LARGER_RATE = 0.5
"""Each larger size starts with this share of the learning rate before it."""
VALUE_BYTES = 2
"""Activations are kept as float16."""
DISK_BYTES = 8 * 2**30
"""The most that kept activations take; never more than half of what is free either."""


@dataclass(frozen=True)
class Stage:
    """One stage of a plan.

    size: side in pixels. cut: index into the network's cuts at this size. layers of all_layers of the base train.
    epochs: the most passes over the photos. learning_rate: the head's at the start. base_rate, depth_decay: as in `Training`.
    augmented: whether training photos are.
    views: different views of a training photo. keep, keep_validation: whether the frozen part's activations are kept on disk, so
    that it runs once a view and not once an epoch. disk: bytes that takes. work: what the stage costs, on a scale of its own.
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
        """What the network is told when the stage begins."""
        return Training(
            size=self.size,
            cut=self.cut,
            base_rate=self.base_rate,
            depth_decay=self.depth_decay,
            optimizer=settings.optimizer,
            regularisation=settings.regularisation,
            mixed_precision=settings.mixed_precision,
            devices=settings.devices,
            seed=seed,
            class_weights=class_weights,
        )

    def sentence(self) -> str:
        """The stage for people."""
        if self.layers == 0:
            what = "the head alone"
        elif self.cut == 0:
            what = f"all {self.all_layers} layers and the head"
        else:
            what = f"the top {self.layers} of {self.all_layers} layers (above {self.cut_name}) and the head"
        below = self.learning_rate * self.base_rate
        rates = f"learning rate {self.learning_rate:.2g}"
        if self.layers:
            rates += f", {below:.2g} in the base" + (
                f" falling to {below * self.depth_decay:.2g}" if self.depth_decay < 1 else ""
            )
        photos = "" if self.augmented else ", photos as they are"
        text = (
            f"{self.size} px, {what}, {self.epochs} epoch{'s' * (self.epochs > 1)}{photos}, {rates}"
        )
        if self.keep:
            times = f"{self.views} views" if self.views > 1 else "one view"
            text += f"; what lies below runs once for {times} of each photo ({self.disk / 2**20:,.0f} MiB on disk)"
        elif self.cut and self.views < self.epochs:
            text += "; the disk has no room for what lies below, so it runs in every epoch"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For a model file's metadata."""
        return {**asdict(self), "sentence": self.sentence()}


def plan(
    network: TrainableNetwork,
    settings: FinetuneSettings,
    photos: Mapping[str, int],
    *,
    size: int,
    disk: int = DISK_BYTES,
) -> tuple[Stage, ...]:
    """The stages of a run.

    photos: how many there are to train and for validation, by the names `train` and `validation`. size: the backbone's own, in
    pixels. disk: bytes that kept activations may take; it decides whether they are kept, not what is trained on.
    Raises SettingsError for sizes the network does not have.
    """
    sizes = settings.sizes or _possible(network, default_sizes(size))
    if settings.unfreeze == "gradual":
        kinds = [(sizes[0], TOP_SHARE, TOP_EPOCHS)]
        between = (1 - TOP_EPOCHS - LAST_EPOCHS) / max(1, len(sizes) - 1)
        kinds += [(side, LOW_SHARE, between) for side in sizes[:-1]]
        kinds.append((sizes[-1], LOW_SHARE, LAST_EPOCHS if len(sizes) > 1 else 1 - TOP_EPOCHS))
    else:
        between = (1 - LAST_EPOCHS) / max(1, len(sizes) - 1)
        kinds = [(side, 0.0, between) for side in sizes[:-1]] + [(sizes[-1], 0.0, LAST_EPOCHS)]
    chosen = [
        (side, _choose(network, side, settings, share), weight) for side, share, weight in kinds
    ]
    if (
        len(chosen) > 1 and chosen[0][:2] == chosen[1][:2]
    ):  # no cut between the top and the rest: one stage
        chosen[:2] = [(*chosen[1][:2], chosen[0][2] + chosen[1][2])]
    stages: list[Stage] = []
    plain = settings.plain_first and settings.augmentation is not None
    if plain:
        weights = sum(weight for _, _, weight in chosen)
        chosen.insert(0, (*chosen[0][:2], weights))
    epochs = apportion(settings.epochs, [weight for _, _, weight in chosen])
    rate, before, layers = settings.learning_rate, chosen[0][0], 0
    for number, ((side, cut, _), count) in enumerate(zip(chosen, epochs, strict=True)):
        if not count:
            continue
        if stages and side > before:
            rate *= LARGER_RATE
        cuts = network.cuts(side)
        layers, before = max(layers, cuts[cut].layers), side
        lowest = max(i for i, place in enumerate(cuts) if i == 0 or place.layers >= layers)
        augmented = settings.augmentation is not None and not (plain and number == 0)
        stages.append(
            _stage(network, settings, photos, side, lowest, count, rate, disk, augmented=augmented)
        )
    return tuple(stages)


def default_sizes(size: int) -> tuple[int, ...]:
    """A smaller size of whole 32s, then the backbone's own; its own alone where there is no smaller one."""
    smaller = max(SIZE_STEP, round(SMALLER * size / SIZE_STEP) * SIZE_STEP)
    return (smaller, size) if smaller < size else (size,)


def _possible(network: TrainableNetwork, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """These sizes, or the last alone where the network is too deep for a smaller one: nobody asked for that."""
    try:
        for size in sizes[:-1]:
            network.cuts(size)
    except SettingsError:
        return sizes[-1:]
    return sizes


def apportion(epochs: int, shares: Sequence[float]) -> list[int]:
    """Whole epochs by shares, largest remainders first; where there are fewer epochs than stages the last stages get one each."""
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
    """The highest cut with enough above it: a share of the parameters, or the layers asked for."""
    cuts = network.cuts(size)
    if settings.unfreeze == "all":
        return 0
    if settings.unfreeze == "gradual":
        return max(
            i
            for i, cut in enumerate(cuts)
            if i == 0 or cut.parameters >= share * cuts[0].parameters
        )
    if settings.unfreeze > cuts[0].layers:
        raise SettingsError(
            f"unfreeze is {settings.unfreeze}, but {network.name} has {cuts[0].layers} layers with weights; "
            "give a smaller number, or 'all'"
        )
    return max(i for i, cut in enumerate(cuts) if i == 0 or cut.layers >= settings.unfreeze)


def _stage(
    network: TrainableNetwork,
    settings: FinetuneSettings,
    photos: Mapping[str, int],
    size: int,
    number: int,
    epochs: int,
    rate: float,
    disk: int,
    *,
    augmented: bool,
) -> Stage:
    cuts = network.cuts(size)
    cut: Cut = cuts[number]
    views = epochs
    if not augmented:
        views = 1
    elif number > 0 and epochs >= 2 * settings.views:
        views = settings.views
    row = cut.values * VALUE_BYTES
    keep_validation = number > 0 and row * photos["validation"] <= disk
    spare = disk - (row * photos["validation"] if keep_validation else 0)
    keep = number > 0 and views < epochs and row * photos["train"] * views <= spare
    depth = cut.layers / max(1, cuts[0].layers)
    # Measured with MobileNetV2: the upper half costs a fifth of the whole; at the pixels the largest maps come on top.
    work = 1.0 if number == 0 else 0.1 + 0.4 * depth**2
    return Stage(
        size=size,
        cut=number,
        cut_name=cut.name,
        layers=cut.layers,
        all_layers=cuts[0].layers,
        epochs=epochs,
        learning_rate=rate,
        base_rate=settings.base_rate,
        # A layer's rate is the same in every stage: the decay is spread over the whole base, and a stage has its share.
        depth_decay=settings.depth_decay**depth,
        augmented=augmented,
        views=views,
        keep=keep,
        keep_validation=keep_validation,
        disk=row * (photos["train"] * views * keep + photos["validation"] * keep_validation),
        work=work * epochs * size**2,
    )
