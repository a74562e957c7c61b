"""`tailorbird report`: what a model file says of itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output


def report(
    model: Annotated[Path, typer.Argument(help="A model file made by `tailorbird train`.")],
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; by default standard output."),
    ] = None,
    report_format: output.ReportFormat = "markdown",
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Write a model's card from its file alone: scores, limits, data, settings, licence. It contains no photos."""
    from tailorbird import report as library
    from tailorbird.errors import SettingsError

    if report_format not in library.FORMATS:
        raise SettingsError(
            f"--format is {report_format!r}; it must be one of {', '.join(library.FORMATS)}"
        )
    content = library.describe(model)
    if target is None:
        sys.stdout.buffer.write(
            library.render(content, report_format).encode("utf-8", "backslashreplace")
        )
        sys.stdout.flush()
    else:
        library.write(content, target, report_format)
        output.say(f"Report: {output.printable(str(target))}")
