"""Read and write datasets as CSV: `path,label[,split][,group]`, and a review's `decision,was`."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailorbird.dataset.labels import normal_label
from tailorbird.dataset.samples import SPLITS, Dataset, Sample, printable
from tailorbird.dataset.split_folders import SPLIT_WORDS
from tailorbird.errors import DatasetError
from tailorbird.files import exact_cell, formula_safe, write_bytes
from tailorbird.validation import Problems

if TYPE_CHECKING:
    from _csv import Reader

_SHOWN: Final = 20
_SEPARATORS: Final = (",", ";", "\t")
_COLUMNS: Final = ("path", "label", "split", "group", "decision", "was", "error")
_LONGEST_PATH: Final = 4096
_LONGEST_LABEL: Final = 500
_FIELD_LIMIT = threading.Lock()
"""Held while the csv module's global limit of the field length is raised."""
_ADDRESS: Final = re.compile(r"\s*(https?|ftp|s3|gs|file)://", re.IGNORECASE)
_VALID: Final = "valid is a UTF-8 CSV whose first line is path,label or path,label,split"

DECISIONS: Final = ("keep", "relabel", "exclude")
"""Decisions a person can make about a photo; empty where none was made."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    path: relative to the CSV's folder, or absolute. label: in normal form; written: as the file
    has it. decision: of a review, one of DECISIONS or empty. was: the label before it was
    relabelled, else empty. group: photos of one item, patient or video, which stay on one side of
    every split; else empty.
    """

    path: str
    label: str
    split: str | None
    decision: str = ""
    was: str = ""
    group: str = ""
    written: str = ""

    @property
    def original(self) -> str:
        """The label before any decision."""
        return self.was or self.label

    @property
    def excluded(self) -> bool:
        """Whether a review excluded the photo."""
        return self.decision == "exclude"


def read_table(path: Path) -> list[Row]:
    """Read the rows of a CSV file, those that a review excluded among them.

    Separators are commas, or semicolons or tabs as spreadsheets write them; Excel's first line
    `sep=;` and spaces after the separators are understood. Paths may hold bytes that are not UTF-8
    (they are file names); labels may not. Where some rows name a split and others leave it empty,
    the others are training rows. All columns but path and label may be absent; unknown columns are
    ignored, and so are rows of `predict --csv` about photos that have an `error` and no label.

    Raises:
        DatasetError: lists every bad row with its line number.
    """
    shown = printable(str(path))
    text = _text(path, shown)
    with _FIELD_LIMIT:
        limit = csv.field_size_limit(len(text) + 1)
        try:
            rows = _rows(text, shown)
        finally:
            csv.field_size_limit(limit)
    if not rows:
        raise DatasetError(f"{shown} has a header and no rows; {_VALID}, then one line per photo")
    if any(row.split for row in rows):
        rows = [row if row.split else replace(row, split="train") for row in rows]
    return rows


def _rows(text: str, shown: str) -> list[Row]:
    reader, first = _reader(text)
    rows: list[Row] = []
    problems: list[str] = []
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        columns = _columns(header, shown)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if _failed(cells, columns):
                continue
            row = _row(cells, len(header), columns)
            if isinstance(row, Row):
                rows.append(row)
            else:
                problems.append(f"line {first + reader.line_num}: {row}")
    except csv.Error as error:
        line = first + reader.line_num
        raise DatasetError(f"{shown}, line {line}: not CSV: {error}; {_VALID}") from None
    if problems:
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        lines = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        raise DatasetError(f"{shown} has {len(problems):,} bad rows:{lines}{more}")
    return rows


def _failed(cells: list[str], columns: dict[str, int]) -> bool:
    """Whether a row of `predict --csv` says why a photo has no prediction."""
    at = columns.get("error", len(cells))
    return at < len(cells) and bool(cells[at].strip()) and not cells[columns["label"]].strip()


def _reader(text: str) -> tuple[Reader, int]:
    """Return a CSV reader of the table and how many lines were skipped before its header."""
    told = re.match(r"\s*\"?sep=(.)\"?[ \t]*(?:\r\n|\r|\n)", text, re.IGNORECASE)
    body = text[told.end() :] if told else text
    first, _, rest = body.partition("\n")
    separator = told[1] if told else ","
    if not told and not _known(first, ","):
        separator = next((one for one in _SEPARATORS if _known(first, one)), ",")
    spaces = any(
        re.search(f"{re.escape(separator)} ", line) for line in (first, rest.partition("\n")[0])
    )
    reader = csv.reader(
        io.StringIO(body, newline=""), delimiter=separator, strict=True, skipinitialspace=spaces
    )
    return reader, 1 if told else 0


