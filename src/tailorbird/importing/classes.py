"""Read the classes of a model's outputs from a list, a text file, JSON or a CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tailorbird.errors import SettingsError

MOST_BYTES: Final = 10_000_000
_COLUMNS: Final = ("name", "class", "label", "class_name")
_VALID: Final = (
    "give a file with one class per line, in the order of the outputs, or a list such as "
    "dress,hat,shirt"
)


def read_classes(source: str | Path | Sequence[str], *, unique: bool = False) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the model's outputs.

    Args:
        source: a sequence of names; a comma-separated list; or a file: one name per line, perhaps
            behind its number from 0 (`0 cardboard`, as Teachable Machine writes), JSON (a list, or
            `class_indices` of a Keras generator: name to number, or number to name), or a CSV with
            a column name, class or label.
        unique: add a number to equal names (`crane` and `crane (2)`, as ImageNet needs) instead of
            refusing them.

    Raises SettingsError: a file that cannot be read, fewer than two names, equal names.
    """
    if isinstance(source, str | Path):
        names, what = _from_text(source)
    else:
        names, what = list(source), "the list of classes"
    names = [name.strip() for name in names]
    if len(names) < 2 or not all(names):
        raise SettingsError(
            f"{what} names {len([name for name in names if name])} classes; at least two are "
            f"needed: {_VALID}"
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated and not unique:
        raise SettingsError(
            f"{what} names {', '.join(map(repr, repeated[:5]))} more than once; each class needs "
            "its own name"
        )
    return _unique(names)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, with a number after those that are equal to an earlier one."""
    taken: set[str] = set()
    result = []
    for name in names:
        number, shown = 1, name
        while shown in taken or (number > 1 and shown in names):
            number += 1
            shown = f"{name} ({number})"
        taken.add(shown)
        result.append(shown)
    return tuple(result)


def _from_text(source: str | Path) -> tuple[list[str], str]:
    """Return the names, and what they came from, in words."""
    path = Path(source)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a list too long for a file's name
        is_file = False
    if not is_file:
        if isinstance(source, str) and "," in source and not path.exists():
            return source.split(","), f"the list {source[:60]!r}"
        raise SettingsError(f"the file of classes {source} does not exist; {_VALID}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(
                f"{path} is {path.stat().st_size:,} bytes; the maximum for a list of classes is "
                f"{MOST_BYTES:,}"
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); {_VALID}"
        ) from None
    if path.suffix.lower() == ".json":
        return _from_json(text, path), str(path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    column = next((header.index(name) for name in _COLUMNS if name in header), None)
    if column is not None and (len(header) > 1 or path.suffix.lower() == ".csv"):
        rows = list(csv.reader(io.StringIO(text)))[1:]
        return [row[column] if len(row) > column else "" for row in rows if row], str(path)
    return _without_numbers(lines), str(path)


def _without_numbers(lines: list[str]) -> list[str]:
    """Return names in the order of the numbers before them, if each line has one, from 0 on."""
    found = [re.fullmatch(r"(\d+)[\s:,;]+(.+)", line) for line in lines]
    names = {int(match[1]): match[2] for match in found if match is not None}
    if len(lines) < 2 or sorted(names) != list(range(len(lines))):
        return lines
    return [names[number] for number in range(len(lines))]


def _from_json(text: str, path: Path) -> list[str]:
    """Read a list of names, {name: number}, {number: name}, or {number: [identifier, name]}.

    The last is the form of Keras' file of the ImageNet classes.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON ({str(error)[:100]}); {_VALID}") from None
    wrong = SettingsError(
        f"{path} is JSON, but no list of names, nor {{name: number}} with the numbers 0 to one "
        "less than their count"
    )
    if isinstance(content, list):
        pairs: list[tuple[Any, Any]] = list(enumerate(content))
    elif isinstance(content, dict):
        pairs = [
            (value, key) if isinstance(value, int) else (key, value)
            for key, value in content.items()
        ]
    else:
        raise wrong
    names: dict[int, str] = {}
    for number, name in pairs:
        label = name[-1] if isinstance(name, list) and name else name
        if not isinstance(label, str) or not str(number).isdecimal():
            raise wrong
        names[int(number)] = label
    if sorted(names) != list(range(len(pairs))):
        raise wrong
    return [names[number] for number in range(len(names))]
