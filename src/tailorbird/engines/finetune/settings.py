"""Settings of a fine-tuning run, checked when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tailorbird.engines.protocol import Regularisation, TrainableNetwork
from tailorbird.images import Augmentation
from tailorbird.validation import Problems

Schedule = Literal["cosine", "constant", "plateau"]
SCHEDULES = ("cosine", "constant", "plateau")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SIZE_RANGE = (16, 2048)
"""Input sizes in pixels; the network itself may need more."""
MOST_EPOCHS = 9_999


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that shapes a fine-tuning run, apart from the network, the data and the seed."""

    sizes: tuple[int, ...] | None = None
    """Input sizes in pixels, rising, one training stage per size; None: one smaller size, then the
    backbone's own; or, for networks with `single_size`, one a little smaller alone."""
    unfreeze: Literal["gradual", "all"] | int = "gradual"
    """Backbone layers that train in addition to the head. gradual: the top of the backbone first,
    then all but its first layers; all; or N: at least the N topmost layers (0: the head alone)."""
    epochs: int = 10
    """Maximum number of passes over the training photos, in all stages together."""
    budget: float | None = None
    """Maximum duration in seconds; None: no limit."""
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    """Initial learning rate of the head, > 0."""
    base_rate: float = 1.0 / 3.0
    """Learning rate of the topmost backbone layer as a fraction of the head's, 0 to 1."""
    depth_decay: float | None = None
    """Learning rate of the first backbone layer as a fraction of the topmost one's, > 0 to 1; it
    changes geometrically between them. None: 0.5, for transformers 0.75 per block."""
    schedule: Schedule = "cosine"
    warm_up: float = 0.05
    """Share of a stage in which the learning rate rises linearly from 0, 0 to below 1."""
    optimizer: str = "adamw"
    regularisation: Regularisation = field(default_factory=Regularisation)
    class_weight: Literal["balanced"] | None = None
    """balanced: weight N / (classes present * photos of the class)."""
    ema: float = 0.9
    """EMA decay per 10 steps, 0 to below 1; 0 disables the moving average of the weights."""
    mixup: float | None = None
    """Mix photos in pairs, with a share from Beta(mixup, mixup); 0 disables. None for this and for
    cutmix: networks with `mixing` begin both when training photos are learned by heart."""
    cutmix: float | None = None
    """Replace a rectangle of each photo by another's, of an area from Beta(cutmix, cutmix); 0
    disables. With both, each batch takes one of them."""
    accumulate: int = 1
    """Parts that each batch is worked on in, one after the other, for large batches."""
    clip: float | None = None
    """Maximum global norm of the gradients; None: unlimited."""
    patience: int | None = None
    """End a stage after this many epochs without a lower validation log-loss; None: never."""
    mixed_precision: bool | None = None
    """Sixteen-bit arithmetic; None: where the engine finds a device that is made for it."""
    devices: int = 1
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """Augmentation of the training photos; None disables it."""
    plain_first: bool = False
    """Train on unaugmented photos for the first half of the epochs."""
    views: int = 4
    """Augmented views per photo whose activations are cached. A stage of at least twice as many
    epochs cycles through them; a shorter one makes a new view each epoch."""
    checkpoint_seconds: float = 120.0
    """Maximum time between checkpoints within an epoch; each epoch ends with one."""

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems("invalid fine-tuning settings: ") as problems:
            self._check_values(problems)
            if isinstance(self.regularisation, Regularisation):
                self._check_regularisation(problems, self.regularisation)
            else:
                problems.add(f"regularisation is {self.regularisation!r}; it must be one")

    def _check_values(self, problems: Problems) -> None:
        low, high = SIZE_RANGE
        problems.need(
            self.sizes is None or _rising(self.sizes),
            f"sizes is {self.sizes!r}; it must be None or rising whole numbers of {low} to {high} "
            "pixels, such as (160,) or (160, 224)",
        )
        problems.need(
            self.unfreeze in ("gradual", "all") or _whole(self.unfreeze, 0),
            f"unfreeze is {self.unfreeze!r}; it must be 'gradual', 'all' or a whole number of at "
            "least 0",
        )
        problems.whole("epochs", self.epochs, 1, MOST_EPOCHS)
        for name in ("batch_size", "views", "devices", "accumulate"):
            problems.whole(name, getattr(self, name), 1)
        if self.patience is not None:
            problems.whole("patience", self.patience, 1)
        if self.budget is not None:
            problems.number("budget", self.budget, 0, above=True)
        for name in ("learning_rate", "checkpoint_seconds"):
            problems.number(name, getattr(self, name), 0, above=True)
        problems.number("base_rate", self.base_rate, 0, 1)
        if self.depth_decay is not None:
            problems.number("depth_decay", self.depth_decay, 0, 1, above=True)
        if self.clip is not None:
            problems.number("clip", self.clip, 0, above=True)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) is not None:
                problems.number(name, getattr(self, name), 0)
        problems.number("warm_up", self.warm_up, 0, 1, below=True)
        problems.number("ema", self.ema, 0, 1, below=True)
        problems.choice("schedule", self.schedule, SCHEDULES)
        problems.choice("optimizer", self.optimizer, OPTIMIZERS)
        problems.choice("class_weight", self.class_weight, ("balanced", None))
        problems.need(
            isinstance(self.plain_first, bool),
            f"plain_first is {self.plain_first!r}; it must be True or False",
        )
        problems.need(
            self.mixed_precision is None or isinstance(self.mixed_precision, bool),
            f"mixed_precision is {self.mixed_precision!r}; it must be True, False or None",
        )
        problems.need(
            self.augmentation is None or isinstance(self.augmentation, Augmentation),
            f"augmentation is {self.augmentation!r}; it must be an Augmentation or None",
        )
        parts = [self.batch_size, self.devices, self.accumulate]
        problems.need(
            not all(_whole(value, 1) for value in parts)
            or self.batch_size >= self.devices * self.accumulate,
            f"batch_size is {self.batch_size}, but {self.devices} devices"
            + f" and {self.accumulate} parts" * (self.accumulate != 1)
            + " need at least one photo each",
        )

    @staticmethod
    def _check_regularisation(problems: Problems, given: Regularisation) -> None:
        problems.number("dropout", given.dropout, 0, 1, below=True)
        problems.number("label_smoothing", given.label_smoothing, 0, 1, below=True)
        problems.need(
            isinstance(given.batch_norm, bool),
            f"batch_norm is {given.batch_norm!r}; it must be True or False",
        )
        problems.number("l2", given.l2, 0)
        problems.number("weight_decay", given.weight_decay, 0)

    def for_network(self, network: TrainableNetwork) -> FinetuneSettings:
        """Return the settings with the network's own defaults in place of None."""
        decay, mixed = self.depth_decay, self.mixed_precision
        return replace(
            self,
            depth_decay=network.depth_decay if decay is None else decay,
            mixed_precision=network.sixteen_bit if mixed is None else mixed,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for a model file's metadata, tuples as lists."""
        values = asdict(self)
        values["sizes"] = None if self.sizes is None else list(self.sizes)
        return values


def _whole(value: object, low: int, high: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _rising(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    valid = all(_whole(size, *SIZE_RANGE) for size in value)
    return valid and list(value) == sorted(set(value))


FROM_SCRATCH = FinetuneSettings(
    sizes=(150,),
    unfreeze="all",
    epochs=20,
    learning_rate=1e-3,
    base_rate=1.0,
    depth_decay=1.0,
    plain_first=True,
)
"""Default settings for a small network with random weights: one learning rate for all layers,
unaugmented photos first."""
