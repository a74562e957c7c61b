"""The report as one self-contained HTML page: no network, no script, no other file."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailorbird.dataset import printable
from tailorbird.metrics.scores import MEASURES
from tailorbird.report.charts import charts, settings_in_short
from tailorbird.report.content import Content
from tailorbird.report.photos import Shown, answered, contact_sheet, refused, suspects, unlike

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_CLASSES: Final = 100
"""Maximum number of classes in the confusion matrix; of more, those with the most mistakes."""

CUT: Final = 34
"""Characters of a name that are shown; the whole name is in its title attribute."""


def page(content: Content, numbers: dict[str, Any]) -> str:
    """Return the page. Photos and heat maps are computed while charts and template are prepared."""
    with ThreadPoolExecutor(1, thread_name_prefix="tailorbird-report") as pool:
        pictures = pool.submit(_pictures, content, numbers)
        drawn = charts(numbers)
        template = _environment().get_template("report.html")
        shown = pictures.result()
    main = numbers["scores"].get(numbers["headline"])
    scored = content.scores.get(content.headline)
    text: str = template.render(
        n=numbers,
        main=main,
        measures=MEASURES,
        threshold=content.threshold.sentence() if content.threshold else "",
        answered=scored.answered() if scored else None,
        headline=numbers["headline"],
        info=numbers["info"],
        charts=drawn,
        mistakes=list(zip(numbers["mistakes"], shown.mistakes, strict=True)),
        hits=list(zip(numbers["hits"], shown.hits, strict=True)),
        sheet=shown.sheet,
        suspects=list(zip(numbers["suspects"]["shown"], shown.suspects, strict=True))
        if numbers["suspects"]
        else None,
        unlike=list(zip(numbers["suspects"]["unfamiliar"], shown.unlike, strict=True))
        if numbers["suspects"]
        else [],
        refused=list(zip(_refused(numbers), shown.refused, strict=True)),
        strangers=content.strangers.sentence() if content.strangers else "",
        matrix=confusion(main) if main and main["confusion"] else None,
        style=(files(__package__) / "report.css").read_text(encoding="utf-8"),
    )
    return text


class _Pictures(NamedTuple):
    """The photos of a page, beside the entries of `numbers`; None for one that cannot be read."""

    mistakes: list[Shown | None]
    hits: list[Shown | None]
    sheet: dict[str, list[tuple[str, str]]]
    suspects: list[str | None]
    unlike: list[str | None]
    refused: list[str | None]


def _pictures(content: Content, numbers: dict[str, Any]) -> _Pictures:
    shown = answered(content, [*numbers["mistakes"], *numbers["hits"]])
    first, judged = len(numbers["mistakes"]), numbers["suspects"]
    return _Pictures(
        shown[:first],
        shown[first:],
        contact_sheet(content),
        suspects(content, len(judged["shown"])) if judged else [],
        unlike(content, len(judged["unfamiliar"])) if judged else [],
        refused(content, _refused(numbers)),
    )


def _refused(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the refused photos to show."""
    found = numbers["unfamiliar"]
    return found["cost"]["shown"] if found and found["cost"] else []


def confusion(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the confusion matrix for the page, with its size: roomy, tight or dense.

    Rows hold cells {count, share of the row, colour step 0 to 10, right}.
    """
    matrix, classes = scores["confusion"], scores["classes"]
    kept = list(range(len(classes)))
    if len(kept) > MOST_CLASSES:
        wrong = [
            sum(row) - row[i] + sum(other[i] for other in matrix) - row[i]
            for i, row in enumerate(matrix)
        ]
        kept = sorted(sorted(kept, key=lambda i: -wrong[i])[:MOST_CLASSES])
    rows = []
    for i in kept:
        total = sum(matrix[i])
        cells = []
        for j in kept:
            count = matrix[i][j]
            share = count / total if total else 0.0
            # The square root keeps one confusion among fifty photos visible.
            cells.append(
                {
                    "count": count,
                    "share": share,
                    "step": math.ceil(10 * math.sqrt(share)),
                    "right": i == j,
                }
            )
        rows.append({"label": classes[i], "total": total, "cells": cells})
    size = "roomy" if len(kept) <= 12 else "tight" if len(kept) <= 30 else "dense"
    return {"labels": [classes[i] for i in kept], "rows": rows, "size": size, "all": len(classes)}


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("tailorbird.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": _percent,
        "name": _name,
        "short": settings_in_short,
        "printable": _printable,
    }
    made.globals |= {"value": _value, "safe_svg": Markup}
    return made


def _printable(value: object) -> str:
    return printable(str(value))


def _percent(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    least = 10**-digits / 2
    if 0 < 100 * value < least:
        return f"<{10**-digits:g}%"  # not 0%: the class is not ruled out
    return f"{100 * value:.{digits}f}%"


def _name(text: object, most: int = CUT) -> Markup:
    """Return an untrusted name, escaped, shortened, and isolated from the text's direction."""
    from markupsafe import Markup

    whole = printable(str(text))
    if len(whole) <= most:
        return Markup("<bdi>{}</bdi>").format(whole)
    # Keep both ends: the folders and the photo's number.
    behind = most * 2 // 3
    return Markup('<bdi title="{}">{}…{}</bdi>').format(
        whole, whole[: most - 1 - behind], whole[-behind:]
    )


def _value(name: str, value: float | None, form: str = "percent", digits: int = 1) -> Markup:
    """Return a number for people with its exact value for programs.

    For example <data data-name="scores.test.accuracy" value="0.876...">87.6%</data>.
    """
    from markupsafe import Markup

    if value is None:
        return Markup("–")
    shown = (
        _percent(value, digits)
        if form == "percent"
        else f"{value:,}"
        if form == "count"
        else f"{value:.{digits}f}"
    )
    return Markup('<data data-name="{}" value="{}">{}</data>').format(name, repr(value), shown)
