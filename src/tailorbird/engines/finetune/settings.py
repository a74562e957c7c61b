"""What a person may choose about fine-tuning, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tailorbird.engines.protocol import Regularisation
from tailorbird.errors import SettingsError
from tailorbird.images import Augmentation

Schedule = Literal["cosine", "constant", "plateau"]
SCHEDULES = ("cosine", "constant", "plateau")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SIZE_RANGE = (16, 2048)
"""Sides in pixels that a backbone may be trained at; the network itself may need more."""
MOST_EPOCHS = 9_999


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that shapes a fine-tuning run, apart from the network, the data and the seed."""

    sizes: tuple[int, ...] | None = None
    """Sides of the square input in pixels, one a stage, rising; None: a smaller one, then the backbone's own."""
    unfreeze: Literal["gradual", "all"] | int = "gradual"
    """gradual: the top of the base first, then all but its first layers; all; or N: at least N topmost layers; 0: the head alone."""
    epochs: int = 10
    """Passes over the training photos in all stages together; at most, where a budget or early stopping ends it sooner."""
    budget: float | None = None
    """Seconds the whole of it may take; None: as long as it takes."""
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    """The head's at the start, > 0."""
    base_rate: float = 1.0 / 3.0
    """The base's learning rate at its top, as a fraction of the head's, 0 to 1."""
    depth_decay: float = 0.5
    """The first layer's learning rate as a fraction of the top layer's, above 0 to 1; those between lie between."""
    schedule: Schedule = "cosine"
    warm_up: float = 0.05
    """Share of a stage in which the rate rises from nothing, 0 to below 1."""
    optimizer: str = "adamw"
    regularisation: Regularisation = field(default_factory=Regularisation)
    class_weight: Literal["balanced"] | None = None
    """`balanced` weighs a class by N / (classes present * its count)."""
    ema: float = 0.9
    """How much of the averaged weights stays after ten steps, 0 to below 1; 0: no average."""
    patience: int | None = None
    """A stage ends after this many epochs in a row without a lower validation log-loss; None: it runs to its end."""
    mixed_precision: bool = False
    devices: int = 1
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """Of training photos only; None: none."""
    plain_first: bool = False
    """Train on the photos as they are for the first half of the epochs, on augmented ones from there on."""
    views: int = 4
    """Augmented views of a photo that a frozen part's activations are kept for; a stage of twice as many epochs or more takes
    them in turn, a shorter one makes a new view each epoch."""
    checkpoint_seconds: float = 120.0
    """A checkpoint is written after each epoch, and as often as this within a long one."""

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        problems = _problems(self)
        if problems:
            raise SettingsError("the backbone cannot be fine-tuned so: " + "; ".join(problems))

    def as_dict(self) -> dict[str, Any]:
        """For a model file's metadata: tuples as lists."""
        values = asdict(self)
        values["sizes"] = None if self.sizes is None else list(self.sizes)
        return values


def _whole(low: int, high: float = math.inf) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    )


def _number(low: float, high: float, *, top: bool = False) -> Callable[[object], bool]:
    """low <= value < high, or <= high with `top`."""

    def check(value: object) -> bool:
        if not isinstance(value, float | int) or isinstance(value, bool):
            return False
        return low <= value < high or (top and value == high)

    return check


def _rising(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, tuple) or not value or not all(map(_whole(*SIZE_RANGE), value)):
        return False
    return list(value) == sorted(set(value))


def _problems(settings: FinetuneSettings) -> list[str]:
    problems = []
    above_zero = math.nextafter(0, 1)

    def need(owner: object, name: str, valid: str, check: Callable[[object], bool]) -> None:
        value = getattr(owner, name)
        if not check(value):
            problems.append(f"{name} is {value!r}, but must be {valid}")

    low, high = SIZE_RANGE
    need(
        settings,
        "sizes",
        f"None or rising whole numbers of {low} to {high} pixels, such as (160,) or (160, 224)",
        _rising,
    )
    need(
        settings,
        "unfreeze",
        "'gradual', 'all' or a whole number of layers of at least 0",
        lambda value: value in ("gradual", "all") or _whole(0)(value),
    )
    need(settings, "epochs", f"a whole number of 1 to {MOST_EPOCHS}", _whole(1, MOST_EPOCHS))
    for name in ("batch_size", "views", "devices"):
        need(settings, name, "a whole number of at least 1", _whole(1))
    need(
        settings,
        "budget",
        "None or seconds above 0",
        lambda v: v is None or _number(above_zero, math.inf)(v),
    )
    need(
        settings,
        "patience",
        "None or a whole number of at least 1",
        lambda v: v is None or _whole(1)(v),
    )
    for name in ("learning_rate", "checkpoint_seconds"):
        need(settings, name, "a finite number above 0", _number(above_zero, math.inf))
    need(settings, "base_rate", "0 to 1", _number(0, 1, top=True))
    need(settings, "depth_decay", "above 0 and at most 1", _number(above_zero, 1, top=True))
    need(settings, "warm_up", "in [0, 1)", _number(0, 1))
    need(settings, "ema", "in [0, 1)", _number(0, 1))
    need(settings, "schedule", f"one of {', '.join(SCHEDULES)}", lambda v: v in SCHEDULES)
    need(settings, "optimizer", f"one of {', '.join(OPTIMIZERS)}", lambda v: v in OPTIMIZERS)
    need(settings, "class_weight", "'balanced' or None", lambda v: v in ("balanced", None))
    need(settings, "plain_first", "True or False", lambda v: isinstance(v, bool))
    need(settings, "mixed_precision", "True or False", lambda v: isinstance(v, bool))
    need(
        settings,
        "augmentation",
        "an Augmentation or None",
        lambda v: v is None or isinstance(v, Augmentation),
    )
    if not isinstance(settings.regularisation, Regularisation):
        problems.append(
            f"regularisation is {settings.regularisation!r}, but must be a Regularisation"
        )
    else:
        need(settings.regularisation, "dropout", "in [0, 1)", _number(0, 1))
        need(settings.regularisation, "label_smoothing", "in [0, 1)", _number(0, 1))
        need(settings.regularisation, "batch_norm", "True or False", lambda v: isinstance(v, bool))
        for name in ("l2", "weight_decay"):
            need(
                settings.regularisation, name, "a finite number of at least 0", _number(0, math.inf)
            )
    if (
        _whole(1)(settings.batch_size)
        and _whole(1)(settings.devices)
        and settings.batch_size < settings.devices
    ):
        problems.append(
            f"batch_size is {settings.batch_size}, but {settings.devices} devices need at least one photo each"
        )
    return problems


FROM_SCRATCH = FinetuneSettings(
    sizes=(150,),
    unfreeze="all",
    epochs=20,
    learning_rate=1e-3,
    base_rate=1.0,
    depth_decay=1.0,
    plain_first=True,
)
"""Where a small network trains from random weights: all of it at one rate, first on the photos as they are, then on augmented ones."""
