"""Contact sheets: many photos in one picture, each with a caption below.

A sheet is a `PIL.Image.Image` of mode RGB, one tile per photo, left to right and top to bottom.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageOps

from tailorbird import parallel
from tailorbird.errors import ImageError, SettingsError
from tailorbird.files import write_bytes
from tailorbird.images import decode
from tailorbird.rendering import fonts

MOST_TILES: Final = 400
"""Maximum number of photos on one sheet; some image viewers cannot open larger ones."""

SUFFIXES: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Format of a sheet by the ending of its file name."""

_GAP = 10
_PAPER, _INK, _PALE, _EMPTY = "white", (30, 30, 30), (110, 110, 110), (236, 236, 236)


@dataclass(frozen=True)
class Tile:
    """One photo on a sheet. caption: lines of text below it, the first one darker."""

    path: Path
    caption: tuple[str, ...]


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int | None = None, side: int = 200
) -> Image.Image:
    """Draw a contact sheet.

    A photo that cannot be read leaves an empty tile that says why. Lines too long for their tile
    are cut with an ellipsis.

    Args:
        tiles: 1 to MOST_TILES photos.
        columns: tiles per row, 1 to 20. None takes 5, and more from 30 photos on, so that a long
            sheet stays about as wide as it is high.
        side: pixels of the square that each photo is fitted into, 64 to 512.

    Raises:
        SettingsError: a value is outside its range.
    """
    columns = columns if columns is not None else max(5, math.isqrt(len(tiles)))
    problems = []
    if not 1 <= len(tiles) <= MOST_TILES:
        problems.append(f"{len(tiles)} photos; it must have between 1 and {MOST_TILES}")
    if not 1 <= columns <= 20:
        problems.append(f"columns is {columns}; it must be between 1 and 20")
    if not 64 <= side <= 512:
        problems.append(f"side is {side}; it must be between 64 and 512 pixels")
    if problems:
        raise SettingsError("invalid contact sheet: " + "; ".join(problems))
    size = max(11, side // 15)
    line = size * 5 // 4
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = side + _GAP, side + line * max(len(tile.caption) for tile in tiles) + 2 * _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    drawn = parallel.ordered(lambda tile: _thumbnail(tile.path, side, size), tiles)
    for number, (tile, picture) in enumerate(zip(tiles, drawn, strict=True)):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        place = (left + (side - picture.width) // 2, top + (side - picture.height) // 2)
        sheet.paste(picture, place)
        for index, text in enumerate(tile.caption):
            below = (left, top + side + _GAP // 2 + index * line)
            colour = _PALE if index else _INK
            fonts.draw(canvas, below, fonts.fit(text, size, side), size, colour)
    return sheet


def save_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as PNG or JPEG, by the ending of the name, atomically.

    Raises SettingsError (see `check_name`) or StorageError.
    """
    buffer = io.BytesIO()
    sheet.save(buffer, check_name(path), quality=90)
    write_bytes(path, buffer.getvalue())


def check_name(path: str | Path) -> str:
    """Return the format for a file name. Raises SettingsError for an ending not in SUFFIXES."""
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise SettingsError(
            f"the contact sheet is {Path(path).name!r}; its name must end in {', '.join(SUFFIXES)}"
        )
    return kind


def _thumbnail(path: Path, side: int, size: int) -> Image.Image:
    """Return a photo fitted into side x side, or a grey tile with the reason why there is none."""
    try:
        return ImageOps.contain(decode(path, at_least=side).image, (side, side))
    except ImageError as error:
        empty = Image.new("RGB", (side, side), _EMPTY)
        reason = fonts.fit(str(error), size, side - 2 * _GAP)
        fonts.draw(ImageDraw.Draw(empty), (_GAP, _GAP), reason, size, _PALE)
        return empty
