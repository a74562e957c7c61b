"""Export corrections as a CSV file that `train` reads, or as JSON.

In the CSV, a cell that a spreadsheet would evaluate as a formula gets a leading apostrophe, which
`train` removes again. JSON holds every value exactly.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailorbird.corrections.labelling import Labelled, labelled
from tailorbird.corrections.photos import kept_photos
from tailorbird.corrections.statistics import NONE_OF_THESE
from tailorbird.corrections.store import Corrections, Row
from tailorbird.dataset import NONE_OF_THESE as OF_NO_CLASS
from tailorbird.errors import SettingsError
from tailorbird.files import atomic_path, formula_safe
from tailorbird.validation import Problems

COLUMNS: Final = (
    "path",
    "label",
    "predicted",
    "probability",
    "right",
    "created",
    "model",
    "model_sha256",
    "sha256",
    "receipt",
    "newest",
    "id",
    "none_of_these",
)
"""The CSV's columns; `train` reads the first two. Where `none_of_these`, `label` is that of photos
of no class, and empty in a log of all answers."""


@dataclass(frozen=True)
class Export:
    """Result of an export: `written` rows in the file `path`.

    missing: names of kept photos whose file no longer exists.
    conflicts: photos with different answers, of which the newest counts.
    without_photo: different photos that people answered about but that were not kept.
    none_of_these: kept photos that people say show none of the classes.
    """

    path: Path
    written: int
    missing: tuple[str, ...]
    conflicts: int
    without_photo: int
    none_of_these: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `corrections export --json`."""
        return {
            "path": str(self.path),
            "written": self.written,
            "missing": list(self.missing),
            "conflicts": self.conflicts,
            "without_photo": self.without_photo,
            "none_of_these": self.none_of_these,
        }


def export(store: Corrections, output: str | Path, *, everything: bool = False) -> Export:
    """Write corrections to a .csv or .json file, atomically.

    By default there is one row per kept photo with the newest answer about it; `train` reads such
    a CSV, and photos of none of the classes have the label of photos of no class. Paths are
    relative to the file's folder.

    everything: one row per answer ever given, in order; the path is empty where no photo was kept.

    Raises SettingsError for another kind of file, StorageError.
    """
    output = Path(output)
    kind = output.suffix.lower()
    if kind not in (".csv", ".json"):
        raise SettingsError(f"the output is {output.name!r}; its name must end in .csv or .json")
    with Problems() as problems:
        read = {"database": store.path, "folder of kept photos": store.photos}
        problems.outputs({"output": output}, inputs=read, make_folders=True)
    # A log of answers can be written without the folder of photos, a training set cannot.
    found = Labelled((), (), 0, 0) if everything and store.photos is None else labelled(store)
    folder = output.parent.resolve()
    rows: Iterator[tuple[Path | None, Row]]
    if everything:
        files = kept_photos(store.photos) if store.photos is not None else {}
        rows = ((files.get(row.sha256), row) for row in store.rows())
    else:
        rows = ((photo.path, photo.row) for photo in (*found.photos, *found.none))
    written = 0
    with (
        atomic_path(output) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        file.write(_line(COLUMNS) if kind == ".csv" else '{"corrections": [')
        for path, row in rows:
            values = _values(_relative(path, folder), row, everything)
            if kind == ".csv":
                file.write(_line([values[name] for name in COLUMNS]))
            else:
                separator = ",\n" if written else "\n"
                file.write(separator + json.dumps({**values, "top": row.as_dict()["top"]}))
            written += 1
        if kind == ".json":
            file.write("\n]}\n")
    return Export(
        output, written, found.missing, found.conflicts, found.without_photo, len(found.none)
    )


def _values(path: str, row: Row, everything: bool) -> dict[str, Any]:
    found = row.as_dict()
    none = row.answer == NONE_OF_THESE
    label = row.answer if not none else "" if everything else OF_NO_CLASS
    return {name: found.get(name) for name in COLUMNS} | {
        "path": path,
        "label": label,
        "none_of_these": none,
    }


def _relative(path: Path | None, folder: Path) -> str:
    if path is None:
        return ""
    absolute = path.parent.resolve() / path.name
    try:
        return os.path.relpath(absolute, folder).replace(os.sep, "/")
    except ValueError:
        return str(absolute)  # on another drive


def _line(values: Any) -> str:
    out = io.StringIO(newline="")
    cells = [formula_safe(value) if isinstance(value, str) else value for value in values]
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()
