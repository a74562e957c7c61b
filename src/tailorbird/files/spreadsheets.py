"""CSV text for people, who may open it in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def formula_safe(cell: str) -> str:
    """Return a cell with a leading apostrophe if a spreadsheet would evaluate it as a formula.

    The characters that start a formula are listed on OWASP's page on CSV injection; a single `-`
    is not a formula. A cell that already looks like a result gets an apostrophe too, so that
    `exact_cell` restores every cell.
    """
    return f"'{cell}" if _needs_guard(cell) else cell


def exact_cell(cell: str) -> str:
    """Return the cell that `formula_safe` was given."""
    return cell[1:] if cell.startswith("'") and _needs_guard(cell[1:]) else cell


def _needs_guard(cell: str) -> bool:
    bare = cell.lstrip("'")
    return bare.startswith(_FORMULA_STARTS) and cell != "-"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV with `formula_safe` cells and lines that end in a line feed."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([formula_safe(str(cell)) for cell in row] for row in rows)
    return text.getvalue()
