"""The tables of docs/json.md as a schema, and what of a JSON value is not as they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_ROW = re.compile(
    r"^\| (?P<keys>`[^|]+?)(?P<condition> \([^|]*\))? \| (?P<type>[^|]+?) \|", re.MULTILINE
)
_PLAIN = {"int": int, "float": (int, float), "str": str, "bool": bool, "null": type(None)}


@dataclass(frozen=True)
class Key:
    """type: as in the table. optional: absent where its condition does not hold."""

    type: str
    optional: bool


Schema = dict[str, Key]
"""A key's path, such as `findings[].kind`, to what it is; `a.*` takes in the keys of an object
described elsewhere."""


def schemas(text: str) -> dict[str, Schema]:
    """Heading -> its table."""
    found: dict[str, Schema] = {}
    for section in re.split(r"^###? ", text, flags=re.MULTILINE)[1:]:
        rows = {
            name: Key(row["type"], bool(row["condition"]))
            for row in _ROW.finditer(section)
            for name in re.findall(r"`([^`]+)`", row["keys"])
        }
        if rows:
            found[section.partition("\n")[0].strip()] = rows
    return found


def problems(value: Any, schema: Schema, named: dict[str, Schema], path: str = "") -> list[str]:
    """What is missing, not documented, or of another type. `path` is that of `value`, which is
    an object."""
    inside = f"{path}." if path else ""
    expected = {
        key.removeprefix(inside): row
        for key, row in schema.items()
        if key.startswith(inside) and not re.search(r"[.\[]", key.removeprefix(inside))
    }
    elsewhere: Schema = {}
    if "*" in expected:
        star = expected.pop("*")
        elsewhere = named[star.type]
        if star.optional and isinstance(value, dict) and not set(elsewhere) & set(value):
            elsewhere = {}  # none of them, rather than some
        expected |= {key: row for key, row in elsewhere.items() if not re.search(r"[.\[]", key)}
    if not isinstance(value, dict):
        return [f"{path} is {type(value).__name__}; documented is an object"]
    found = [f"{inside}{key} is not documented" for key in value if key not in expected]
    for key, row in expected.items():
        if key not in value:
            found += [] if row.optional else [f"{inside}{key} is missing"]
        elif key in elsewhere and f"{inside}{key}" not in schema:
            found += _check(value[key], row.type, key, elsewhere, named)
        else:
            found += _check(value[key], row.type, f"{inside}{key}", schema, named)
    return found


def _check(value: Any, kind: str, path: str, schema: Schema, named: dict[str, Schema]) -> list[str]:
    """One value against `int`, `[T]`, `{name: T}`, `object`, a name, or alternatives with `or`."""
    choices = kind.split(" or ")
    if len(choices) > 1:
        results = [_check(value, choice, path, schema, named) for choice in choices]
        return [] if [] in results else results[0 if value is not None else -1]
    if kind in _PLAIN:
        fits = isinstance(value, _PLAIN[kind])  # type: ignore[arg-type]
        fits = fits and (kind == "bool" or not isinstance(value, bool))
        return [] if fits else [f"{path} is {type(value).__name__}; documented is {kind}"]
    if kind == "object":
        return problems(value, schema, named, path)
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{path} is {type(value).__name__}; documented is {kind}"]
        return [
            said for one in value for said in _check(one, kind[1:-1], f"{path}[]", schema, named)
        ]
    if kind.startswith("{"):
        if not isinstance(value, dict):
            return [f"{path} is {type(value).__name__}; documented is {kind}"]
        return [
            said for one in value.values() for said in _check(one, kind[7:-1], path, schema, named)
        ]
    return problems(value, named[kind], named)
