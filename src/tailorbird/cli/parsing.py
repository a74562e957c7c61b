"""Parse values of options that are more than a number or a word.

Every function returns None for None, and raises SettingsError for a value that it cannot parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from tailorbird.errors import SettingsError

if TYPE_CHECKING:
    from tailorbird.images import Augmentation

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def inner_layers(text: str | None) -> tuple[int, ...] | None:
    """Return `100x50` as (100, 50) and `0` as ()."""
    if text is None:
        return None
    if "," in text:
        layers = "x".join(part.strip() for part in text.split(","))
        raise SettingsError(
            f"--inner is {text!r}; this command takes a single head: write {layers} for its "
            "layers; to compare alternatives, use `tailorbird sweep`"
        )
    return _layers(text, text)


def inner_alternatives(text: str | None) -> list[tuple[int, ...]] | None:
    """Return `0,100,100x50` as [(), (100,), (100, 50)]."""
    return None if text is None else [_layers(part, text) for part in text.split(",")]


def _layers(part: str, text: str) -> tuple[int, ...]:
    sizes = part.strip().lower().split("x")
    if not all(size.strip().isdecimal() for size in sizes):
        raise SettingsError(
            f"--inner is {text!r}; give sizes of inner layers such as 100 or 100x50, or 0 for none"
        )
    layers = tuple(int(size) for size in sizes)
    return () if layers == (0,) else layers


def alternatives(
    option: str, text: str | None, kind: Callable[[str], Any] | Mapping[str, Any]
) -> list[Any] | None:
    """Return a list that is separated by commas, such as `0.1,0.2`.

    kind: float, int, or a mapping of each valid word to its value.
    """
    if text is None:
        return None
    parse = kind if callable(kind) else kind.__getitem__
    try:
        return [parse(part.strip()) for part in text.split(",")]
    except (KeyError, ValueError):
        valid: dict[Any, str] = {
            float: "numbers such as 0.001,0.01",
            int: "whole numbers such as 10,30",
        }
        what = valid.get(kind) if callable(kind) else f"one or more of {', '.join(kind)}"
        raise SettingsError(f"{option} is {text!r}; give {what}, separated by commas") from None


def sizes(text: str | None) -> tuple[int, ...] | None:
    """Return `150,299` as (150, 299)."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingsError(
            f"--size is {text!r}; give sides in pixels, the smaller first, such as 150,299 or 224"
        )
    return tuple(int(part) for part in parts)


def seconds(text: str | None) -> float | None:
    """Return `90`, `90s`, `10m` or `1.5h` in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise SettingsError(f"--budget is {text!r}; give a time such as 90s, 10m or 1.5h")
    return float(found[1]) * _UNITS[found[2]]


def unfreeze(text: str | None) -> str | int | None:
    """Return `gradual` or `all` as they are, and a number of layers as an int."""
    if text is None or text in ("gradual", "all"):
        return text
    if not text.isdecimal():
        raise SettingsError(
            f"--unfreeze is {text!r}; give gradual, all, or a number of top layers such as 20"
        )
    return int(text)


def model_arguments(text: str | None) -> dict[str, object] | None:
    """Return `pad_type=same,bn_eps=0.001,skip=yes` as names with text, numbers, True or False."""
    if text is None:
        return None
    found: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name.isidentifier() and equals and value):
            raise SettingsError(
                f"--model-args has {part.strip()!r}; give NAME=VALUE, separated by commas, such as "
                "pad_type=same,bn_eps=0.001"
            )
        found[name] = _value(value)
    return found


def _value(text: str) -> object:
    """Return a number, True or False for text that is one; else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)


def augmentation(text: str) -> Augmentation | None:
    """Return the augmentation changed by `zoom=0.2,rotation=15,flip=no`; None for `none`."""
    from tailorbird.images import Augmentation

    if text.strip().lower() == "none":
        return None
    known = {field.name for field in fields(Augmentation)}
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (piece.strip().lower() for piece in part.partition("="))
        try:
            number = {"yes": True, "no": False}[value] if name == "flip" else float(value)
        except (KeyError, ValueError):
            number = None
        if name not in known or number is None:
            raise SettingsError(
                f"--augment has {part.strip()!r}; give none, or changes such as "
                f"zoom=0.2,rotation=15,flip=no of: {', '.join(sorted(known))}"
            )
        changes[name] = number
    return replace(Augmentation(), **changes)
