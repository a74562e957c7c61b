"""Write a dataset of drawings: a folder per class, and a README.txt that identifies it."""

from __future__ import annotations

from pathlib import Path

from tailorbird.demo.picture import CLASSES, draw
from tailorbird.errors import InputError, StorageError
from tailorbird.files import atomic
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import Problems

_FIRST_LINE = "A sample wardrobe, drawn by `tailorbird demo`."
_README = """{first}

{per_class} pictures of each class, seed {seed}. Drawn by a program: nobody's photographs, free for
any use. Drawing here again replaces the numbered pictures and leaves every other file alone.
"""
_STRIDE = 1_000_000  # seeds of one wardrobe; those of the next seed begin after them


def write(
    folder: Path, *, per_class: int = 60, seed: int = 0, progress: Progress | None = None
) -> None:
    """Draw folder/CLASS/CLASS-0001.jpg and so on; the same seed gives the same bytes.

    Args:
        folder: An empty or new folder, or one that holds an earlier sample wardrobe. Its drawings
            are replaced, other files stay.
        per_class: Pictures of each of CLASSES.
        seed: Seed of all the drawings.
        progress: Receives the stage `draw`.

    Raises:
        SettingsError: A number is out of range.
        InputError: The folder holds something else.
        StorageError: The pictures cannot be written.
    """
    with Problems() as problems:
        problems.whole("per_class", per_class, 1, _STRIDE - 1)
        problems.seed(seed)
    _check_replaceable(folder)
    progress = progress or NoProgress()
    progress.stage("draw", per_class * len(CLASSES))
    part = folder / ".part"  # no reader sees half a picture
    try:
        readme = _README.format(first=_FIRST_LINE, per_class=per_class, seed=seed)
        atomic.write_text(folder / "README.txt", readme)
        for n, label in enumerate(CLASSES):
            (folder / label).mkdir(exist_ok=True)
            for old in (folder / label).glob(f"{label}-[0-9][0-9][0-9][0-9]*.jpg"):
                old.unlink()
            for number in range(1, per_class + 1):
                draw(label, seed * _STRIDE + number).image.save(part, "JPEG", quality=88)
                part.replace(folder / label / f"{label}-{number:04d}.jpg")
                progress.advance(n * per_class + number, per_class * len(CLASSES))
    except OSError as error:
        raise StorageError(f"the pictures cannot be written to {folder}: {error}") from error


def _check_replaceable(folder: Path) -> None:
    """Raise InputError unless the folder is absent, empty, or holds an earlier wardrobe."""
    advice = "choose an empty or new folder, or one that holds an earlier sample wardrobe"
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        if not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder; {advice}")
        with (folder / "README.txt").open("rb") as file:
            ours = file.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()
    except FileNotFoundError:
        ours = False
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}; {advice}") from error
    if not ours:
        raise InputError(f"{folder} holds other files, which drawing could overwrite; {advice}")
