"""Colours of the pages from one accent colour, readable in the light and in the dark theme."""

from __future__ import annotations

import re

READABLE = 4.5
"""Least contrast of text with its background (WCAG 2.2, success criterion 1.4.3)."""

_LIGHT = ((246, 244, 239), (255, 254, 251), (236, 233, 225))
_DARK = ((18, 23, 21), (27, 34, 32), (38, 46, 43))
"""The backgrounds --ground, --surface and --sunken of base.css, as RGB."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)

Colour = tuple[int, int, int]


def parse(text: str) -> Colour | None:
    """Return the colour of `#rrggbb` as RGB; None for any other text."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def contrast(a: Colour, b: Colour) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2, definition)."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def styles(accent: Colour) -> str:
    """Return CSS that replaces the accent colours of base.css.

    The colour is darkened for the light theme, and lightened for the dark one, until text in it is
    readable on every background of the theme, and text on it too.
    """
    light, dark = _readable(accent, _LIGHT, _BLACK), _readable(accent, _DARK, _WHITE)
    return (
        f":root {{ {_rules(light, _mix(light, _BLACK, 0.25), _WHITE, _mix(_LIGHT[1], light, 0.12))}"
        " }\n@media (prefers-color-scheme: dark) { :root { "
        f"{_rules(dark, _mix(dark, _WHITE, 0.25), _DARK[0], _mix(_DARK[1], dark, 0.2))} }} }}\n"
    )


def _rules(leaf: Colour, strong: Colour, on: Colour, wash: Colour) -> str:
    named = {"leaf": leaf, "leaf-strong": strong, "on-leaf": on, "leaf-wash": wash}
    return " ".join(f"--{name}: #{r:02x}{g:02x}{b:02x};" for name, (r, g, b) in named.items())


def _readable(colour: Colour, backgrounds: tuple[Colour, ...], towards: Colour) -> Colour:
    """Return the colour, mixed with `towards` as little as it needs to be readable."""
    for step in range(101):
        mixed = _mix(colour, towards, step / 100)
        if all(contrast(mixed, background) >= READABLE for background in backgrounds):
            return mixed
    return towards


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return the colour with `share` of it, 0 to 1, replaced by the other."""
    r, g, b = (round(c + (o - c) * share) for c, o in zip(colour, other, strict=True))
    return r, g, b


def _luminance(colour: Colour) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
