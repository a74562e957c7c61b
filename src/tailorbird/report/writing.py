"""Render and write a report; a failed report does not fail the training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from tailorbird import onnx_files
from tailorbird.errors import ModelFileError, TailorbirdError
from tailorbird.files import write_bytes
from tailorbird.metrics.scores import Scores
from tailorbird.model.metadata import info_from
from tailorbird.report.content import Content
from tailorbird.report.numbers import numbers
from tailorbird.validation import Problems

Format: TypeAlias = Literal["html", "markdown", "json"]
"""A page with pictures, a model card, or the numbers."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_SUFFIXES: Final = {"html": ".html", "markdown": ".md", "json": ".json"}

log = logging.getLogger(__name__)


def report_path(
    model: Path, wanted: str | Path | bool, format: Format, kind: str = "report"
) -> Path | None:
    """Return the report's path: `wanted`, or beside the model for True, or None for False.

    Beside shop.onnx it is shop.report.html.

    Raises:
        SettingsError: the format is unknown.
    """
    _check(format)
    if isinstance(wanted, bool):
        return model.with_name(f"{model.stem}.{kind}{_SUFFIXES[format]}") if wanted else None
    return Path(wanted)


def _check(format: Format) -> None:
    with Problems() as problems:
        problems.choice("the report's format", format, FORMATS)


def describe(model: str | Path) -> Content:
    """Return the content of a report from a model file alone: no photos, curves or trials.

    Raises:
        ModelFileError: the file is not a valid model.
    """
    proto = onnx_files.read_audited(Path(model), ModelFileError)
    info = info_from(proto, str(model))
    scores: dict[str, Scores] = {}
    for name in ("test", "validation"):
        if name in info.scores:
            scores[name] = Scores.from_dict(info.scores[name])
    return Content(kind="model", model=Path(model), info=info, headline="test", scores=scores)


def render(content: Content, format: Format) -> str:
    """Return a report as text; `html` opens the model file and reads the photos it shows."""
    _check(format)
    values = numbers(content)
    if format == "json":
        return json.dumps(values, indent=1, allow_nan=False) + "\n"
    if format == "markdown":
        from tailorbird.report.card import card

        return card(values)
    from tailorbird.report.page import page

    return page(content, values)


def write(content: Content, path: str | Path, format: Format) -> None:
    """Write a report as UTF-8, whole or not at all.

    Raises:
        SettingsError: the path would overwrite the model or a photo.
        StorageError: it cannot be written.
    """
    with Problems() as problems:
        photos = content.answers.paths if content.answers is not None else ()
        problems.overlaps({"report": path}, inputs={"model": content.model}, photos=photos)
    write_bytes(path, render(content, format).encode("utf-8", "backslashreplace"))


def attempt(content: Content, path: Path, format: Format) -> tuple[Path | None, str | None]:
    """Write a report after the work is done; return (path, None), or (None, reason it failed).

    Raises nothing but KeyboardInterrupt.
    """
    try:
        write(content, path, format)
    except TailorbirdError as error:
        return None, str(error)
    except Exception as error:  # the trained model is kept whatever fails here
        log.debug("the report failed", exc_info=True)
        return None, f"unexpected {type(error).__name__}: {error}"
    return path, None
