"""`tailorbird health`: check whether a service is ready, as an exit code."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption, StrictOption


def health(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="Address of the service; by default this machine, port TAILORBIRD_PORT or 8000.",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for a service that is starting.", min=0, max=3600)
    ] = 0,
    strict: StrictOption = False,
    json: JsonOption = False,
) -> None:
    """Check whether a service is ready.

    Exits 0 if the service is ready, else 1; for health checks and scripts. Warns if the model gives
    other answers on the service's device than where it was made.
    """
    from tailorbird.service.probe import wait_until_ready

    asked = url or f"http://127.0.0.1:{os.environ.get('TAILORBIRD_PORT') or 8000}"
    warning = wait_until_ready(asked, wait=wait, strict=strict)
    if warning is not None:
        output.print_error(f"warning: {warning}")
    if json:
        output.print_json({"ready": True, "url": asked, "warning": warning})
    else:
        output.say(f"{asked} is ready")
