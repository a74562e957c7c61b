"""Alternatives of a sweep: checks, defaults, names, and the `train` command of a setting."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Literal, get_args

from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.errors import SettingsError
from tailorbird.experiments.data import ExperimentData, head_settings
from tailorbird.head import HeadSettings
from tailorbird.head.search import plan_trials
from tailorbird.preparation import MOST_VIEWS
from tailorbird.validation import Problems

Metric = Literal["accuracy", "log-loss"]
METRICS = get_args(Metric)

START: Mapping[str, Any] = {
    "inner": (),
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "l2": 1e-2,
    "views": 1,
}
"""Initial setting: one dense layer, Keras' rate for Adam, the L2 that `train` tries first."""

USUAL: Mapping[str, tuple[Any, ...]] = {
    "learning_rate": (1e-4, 1e-3, 1e-2, 1e-1),
    "inner": ((), (10,), (100,), (1000,)),
    "dropout": (0.0, 0.2, 0.5, 0.8),
}
"""The default alternatives, from the usual transfer-learning recipe."""

ORDER = ("learning_rate", "inner", "dropout")
"""Fields varied first, in this order: with a bad learning rate no other comparison is useful."""

NAMES = {
    "learning_rate": "learning rate",
    "l2": "L2",
    "batch_norm": "batch norm",
    "label_smoothing": "label smoothing",
    "batch_size": "batch size",
    "class_weight": "class weight",
}
"""Names of settings in tables and sentences; otherwise that of the field."""
MOST_SETTINGS = 5000


def check_alternatives(
    alternatives: Mapping[str, Sequence[Any]] | None,
) -> dict[str, tuple[Any, ...]]:
    """Return the alternatives without repeats, fields of ORDER first; by default USUAL.

    Raises one SettingsError that names every unknown field, empty list and invalid value.
    """
    given = dict(alternatives or USUAL)
    known = [field.name for field in fields(HeadSettings)]
    checked: dict[str, tuple[Any, ...]] = {}
    with Problems() as problems:
        for name in sorted(given, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER)):
            values = given[name]
            if name not in known:
                problems.attempt(partial(head_settings, {name: None}, "alternatives"))
            elif isinstance(values, str) or not isinstance(values, Sequence) or not values:
                problems.add(f"{name} is {values!r}; it must be a list of at least one alternative")
            else:
                plain = (tuple(v) if isinstance(v, list) else v for v in values)
                checked[name] = tuple(dict.fromkeys(plain))
                for value in checked[name]:
                    problems.attempt(partial(head_settings, {name: value}))
        for count in checked.get("views", ()):
            problems.whole("views", count, 1, MOST_VIEWS)
    return checked


def most_views(alternatives: Mapping[str, Sequence[Any]]) -> int:
    """Return the number of views of each photo that these alternatives need."""
    return int(max(alternatives.get("views", (1,))))


def starting_point(alternatives: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return START; a field whose value is not an alternative gets its first alternative."""
    start = dict(START)
    for name, values in alternatives.items():
        if name not in start or start[name] not in values:
            start[name] = values[0]
    return start


def complete(values: Mapping[str, Any], data: ExperimentData, train: int) -> HeadSettings:
    """Return settings; missing epochs are what the `train` command uses for `train` photos."""
    return plan_trials(values, views=len(data.features), samples=train)[0]


def grid(alternatives: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination. Raises SettingsError above MOST_SETTINGS."""
    count = math.prod(len(values) for values in alternatives.values())
    if count > MOST_SETTINGS:
        raise SettingsError(
            f"the grid has {count:,} settings, the maximum is {MOST_SETTINGS:,}; give fewer "
            "alternatives, vary one at a time, or let Optuna choose"
        )
    start = starting_point(alternatives)
    return [
        {**start, **dict(zip(alternatives, row, strict=True))}
        for row in itertools.product(*alternatives.values())
    ]


def value_text(name: str, value: Any) -> str:
    """Return a value as text: 0.001, 100x50, none, on."""
    if name == "inner":
        return "x".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(settings: HeadSettings, names: Sequence[str]) -> str:
    """Return the named fields as text: `learning rate 0.001, inner 100`."""
    return ", ".join(
        f"{NAMES.get(name, name)} {value_text(name, getattr(settings, name))}" for name in names
    )


def train_command(data: ExperimentData, settings: HeadSettings | None, given: Sequence[str]) -> str:
    """Return the `tailorbird train` command with these settings; None: plain `train`.

    Fields other than the usual four are written only if they are in `given`. Without a number of
    epochs `train` chooses it, and with extra views it also tries none.
    """
    words = ["tailorbird", "train", data.source, "-o", "model.onnx"]
    if data.backbone != DEFAULT:
        words += ["--backbone", data.backbone]
    words += ["--mirror"] * data.mirror
    words += _head_options(settings, given) if settings is not None else []
    if data.seed:
        words += ["--seed", str(data.seed)]
    return shlex.join(words)


def _head_options(settings: HeadSettings, given: Sequence[str]) -> list[str]:
    words = ["--inner", "x".join(map(str, settings.inner)) or "0"]
    for name in ("dropout", "learning_rate", "l2"):
        words += [f"--{name.replace('_', '-')}", f"{getattr(settings, name):g}"]
    for name in ("epochs", "batch_size", "patience", "label_smoothing", "class_weight", "schedule"):
        if name in given and getattr(settings, name) is not None:
            words += [f"--{name.replace('_', '-')}", value_text(name, getattr(settings, name))]
    if settings.batch_norm:
        words.append("--batch-norm")
    if settings.views > 1:
        words += ["--views", str(settings.views)]
    return words


def parameters(settings: HeadSettings, data: ExperimentData) -> int:
    """Return the number of weights and biases of a head with these settings."""
    sizes = (data.features.shape[2], *settings.inner, len(data.classes))
    return sum(inputs * outputs + outputs for inputs, outputs in itertools.pairwise(sizes))
