"""Contact sheets: many photos in one picture, each with lines of text under it, for a person to look through.

A sheet is a `PIL.Image.Image` of mode RGB, one tile a photo, left to right and top to bottom.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tailorbird import parallel
from tailorbird.errors import ImageError, SettingsError
from tailorbird.files import write_bytes
from tailorbird.images import decode

MOST_TILES: Final = 400
"""Photos on one sheet: more would neither be looked through nor fit every viewer."""

SUFFIXES: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""What a sheet can be saved as."""

_GAP = 10
_PAPER, _INK, _PALE, _EMPTY = "white", (30, 30, 30), (110, 110, 110), (236, 236, 236)


@dataclass(frozen=True)
class Tile:
    """One photo on a sheet: where it is and what is written under it, each string a line, the first one in darker ink."""

    path: Path
    caption: tuple[str, ...]


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int | None = None, side: int = 200
) -> Image.Image:
    """Draw a sheet of `tiles`, `columns` beside each other, each photo fitted whole into `side` x `side` pixels.

    columns: None makes it 5, and more from 30 photos on, so that a long sheet stays about as wide as it is high.
    A photo that cannot be read leaves an empty tile that says why. A line too long for its tile is cut with an ellipsis.

    Raises SettingsError for no tiles or more than MOST_TILES, columns outside 1 to 20, or a side outside 64 to 512.
    """
    columns = columns if columns is not None else max(5, math.isqrt(len(tiles)))
    problems = []
    if not 1 <= len(tiles) <= MOST_TILES:
        problems.append(f"{len(tiles)} photos; a sheet takes 1 to {MOST_TILES}")
    if not 1 <= columns <= 20:
        problems.append(f"columns is {columns}; it must be between 1 and 20")
    if not 64 <= side <= 512:
        problems.append(f"side is {side}; it must be between 64 and 512 pixels")
    if problems:
        raise SettingsError("no contact sheet can be made: " + "; ".join(problems))
    font = _font(max(11, side // 15))
    line = int(font.size) * 5 // 4
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = side + _GAP, side + line * max(len(tile.caption) for tile in tiles) + 2 * _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    drawn = parallel.ordered(lambda tile: _thumbnail(tile.path, side, font), tiles)
    for number, (tile, picture) in enumerate(zip(tiles, drawn, strict=True)):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(
            picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2)
        )
        for index, text in enumerate(tile.caption):
            place = (left, top + side + _GAP // 2 + index * line)
            draw.text(place, _cut(text, font, side), fill=_PALE if index else _INK, font=font)
    return sheet


def save_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as PNG or JPEG, by the name's ending, atomically. Raises SettingsError (see `check_name`) and StorageError."""
    buffer = io.BytesIO()
    sheet.save(buffer, check_name(path), quality=90)
    write_bytes(path, buffer.getvalue())


def check_name(path: str | Path) -> str:
    """The format a sheet of this name is saved in. Raises SettingsError for an ending other than those of SUFFIXES."""
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise SettingsError(
            f"the contact sheet is {Path(path).name!r}; its name must end in {', '.join(SUFFIXES)}"
        )
    return kind


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise SettingsError(
            "Pillow was built without FreeType, which draws the captions; install Pillow from a wheel"
        )
    return font


def _thumbnail(path: Path, side: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A photo fitted into side x side, or a grey tile with the reason why there is none."""
    try:
        return ImageOps.contain(decode(path, at_least=side).image, (side, side))
    except ImageError as error:
        empty = Image.new("RGB", (side, side), _EMPTY)
        ImageDraw.Draw(empty).text(
            (_GAP, _GAP), _cut(str(error), font, side - 2 * _GAP), fill=_PALE, font=font
        )
        return empty


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of `text` that is at most `width` pixels long."""
    text = " ".join(text[:400].split())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if font.getlength(text[:middle] + "...") <= width else (low, middle - 1)
        )
    return text[:low] + "..."
