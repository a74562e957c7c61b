"""Parse the option --inner, which `train`, `sweep`, `find-lr` and `learning-curve` share.

Layers are joined by x and alternatives by commas: 0 is no inner layer, 100 is one, 100x50 are two.
"""

from __future__ import annotations

from tailorbird.errors import SettingsError

INNER_HELP = "Inner layers: 0 for none, 100 for one, 100x50 for two"


def inner_alternatives(text: str | None) -> list[tuple[int, ...]] | None:
    """Return `0,100,100x50` as [(), (100,), (100, 50)]; None for None. Raises SettingsError."""
    if text is None:
        return None
    return [_layers(part, text) for part in text.split(",")]


def inner_layers(text: str | None) -> tuple[int, ...] | None:
    """Return `100x50` as (100, 50), `0` as (), None for None. Raises SettingsError."""
    if text is None:
        return None
    if "," in text:
        layers = "x".join(part.strip() for part in text.split(","))
        raise SettingsError(
            f"--inner is {text!r}; this command takes a single head: write {layers} for its "
            "layers; to compare alternatives, use `tailorbird sweep`"
        )
    return _layers(text, text)


def _layers(part: str, text: str) -> tuple[int, ...]:
    sizes = part.strip().lower().split("x")
    if not all(size.strip().isdecimal() for size in sizes):
        raise SettingsError(
            f"--inner is {text!r}; give sizes of inner layers such as 100 or 100x50, or 0 for none"
        )
    layers = tuple(int(size) for size in sizes)
    return () if layers == (0,) else layers
