"""The CSV form of a dataset: `path,label[,split]`, read and written; and a review's decisions in it, `decision,was`."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tailorbird.dataset.samples import SPLITS, Dataset, Sample, printable
from tailorbird.errors import DatasetError
from tailorbird.files import write_bytes

_ALIASES: Final = {"val": "validation", "valid": "validation"}
_SHOWN: Final = 20
_VALID: Final = "valid is a UTF-8 CSV whose first line is path,label or path,label,split"

DECISIONS: Final = ("keep", "relabel", "exclude")
"""What a person can decide about a photo; empty where nothing was decided."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: path relative to the CSV's folder, or absolute.

    decision: of a review, one of DECISIONS or empty. was: the label before it was relabelled, empty where it was not.
    """

    path: str
    label: str
    split: str | None
    decision: str = ""
    was: str = ""

    @property
    def original(self) -> str:
        """The label before anybody decided anything."""
        return self.was or self.label


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, those that were excluded in a review among them.

    Paths may hold bytes that are not UTF-8 (they are file names); labels may not. Where some rows name a split and others
    leave it empty, the others are training rows. The columns `split`, `decision` and `was` may be absent; columns with other
    names are ignored. Raises DatasetError, which lists every bad row with its line number.
    """
    shown = printable(str(path))
    text = _text(path, shown)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        columns = _columns(header, shown)
        rows: list[Row] = []
        problems: list[str] = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            row = _row(cells, len(header), columns)
            if isinstance(row, Row):
                rows.append(row)
            else:
                problems.append(f"line {reader.line_num}: {row}")
    except csv.Error as error:
        raise DatasetError(f"{shown}, line {reader.line_num}: not CSV: {error}; {_VALID}") from None
    if problems:
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        lines = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        raise DatasetError(f"{shown} has {len(problems):,} bad rows:{lines}{more}")
    if not rows:
        raise DatasetError(f"{shown} has a header and no rows; {_VALID}, then one line per photo")
    if any(row.split for row in rows):
        rows = [row if row.split else replace(row, split="train") for row in rows]
    return rows


def read_header(path: Path) -> list[str]:
    """The names of a CSV file's columns, lower case; empty for what is no CSV file. Raises DatasetError where it cannot be read."""
    try:
        return [
            cell.strip().lower()
            for cell in next(csv.reader(io.StringIO(_text(path, str(path)), newline="")), [])
        ]
    except csv.Error:
        return []


def _text(path: Path, shown: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{shown} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{shown} is UTF-16 text; save it as CSV UTF-8")
    if b"\0" in data:
        raise DatasetError(
            f"{shown} is not a CSV file; {_VALID}, or a folder with one folder of photos per class"
        )
    return data.decode("utf-8-sig", "surrogateescape")


def _columns(header: list[str], shown: str) -> dict[str, int]:
    """Where each known column is. Raises DatasetError unless path and label are there once each."""
    names = ("path", "label", "split", "decision", "was")
    columns = {name: header.index(name) for name in names if header.count(name) == 1}
    if "path" in columns and "label" in columns and all(header.count(name) < 2 for name in names):
        return columns
    first = printable(",".join(header))[:80]
    hint = ""
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if separator in ",".join(header):
            hint = f"; it seems to be separated by {word}: save it with commas"
    raise DatasetError(
        f"{shown} has no header with the columns path and label once each (its first line is {first!r}){hint}; {_VALID}"
    )


def _row(cells: list[str], width: int, columns: dict[str, int]) -> Row | str:
    """One row, or what is wrong with it."""
    if len(cells) != width:
        return f"{len(cells)} columns where the header has {width}; put quotes around a value that holds a comma"
    path, split, decision = (
        cells[columns[name]] if name in columns else "" for name in ("path", "split", "decision")
    )
    label, was = (
        unicodedata.normalize("NFC", cells[columns[name]].strip()) if name in columns else ""
        for name in ("label", "was")
    )
    split = _ALIASES.get(split.strip().lower(), split.strip().lower())
    decision = decision.strip().lower()
    problems = []
    if not path.strip():
        problems.append("the path is empty")
    if not label:
        problems.append("the label is empty")
    elif printable(label + was) != label + was:
        problems.append(
            f"the label {printable(label)!r} is not plain UTF-8 text; save the file as CSV UTF-8"
        )
    if split and split not in SPLITS:
        problems.append(
            f"the split is {printable(split)!r}; it must be train, validation (val, valid), test or empty"
        )
    if decision and decision not in DECISIONS:
        problems.append(
            f"the decision is {printable(decision)!r}; it must be {', '.join(DECISIONS)} or empty"
        )
    return "; ".join(problems) or Row(path, label, split or None, decision, was)


def write_manifest(dataset: Dataset, path: str | Path) -> None:
    """Write `path,label[,split]`, one row per sample, atomically; `scan` of that file gives the same dataset back.

    Paths are relative to the manifest's folder where the system can express that (on Windows not across drives); quoting
    is RFC 4180's. Names that are not UTF-8 are written as their own bytes. Raises StorageError.
    """
    with_split = any(sample.split for sample in dataset.samples)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["path", "label", "split"] if with_split else ["path", "label"])
    for sample, name in zip(dataset.samples, names_from(path, dataset.samples), strict=True):
        writer.writerow([name, sample.label, *([sample.split or ""] if with_split else [])])
    write_bytes(path, out.getvalue().encode("utf-8", "surrogateescape"))


def names_from(table: str | Path, samples: Iterable[Sample]) -> list[str]:
    """The samples' paths as a table at `table` names them: relative to its folder, `/` between folders, absolute where that
    cannot be said."""
    folder = Path(table).parent.resolve()
    resolved: dict[Path, Path] = {}
    names = []
    for sample in samples:
        parent = sample.path.parent
        if parent not in resolved:
            resolved[parent] = parent.resolve()
        absolute = resolved[parent] / sample.path.name
        try:
            names.append(os.path.relpath(absolute, folder).replace(os.sep, "/"))
        except ValueError:
            names.append(str(absolute))
    return names
