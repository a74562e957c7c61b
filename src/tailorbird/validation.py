"""Checks shared by every entry point; all problems found together end in one SettingsError.

    with Problems() as problems:
        problems.seed(seed)
        problems.number("precision", precision, 0.5, 1)
        problems.outputs({"model": model, "report": report}, inputs={"photos": photos})

The command line has no further rules: the library refuses the same values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from itertools import combinations
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tailorbird.errors import SettingsError

MOST_SEED = 2**32 - 1
"""NumPy's legacy generators and the frameworks accept seeds of 32 bits."""

DOCUMENTS = frozenset({".csv", ".db", ".htm", ".html", ".json", ".keras", ".md", ".onnx"})
"""Endings of files that the scan of a dataset's folder does not open as photos."""

_PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
"""First bytes of JPEG, PNG, GIF, BMP and WebP files; AVIF and HEIC files have `ftyp` at byte 4."""

PathLike = str | Path
T = TypeVar("T")


class Problems:
    """Collect problems; leaving the `with` block raises one SettingsError that names them all."""

    def __init__(self, lead: str = "") -> None:
        """Start with no problems. lead: what the error's message begins with."""
        self._lead = lead
        self._found: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise SettingsError if there are problems."""
        if self._found:
            raise SettingsError(self._lead + "; ".join(self._found))

    def add(self, problem: str) -> None:
        """Add a problem; one that is already there is not repeated."""
        if problem not in self._found:
            self._found.append(problem)

    def need(self, valid: bool, problem: str) -> None:
        """Add `problem` unless `valid`."""
        if not valid:
            self.add(problem)

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Return what `make` returns; add the problems of a SettingsError that it raises."""
        try:
            return make()
        except SettingsError as error:
            self.add(str(error))
            return None

    def whole(self, name: str, value: object, low: int, high: float = math.inf) -> None:
        """Require a whole number from `low` to `high`, both included."""
        fits = isinstance(value, Integral) and not isinstance(value, bool)
        limits = f"of at least {low}" if high == math.inf else f"between {low} and {high:.0f}"
        self.need(
            fits and low <= value <= high,  # type: ignore[operator]  # an Integral by now
            f"{name} is {value!r}; it must be a whole number {limits}",
        )

    def number(
        self,
        name: str,
        value: object,
        low: float,
        high: float = math.inf,
        *,
        above: bool = False,
        below: bool = False,
    ) -> None:
        """Require a finite number from `low` to `high`; above, below: exclude that limit."""
        fits = isinstance(value, Real) and not isinstance(value, bool)
        if fits:
            number = float(value)  # type: ignore[arg-type]  # a Real by now
            fits = math.isfinite(number) and low <= number <= high
            fits = fits and not (above and number == low) and not (below and number == high)
        if high == math.inf:
            limits = f"a finite number {'above' if above else 'of at least'} {low:g}"
        elif above or below:
            least = f"above {low:g}" if above else f"at least {low:g}"
            limits = f"{least} and {f'below {high:g}' if below else f'at most {high:g}'}"
        else:
            limits = f"between {low:g} and {high:g}"
        self.need(fits, f"{name} is {value!r}; it must be {limits}")

    def choice(self, name: str, value: object, valid: Iterable[object]) -> None:
        """Require one of the `valid` values."""
        options = list(valid)
        shown = ", ".join(str(option) for option in options)
        self.need(value in options, f"{name} is {value!r}; it must be one of {shown}")

    def seed(self, value: object) -> None:
        """Require a seed of 0 to 2**32 - 1."""
        self.whole("seed", value, 0, MOST_SEED)

    def ending(self, what: str, path: PathLike | None, *valid: str) -> None:
        """Require that the name of the file `what` ends in one of `valid`, such as `.onnx`."""
        if path is not None and Path(path).suffix.lower() not in valid:
            *most, last = valid
            endings = f"{', '.join(most)} or {last}" if most else last
            self.add(f"the {what} is {Path(path).name!r}; its name must end in {endings}")

    def outputs(
        self,
        files: Mapping[str, PathLike | None],
        *,
        inputs: Mapping[str, PathLike | None] | None = None,
        photos: Iterable[PathLike] = (),
        make_folders: bool = False,
    ) -> None:
        """Require that each output can be written and is not one of the command's inputs.

        A file that exists and is no input is replaced, so it is not a problem.

        Args:
            files: the outputs by what they are, such as {"model": path}; None: not written.
            inputs, photos: see `overlaps`.
            make_folders: the writer creates missing folders, so that an existing one above will do.
        """
        for what, path in _given(files).items():
            if problem := _unwritable(path, make_folders):
                self.add(f"the {what} {_shown(path)} {problem}")
        self.overlaps(files, inputs=inputs, photos=photos)

    def overlaps(
        self,
        files: Mapping[str, PathLike | None],
        *,
        inputs: Mapping[str, PathLike | None] | None = None,
        photos: Iterable[PathLike] = (),
    ) -> None:
        """Require that no output is one of the inputs, a photo among them, or another output.

        Args:
            files: the outputs by what they are; None: not written.
            inputs: files and folders that are read, by what they are; None: not read. An output in
                a folder of photos must not replace a photo, or be scanned as one later. Names that
                are no existing file or folder (of a backbone, of a server's database) are ignored.
            photos: further files that are read, such as those a CSV lists. It is iterated only
                if an output exists already.
        """
        given, read = _given(files), _given(inputs or {})
        for what, path in given.items():
            if problem := _overwrites(path, read):
                self.add(f"the {what} {_shown(path)} {problem}")
        for (one, path), (other, second) in combinations(given.items(), 2):
            if same_file(path, second):
                self.add(
                    f"the {one} and the {other} are both {_shown(path)}; give each its own name"
                )
        self._photos(given, photos)

    def _photos(self, outputs: Mapping[str, Path], photos: Iterable[PathLike]) -> None:
        """Add a problem for each existing output that is one of the photos."""
        identities = {
            identity: what
            for what, path in outputs.items()
            if (identity := _identity(path)) is not None
        }
        if not identities:
            return
        for photo in photos:
            what = identities.pop(_identity(photo) or (-1, -1), None)
            if what is not None:
                self.add(
                    f"the {what} {_shown(outputs[what])} would overwrite a photo that is read; "
                    "give another name"
                )


