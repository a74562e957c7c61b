"""`tailorbird health`: whether a service takes requests, as an exit code."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import output


def health(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Address of the service. By default this machine, port TAILORBIRD_PORT or 8000."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for a service that is starting.", min=0, max=3600)
    ] = 0,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Ask a service whether it takes requests: exit 0 if it does, 1 if not. For health checks and scripts."""
    import os

    from tailorbird.service.probe import wait_until_ready

    asked = url or f"http://127.0.0.1:{os.environ.get('TAILORBIRD_PORT') or 8000}"
    wait_until_ready(asked, wait=wait)
    if json:
        output.print_json({"ready": True, "url": asked})
    else:
        output.say(f"{asked} takes requests")
