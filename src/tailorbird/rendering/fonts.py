"""Draw one line of text in any script, with fonts found on this machine.

A line is drawn in runs, each with the first font that has its characters: the font that the user
names, DejaVu Sans (it comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew), then the
system's fonts, which are searched only when those lack something. A character that no font has is
drawn as its code, such as U+65E5, and a warning says what to do.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import ImageDraw, ImageFont

from tailorbird import privacy
from tailorbird.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLE: Final = "TAILORBIRD_FONT"
"""Environment variable with the path of a font file (TTF, OTF, TTC) to prefer to all others."""

ELLIPSIS: Final = "…"

_MOST_FONTS: Final = 400
_SLANTED_OR_HEAVY: Final = ("italic", "oblique", "bold", "black", "heavy", "thin", "condensed")
_JOINING: Final = ("Mn", "Mc", "Me", "Cf")  # marks and joiners belong to the character before
_UNPRINTABLE: Final = ("Cc", "Cs", "Zl", "Zp")

Run = tuple[str, ImageFont.FreeTypeFont]


class MissingGlyphs(UserWarning):
    """A text has characters that no font on this machine has."""


def draw(
    canvas: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int],
) -> None:
    """Draw one line of text with its top left corner at `place`; `size` is in pixels."""
    left, top = place
    baseline = top + _font(_first(), size).getmetrics()[0]
    for part, font in _runs(text, size):
        canvas.text((left, baseline), part, fill=fill, font=font, anchor="ls")
        left += font.getlength(part)


def length(text: str, size: int) -> float:
    """Return the width of a line of text in pixels."""
    return sum(font.getlength(part) for part, font in _runs(text, size))


def fit(text: str, size: int, width: float, *, keep_end: bool = False) -> str:
    """Return `text` as one line of at most `width` pixels, cut with an ellipsis where necessary.

    keep_end: cut in the middle instead of at the end.
    """
    text = " ".join(_printable(text[:400]).split())
    if length(text, size) <= width:
        return text

    def cut(count: int) -> str:
        tail = count // 2 if keep_end else 0
        return text[: count - tail] + ELLIPSIS + text[len(text) - tail :]

    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(cut(middle), size) <= width else (low, middle - 1)
    return cut(low)


def use_in_figure(figure: Figure) -> None:
    """Give every text of a matplotlib figure the fonts that have its characters.

    Call when all is drawn, before saving. matplotlib draws DejaVu Sans otherwise.
    """
    from matplotlib import font_manager
    from matplotlib.text import Text

    drawn = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    signs = dict.fromkeys(sign for text in drawn for sign in text.get_text())
    found = {sign: _font_with(sign) for sign in signs if not sign.isspace()}
    paths = [path for path in dict.fromkeys(found.values()) if path and path != _preferred()[-1]]
    families = []
    for path in paths:
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
    for text in drawn if families else ():
        text.set_fontfamily([*text.get_fontfamily(), *families])
    if missing := "".join(sign for sign, path in found.items() if path is None):
        _warn(missing)


def _printable(text: str) -> str:
    return "".join(" " if unicodedata.category(sign) in _UNPRINTABLE else sign for sign in text)


def _runs(text: str, size: int) -> list[Run]:
    """Split a line into parts that one font can draw."""
    runs: list[Run] = []
    missing = []
    for sign in text:
        if runs and (sign.isspace() or unicodedata.category(sign) in _JOINING):
            runs[-1] = (runs[-1][0] + sign, runs[-1][1])
            continue
        path = _font_with(sign)
        if path is None:
            missing.append(sign)
        part = sign if path is not None else f"U+{ord(sign):04X}"
        font = _font(path or _first(), size)
        if runs and runs[-1][1] is font:
            runs[-1] = (runs[-1][0] + part, font)
        else:
            runs.append((part, font))
    if missing:
        _warn("".join(dict.fromkeys(missing)))
    return runs


@lru_cache(maxsize=4096)
def _font_with(sign: str) -> str | None:
    """Return the first font that has a character; None where no font has it."""
    for fonts in (_preferred, _system_fonts):  # the search takes longer than drawing a page
        if found := next((path for path in fonts() if _has(path, sign)), None):
            return found
        if ord(sign) < 128:
            break
    return None


def _has(path: str, sign: str) -> bool:
    try:
        font = _font(path, 16)
        return sign.isspace() or bytes(font.getmask(sign)) != _missing_glyph(path)
    except (OSError, ValueError):
        return False  # not a font, or one of fixed sizes such as coloured emoji


@lru_cache(maxsize=512)
def _missing_glyph(path: str) -> bytes:
    """Return what a font draws for characters that it lacks."""
    return bytes(_font(path, 16).getmask("\U0010ffff"))


@lru_cache(maxsize=512)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _first() -> str:
    return _preferred()[0]


def _preferred() -> tuple[str, ...]:
    return _named(os.environ.get(VARIABLE))


@lru_cache(maxsize=8)
def _named(chosen: str | None) -> tuple[str, ...]:
    """Return the user's font and DejaVu Sans. Raises SettingsError if that is not a font."""
    # Found without importing matplotlib, which takes longer than predicting a photo.
    spec = find_spec("matplotlib")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    dejavu = str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    if not chosen:
        return (dejavu,)
    try:
        _font(chosen, 16)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{VARIABLE} is {chosen!r}, which cannot be opened as a font ({error}); "
            "it must be the path of a TTF, OTF or TTC file"
        ) from None
    return (chosen, dejavu)


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """List the system's font files: upright ones of normal weight, Noto first."""
    privacy.redirect_files("matplotlib")
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name.lower()
        return any(word in name for word in _SLANTED_OR_HEAVY), "noto" not in name, path

    return tuple(sorted(findSystemFonts(), key=rank)[:_MOST_FONTS])


@lru_cache(maxsize=64)
def _warn(missing: str) -> None:
    """Warn once about characters that no font has."""
    shown = " ".join(missing[:10]) + (" and more" if len(missing) > 10 else "")
    warnings.warn(
        f"no font on this machine has {shown}: drawn as codes such as U+{ord(missing[0]):04X}; "
        f"install a font that has them (such as Noto), or name its file in {VARIABLE}",
        MissingGlyphs,
        stacklevel=2,
    )