def _given(files: Mapping[str, PathLike | None]) -> dict[str, Path]:
    return {what: Path(path) for what, path in files.items() if path is not None}


def build(kind: Callable[..., T], values: Mapping[str, Any], what: str) -> T:
    """Return an object of a settings dataclass made of `values`.

    Raises SettingsError for names that are no fields of it, with the valid ones, and what the
    dataclass itself refuses. what: name of the values in messages.
    """
    valid = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise SettingsError(
            f"{what} is {values!r}; give settings by name, such as {{{valid[0]!r}: ...}}"
        )
    unknown = [name for name in values if name not in valid]
    if unknown:
        raise SettingsError(
            f"{what} has no setting {', '.join(map(repr, unknown))}; valid settings: "
            f"{', '.join(valid)}"
        )
    return kind(**values)


def merge(kind: type[T], settings: T | None, options: Mapping[str, Any], what: str) -> T:
    """Return `settings` (None: the defaults) of a settings dataclass, changed by `options`.

    Raises SettingsError as `build` does.
    """
    base = settings if settings is not None else kind()
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values = {name: getattr(base, name) for name in names}
    return build(kind, {**values, **options}, what)


def same_file(one: PathLike, other: PathLike) -> bool:
    """Return whether two paths lead to one file: links and the file system's case rules counted.

    Files that do not exist yet are compared by the folders they would lie in and their names.
    """
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)


def _identity(path: PathLike) -> tuple[int, int] | None:
    """Return device and inode of the file a path leads to, or None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # called for every photo of a dataset
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _unwritable(path: Path, make_folders: bool) -> str | None:
    """Return why no file can be written at `path`, or None."""
    if path.is_dir():
        return "is a folder; give the name of a file"
    parents = path.absolute().parents
    folder = next(p for p in parents if p.exists()) if make_folders else parents[0]
    if not folder.is_dir():
        return f"cannot be written: {_shown(folder)} is not a folder that exists"
    if not os.access(folder, os.W_OK):
        return f"cannot be written: {_shown(folder)} is not a folder this user may write to"
    return None


def _overwrites(path: Path, inputs: Mapping[str, Path]) -> str | None:
    """Return what is wrong with writing `path` while `inputs` are read, or None."""
    for what, read in inputs.items():
        if same_file(path, read):
            return f"would overwrite the {what}, which this command reads; give another name"
        # Documents are ignored beside the class folders, and findings inside them.
        ignored = _suffix(path) in DOCUMENTS and same_file(_real(path).parent, read)
        if _inside(path, read) and (not ignored or _starts_like_a_photo(path)):
            return (
                f"lies in the folder of photos {_shown(read)}, where it would replace a photo or "
                "be taken for one later; write it to another folder"
            )
    return None


def _inside(path: Path, folder: Path) -> bool:
    """Return whether `path` lies below `folder`, links resolved; False if that is not a folder."""
    if not os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises for a name that is too long
        return False
    return any(same_file(parent, folder) for parent in _real(path).parents if parent.exists())


def _suffix(path: Path) -> str:
    """Return the ending of the name after links are resolved, in lower case."""
    return _real(path).suffix.lower()


def _real(path: Path) -> Path:
    """Return a path with its links resolved, as far as it exists."""
    return Path(os.path.realpath(path))


def _starts_like_a_photo(path: Path) -> bool:
    """Return whether a file exists at `path` and its first bytes are those of a photo."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_PHOTO_STARTS) or start[4:8] == b"ftyp"


def _shown(path: Path) -> str:
    """Return a path as text that can be printed, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
