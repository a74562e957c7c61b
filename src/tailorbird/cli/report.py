"""`tailorbird report`: describe a model from its file alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from tailorbird.cli import output
from tailorbird.cli.options import FormatOption, ModelArgument


def report(
    model: ModelArgument,
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; by default standard output."),
    ] = None,
    report_format: FormatOption = "markdown",
) -> None:
    """Write a model card from a model file.

    The card states the scores, limits, data, settings and licences, and contains no photos. A
    terminal shows it formatted; a file or a pipe gets Markdown.
    """
    from tailorbird import report as library

    content = library.describe(model)
    form = cast("library.Format", report_format)
    if target is None:
        text = library.render(content, form)
        if form == "markdown" and sys.stdout.isatty():
            output.print_card(text)
            return
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    else:
        library.write(content, target, form)
        output.say(f"Report: {target}")