def _known(line: str, separator: str) -> bool:
    cells = [cell.strip().strip('"').lower() for cell in line.split(separator)]
    return "path" in cells and "label" in cells


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file, lower case; empty for a file that is not CSV.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        reader, _ = _reader(_text(path, str(path)))
        return [cell.strip().lower() for cell in next(reader, [])]
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
    return data.rstrip(b"\x1a").decode("utf-8-sig", "surrogateescape")  # the end mark of DOS


def _columns(header: list[str], shown: str) -> dict[str, int]:
    """Return where each known column is.

    Raises:
        DatasetError: path and label are not there once each.
    """
    columns = {name: header.index(name) for name in _COLUMNS if header.count(name) == 1}
    if {"path", "label"} <= set(columns) and all(header.count(name) < 2 for name in _COLUMNS):
        return columns
    first = printable(",".join(header))[:80]
    raise DatasetError(
        f"{shown} has no header with the columns path and label once each "
        f"(its first line is {first!r}); {_VALID}"
    )


def _row(cells: list[str], width: int, columns: dict[str, int]) -> Row | str:
    """Return one row, or what is wrong with it."""
    if len(cells) != width:
        return (
            f"{len(cells)} columns where the header has {width}; "
            "put quotes around a value that holds a comma"
        )
    cell = {name: exact_cell(cells[columns[name]]) if name in columns else "" for name in _COLUMNS}
    label, was = normal_label(cell["label"]), normal_label(cell["was"])
    split = cell["split"].strip().lower()
    split = SPLIT_WORDS.get(split, split)
    decision = cell["decision"].strip().lower()
    problems = []
    if not cell["path"].strip():
        problems.append("the path is empty")
    elif _ADDRESS.match(cell["path"]):
        problems.append("the path is an address; download the photo and name its file")
    elif len(cell["path"]) > _LONGEST_PATH:
        problems.append(
            f"the path has {len(cell['path']):,} characters; valid: up to {_LONGEST_PATH:,}"
        )
    if not label:
        problems.append("the label is empty")
    elif len(label) > _LONGEST_LABEL:
        problems.append(f"the label has {len(label):,} characters; valid: up to {_LONGEST_LABEL}")
    elif printable(label + was) != label + was:
        problems.append(
            f"the label {printable(label)!r} is not plain UTF-8 text; save the file as CSV UTF-8"
        )
    if split and split not in SPLITS:
        problems.append(
            f"the split is {printable(split)!r}; "
            "it must be train, validation (val, valid, dev), test or empty"
        )
    if decision and decision not in DECISIONS:
        problems.append(
            f"the decision is {printable(decision)!r}; it must be {', '.join(DECISIONS)} or empty"
        )
    group = cell["group"].strip()
    row = Row(cell["path"], label, split or None, decision, was, group, cell["label"])
    return "; ".join(problems) or row


def write_manifest(dataset: Dataset, path: str | Path) -> None:
    """Write `path,label[,split][,group]`, one row per sample; `scan` of it gives the same dataset.

    Paths are relative to the manifest's folder where the system can express that (on Windows not
    across drives); quoting follows RFC 4180. Names that are not UTF-8 are written as their own
    bytes. The file is written whole or not at all.

    Raises:
        SettingsError: it would overwrite a photo or the CSV the samples were read from.
        StorageError: it cannot be written.
    """
    with Problems() as problems:
        problems.overlaps(
            {"manifest": path},
            inputs={"dataset": dataset.table or dataset.root},
            photos=(sample.path for sample in dataset.samples),
        )
    columns = ["path", "label"]
    columns += [
        name for name in ("split", "group") if any(getattr(s, name) for s in dataset.samples)
    ]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for sample, name in zip(dataset.samples, names_from(path, dataset.samples), strict=True):
        cells = [name, *(getattr(sample, column) or "" for column in columns[1:])]
        writer.writerow(map(formula_safe, cells))
    write_bytes(path, out.getvalue().encode("utf-8", "surrogateescape"))


def names_from(table: str | Path, samples: Iterable[Sample]) -> list[str]:
    """Return the samples' paths as a table at `table` names them.

    Relative to the table's folder, `/` between folders; absolute where that is not possible.
    """
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
