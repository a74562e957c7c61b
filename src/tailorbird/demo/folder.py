"""A folder of drawings: one folder for each class, and a README.txt that says what they are and may be replaced."""

from __future__ import annotations

import io
import re
from pathlib import Path

from tailorbird.demo.picture import CLASSES, draw
from tailorbird.errors import InputError, SettingsError, StorageError
from tailorbird.progress import NoProgress, Progress

MARKER = "README.txt"
_FIRST_LINE = "A sample wardrobe, drawn by `tailorbird demo`."
_STRIDE = 1_000_000  # seeds of one wardrobe; the next wardrobe's begin after them


def write(
    folder: Path,
    *,
    per_class: int = 60,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Draw folder/CLASS/CLASS-0001.jpg and so on, `per_class` pictures of each of CLASSES; the same bytes for a seed.

    `progress` receives the stage `draw` and its pictures. A folder that holds a former wardrobe is drawn over: its own
    drawings are replaced, whatever else lies there stays. Any other folder must be empty or absent (InputError).
    """
    if not 1 <= per_class < _STRIDE or seed < 0:
        raise SettingsError(
            f"per_class is {per_class} and seed {seed}; per_class must be 1 to {_STRIDE - 1}, seed 0 or more"
        )
    before = _former(folder)
    total, done = per_class * len(CLASSES), 0
    progress = progress or NoProgress()
    progress.stage("draw", total)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for label in CLASSES:
            for number in range(per_class + 1, before + 1):
                _path(folder, label, number).unlink(missing_ok=True)
        _replace(folder / MARKER, _readme(per_class, seed).encode())
        for label in CLASSES:
            (folder / label).mkdir(exist_ok=True)
            for number in range(1, per_class + 1):
                buffer = io.BytesIO()
                draw(label, seed * _STRIDE + number).image.save(buffer, "JPEG", quality=88)
                _replace(_path(folder, label, number), buffer.getvalue())
                done += 1
                progress.advance(done, total)
    except OSError as error:
        raise StorageError(
            f"could not write the wardrobe to {folder}: {error}; is there room, and may you write there?"
        ) from error


def _former(folder: Path) -> int:
    """Pictures of each class in the wardrobe that `folder` holds, 0 where it is empty or absent; else InputError."""
    advice = "choose an empty or new folder, or one that holds a former sample wardrobe"
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return 0
        text = (
            (folder / MARKER).read_text(encoding="utf-8", errors="replace")
            if (folder / MARKER).is_file()
            else ""
        )
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}; {advice}") from error
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder; {advice}")
    count = re.search(r"^(\d{1,6}) pictures of each class", text, re.MULTILINE)
    if not text.startswith(_FIRST_LINE) or not count:
        raise InputError(
            f"{folder} holds other files, and drawing a sample wardrobe there could overwrite them; {advice}"
        )
    return int(count[1])


def _path(folder: Path, label: str, number: int) -> Path:
    return folder / label / f"{label}-{number:04d}.jpg"


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename: no reader ever sees half a file."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _readme(per_class: int, seed: int) -> str:
    return f"""{_FIRST_LINE}

{per_class} pictures of each class, seed {seed}. Drawn by a program: nobody's photographs, free for any use.
Drawing a wardrobe here again replaces the numbered pictures and leaves every other file alone.
"""
