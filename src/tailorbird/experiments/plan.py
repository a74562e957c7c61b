"""What a sweep varies: alternatives for each setting, checked, and how settings are named and handed to `train`."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from tailorbird.errors import SettingsError
from tailorbird.experiments.photos import Photos
from tailorbird.head import HeadSettings
from tailorbird.head.search import plan_trials
from tailorbird.preparation import MOST_VIEWS

Metric = Literal["accuracy", "log-loss"]

START: Mapping[str, Any] = {
    "inner": (),
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "l2": 1e-2,
    "views": 1,
}
"""Where a sweep starts: a single dense layer, Keras' learning rate for Adam, the L2 that `train` tries for such a head."""

USUAL: Mapping[str, tuple[Any, ...]] = {
    "learning_rate": (1e-4, 1e-3, 1e-2, 1e-1),
    "inner": ((), (10,), (100,), (1000,)),
    "dropout": (0.0, 0.2, 0.5, 0.8),
}
"""What is tried when nothing is asked for: the alternatives of the transfer-learning recipe."""

ORDER = ("learning_rate", "inner", "dropout")
"""Varied first, and in this order: a learning rate that is wrong by far spoils every other comparison."""

WORDS = {"learning_rate": "learning rate", "l2": "L2", "batch_norm": "batch norm", "label_smoothing": "label smoothing",
         "batch_size": "batch size", "class_weight": "class weight"}  # fmt: skip
MOST_SETTINGS = 5000


def check_alternatives(
    alternatives: Mapping[str, Sequence[Any]] | None,
) -> dict[str, tuple[Any, ...]]:
    """The alternatives, those of ORDER first, without repeats; USUAL when there are none.

    Raises one SettingsError that names every problem: a field HeadSettings has not, an empty list, an invalid value.
    """
    given = dict(alternatives or USUAL)
    known = [field.name for field in fields(HeadSettings)]
    problems = [
        f"the head has no setting {name!r}; it has {', '.join(known)}"
        for name in given
        if name not in known
    ]
    checked: dict[str, tuple[Any, ...]] = {}
    for name in sorted(given, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        values = given[name]
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            problems.append(f"{name} is {values!r}, but must be a list of at least one alternative")
            continue
        checked[name] = tuple(dict.fromkeys(tuple(v) if isinstance(v, list) else v for v in values))
        for value in checked[name] if name in known else ():
            try:
                HeadSettings(**{name: value})
            except SettingsError as error:
                problems.append(str(error).removeprefix("invalid head settings: "))
    if any(isinstance(count, int) and count > MOST_VIEWS for count in checked.get("views", ())):
        problems.append(f"views is {max(checked['views'])}, but must be at most {MOST_VIEWS}")
    if problems:
        raise SettingsError("; ".join(problems))
    return checked


def most_views(alternatives: Mapping[str, Sequence[Any]]) -> int:
    """The views of each photo that these alternatives need."""
    return int(max(alternatives.get("views", (1,))))


def starting_point(alternatives: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """START, with each given field at its usual value where that is among its alternatives, else at the first of them."""
    start = dict(START)
    for name, values in alternatives.items():
        if name not in start or start[name] not in values:
            start[name] = values[0]
    return start


def complete(values: Mapping[str, Any], photos: Photos, train: int) -> HeadSettings:
    """Settings with as many epochs as `train` gives them on `train` training photos, where these are not among the values."""
    return plan_trials(values, views=len(photos.features), samples=train)[0]


def grid(alternatives: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination. Raises SettingsError above MOST_SETTINGS."""
    count = math.prod(len(values) for values in alternatives.values())
    if count > MOST_SETTINGS:
        raise SettingsError(
            f"the grid has {count:,} settings, but may have at most {MOST_SETTINGS:,}; give fewer alternatives, vary one at a "
            "time, or let Optuna choose"
        )
    start = starting_point(alternatives)
    return [
        {**start, **dict(zip(alternatives, row, strict=True))}
        for row in itertools.product(*alternatives.values())
    ]


def value_text(name: str, value: Any) -> str:
    """A value as people and the command line write it: 0.001, 100x50, none, on."""
    if name == "inner":
        return "x".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(settings: HeadSettings, names: Sequence[str]) -> str:
    """`learning rate 0.001, inner 100`: the named fields."""
    return ", ".join(
        f"{WORDS.get(name, name)} {value_text(name, getattr(settings, name))}" for name in names
    )


def train_command(photos: Photos, settings: HeadSettings, given: Sequence[str]) -> str:
    """The `tailorbird train` command line that uses these settings; fields beyond the usual four only where `given`.

    `train` picks the number of epochs by itself where it is not given, and compares the extra views with none.
    """
    words = ["tailorbird", "train", photos.source, "-o", "model.onnx"]
    if photos.backbone != "pocket":
        words += ["--backbone", photos.backbone]
    words += ["--inner", "x".join(map(str, settings.inner)) or "0"]
    for name in ("dropout", "learning_rate", "l2"):
        words += [f"--{name.replace('_', '-')}", f"{getattr(settings, name):g}"]
    for name in ("epochs", "batch_size", "patience", "label_smoothing", "class_weight", "schedule"):
        if name in given and getattr(settings, name) is not None:
            words += [f"--{name.replace('_', '-')}", value_text(name, getattr(settings, name))]
    if settings.batch_norm:
        words.append("--batch-norm")
    if settings.views > 1:
        words += ["--views", str(settings.views)]
    if photos.seed:
        words += ["--seed", str(photos.seed)]
    return shlex.join(words)


def parameters(settings: HeadSettings, photos: Photos) -> int:
    """Weights and biases of a head with these settings."""
    sizes = (photos.features.shape[2], *settings.inner, len(photos.classes))
    return sum(inputs * outputs + outputs for inputs, outputs in itertools.pairwise(sizes))
