"""What `train` is told about fine-tuning, as settings."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from tailorbird.errors import SettingsError

if TYPE_CHECKING:
    from tailorbird.images import Augmentation

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def sizes(value: str | None) -> tuple[int, ...] | None:
    """`150,299` as (150, 299). Raises SettingsError."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingsError(
            f"--size is {value!r}; give sides in pixels, the smaller first, such as 150,299 or 224"
        )
    return tuple(int(part) for part in parts)


def seconds(value: str | None) -> float | None:
    """`90`, `90s`, `10m` or `1.5h` as seconds. Raises SettingsError."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", value.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise SettingsError(f"--budget is {value!r}; give a time such as 90s, 10m or 1.5h")
    return float(found[1]) * _UNITS[found[2]]


def unfreeze(value: str | None) -> str | int | None:
    """`gradual`, `all` or a number of layers. Raises SettingsError."""
    if value is None or value in ("gradual", "all"):
        return value
    if not value.isdecimal():
        raise SettingsError(
            f"--unfreeze is {value!r}; give gradual, all, or how many of the top layers train, such as 20"
        )
    return int(value)


def augmentation(value: str) -> Augmentation | None:
    """`none`, or ranges that differ from the usual ones: `zoom=0.2,rotation=15,flip=no`. Raises SettingsError."""
    from tailorbird.images import Augmentation

    if value.strip().lower() == "none":
        return None
    known = {field.name for field in fields(Augmentation)}
    changes: dict[str, Any] = {}
    for part in value.split(","):
        name, _, said = (text.strip().lower() for text in part.partition("="))
        try:
            number = {"yes": True, "no": False}[said] if name == "flip" else float(said)
        except (KeyError, ValueError):
            number = None
        if name not in known or number is None:
            raise SettingsError(
                f"--augment has {part.strip()!r}; give none, or changes such as zoom=0.2,rotation=15,flip=no of: {', '.join(sorted(known))}"
            )
        changes[name] = number
    return replace(Augmentation(), **changes)
