"""The manifest of a labelling: `path,label,split`, which `train` and `scan` read."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tailorbird.dataset.labels import NONE_OF_THESE
from tailorbird.dataset.samples import printable
from tailorbird.dataset.table import Row, read_header, read_table
from tailorbird.errors import DatasetError
from tailorbird.files import formula_safe, sha256_file
from tailorbird.labelling.answers import Answer
from tailorbird.labelling.gallery import order_key

COLUMNS: Final = ("path", "label", "split")

FEWEST_HELD: Final = 10
"""Blind photos that validation and test must each have, before the manifest names splits."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A photo of the manifest: its name in the folder, its class, and whether it was blind."""

    name: str
    label: str
    blind: bool


def labelled(answers: Mapping[str, Answer], copies: Mapping[str, Sequence[str]]) -> list[Labelled]:
    """Return the photos to train on, sorted by name; copies of a photo take its answer.

    Photos of none of the classes have the label NONE_OF_THESE, which teaches what to refuse.

    copies: names of the other photos that show the same picture, by the name of an answered photo.
    A copy that has an answer of its own keeps it; of two answered photos the last one decides about
    their copies. All copies of a blind photo are blind: they may not train.
    """
    blind = {
        name
        for answered, answer in answers.items()
        if answer.blind
        for name in (answered, *copies.get(answered, ()))
    }
    found: dict[str, Answer] = {}
    for answered, answer in answers.items():
        for name in copies.get(answered, ()):
            if name not in answers and answer.kind != "skip":
                found[name] = answer
    found |= answers
    return [
        Labelled(name, answer.label or NONE_OF_THESE, name in blind)
        for name, answer in sorted(found.items())
        if answer.kind in ("label", "none")
    ]


def split_of(name: str) -> str:
    """Return the held-out split of a blind photo, by its name: half of them go to each."""
    return "test" if order_key("split", name)[0] & 1 else "validation"


def manifest_text(
    photos: Sequence[Labelled], paths: Mapping[str, str], others: Iterable[Row] = ()
) -> bytes:
    """Return the manifest.

    photos: sorted by name. paths: path in the manifest by name. others: rows of photos outside the
        folder, which are kept.

    Splits are named once validation and test have FEWEST_HELD photos each; before that `train`
    makes them.
    """
    others = list(others)
    held = [split_of(photo.name) for photo in photos if photo.blind]
    splits = min(held.count("validation"), held.count("test")) >= FEWEST_HELD
    splits = splits or any(row.split for row in others)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for photo in photos:
        split = ("" if not photo.blind else split_of(photo.name)) or "train"
        cells = (paths[photo.name], photo.label, split if splits else "")
        writer.writerow(map(formula_safe, cells))
    for row in others:
        writer.writerow(map(formula_safe, (row.path, row.label, row.split or "")))
    return out.getvalue().encode("utf-8", "surrogateescape")


def text_hash(text: bytes) -> str:
    """Return the SHA-256 of a manifest's text."""
    return hashlib.sha256(text).hexdigest()


def read_manifest(path: Path) -> tuple[list[Row], str] | None:
    """Return the rows of a manifest and its SHA-256; None without a file.

    Raises:
        DatasetError: it cannot be read, or holds columns that would be lost when it is rewritten.
    """
    if not path.exists():
        return None
    shown = printable(str(path))
    try:
        header = read_header(path)
    except DatasetError as error:
        raise DatasetError(f"{error}; it was not changed; give another name with -o") from None
    if set(header) - set(COLUMNS) or not {"path", "label"} <= set(header):
        raise DatasetError(
            f"{shown} exists and is not a manifest with the columns path,label[,split] alone (its "
            f"first line is {printable(','.join(header))[:80]!r}); it was not changed; give "
            "another name with -o"
        )
    digest = sha256_file(path)
    lines = path.read_bytes().split(b"\n")
    empty = not any(line.strip() for line in lines[1:])  # a labelling without labels yet
    return ([] if empty else read_table(path)), digest
