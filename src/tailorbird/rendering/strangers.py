"""Draw pictures that are photos of nothing: noise, flat colours, drawings, screenshots of text.

They show what a model says to uploads that are obviously none of its classes. Each is the same
picture in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tailorbird.rendering import fonts

EACH: Final = 10
"""Pictures of each kind."""

_SIZES: Final = ((320, 320), (360, 270), (270, 360), (200, 420))
_WORDS: Final = [
    "total",
    "amount",
    "due",
    "invoice",
    "receipt",
    "order",
    "delivery",
    "address",
    "thank",
    "you",
    "for",
    "your",
    "purchase",
    "message",
    "sent",
    "today",
    "at",
    "settings",
    "account",
    "password",
    "help",
    "search",
    "new",
    "photo",
    "share",
    "reply",
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "it",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
]


def draw_strangers(each: int = EACH) -> dict[str, list[Image.Image]]:
    """Return `each` RGB pictures of every kind, by the name of the kind."""
    return {
        kind: [
            draw(np.random.default_rng((number, len(kind))), _SIZES[number % len(_SIZES)])
            for number in range(each)
        ]
        for kind, draw in _KINDS.items()
    }


def _noise(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
    if random.random() < 0.3:
        pixels[:] = pixels[..., :1]
    picture = Image.fromarray(pixels)
    radius = random.choice([0, 0, 1, 2, 6])
    return picture.filter(ImageFilter.GaussianBlur(float(radius))) if radius else picture


def _flat(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    first, second = random.integers(0, 256, (2, 3))
    if random.random() < 0.5:
        return Image.new("RGB", size, _colour(first))
    ramp = np.linspace(0, 1, size[1])[:, None, None]
    rows = np.broadcast_to(first * (1 - ramp) + second * ramp, (size[1], size[0], 3))
    return Image.fromarray(rows.astype(np.uint8))


def _drawing(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(4, 14))):
        points = [(int(x * size[0]), int(y * size[1])) for x, y in random.random((5, 2))]
        colour, width = _colour(random.integers(0, 200, 3)), int(random.integers(1, 7))
        kind = random.integers(3)
        if kind == 0:
            canvas.line(points, fill=colour, width=width, joint="curve")
        elif kind == 1:
            (left, top), (right, bottom) = np.sort(points[:2], axis=0).tolist()
            canvas.ellipse((left, top, right, bottom), outline=colour, width=width)
        else:
            canvas.polygon(points[:3], outline=colour, width=width)
    return picture


def _text(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    dark = random.random() < 0.3
    paper, ink = ((24, 24, 28), (225, 225, 225)) if dark else ((250, 250, 250), (25, 25, 25))
    picture = Image.new("RGB", size, paper)
    canvas = ImageDraw.Draw(picture)
    height = int(random.integers(11, 18))
    canvas.rectangle((0, 0, size[0], 2 * height), fill=_colour(random.integers(0, 256, 3)))
    for top in range(3 * height, size[1] - height, int(height * 1.5)):
        words = random.choice(_WORDS, int(random.integers(1, 9)))
        line = fonts.fit(" ".join(map(str, words)), height, size[0] - 24)
        fonts.draw(canvas, (12, top), line, height, ink)
    return picture


def _colour(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = values.tolist()
    return int(red), int(green), int(blue)


_KINDS: Final[Mapping[str, Callable[[np.random.Generator, tuple[int, int]], Image.Image]]] = {
    "noise": _noise,
    "flat colours": _flat,
    "drawings": _drawing,
    "text screenshots": _text,
}
