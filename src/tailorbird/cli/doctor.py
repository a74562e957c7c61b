"""`tailorbird doctor`: what is installed here, how fast each device is, and what to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption

if TYPE_CHECKING:
    from tailorbird.doctor import Diagnosis


def doctor(json: JsonOption = False) -> None:
    """Examine this installation: versions, devices and their speed, extras, what to install.

    It measures every device, and says what to do where something is wrong. Send its output along
    with a bug report.
    """
    from tailorbird.doctor import examine

    with output.ProgressBar() as progress:
        found = examine(progress=progress)
    output.print_json_or_text(found, _print, json=json)


def _print(found: Diagnosis) -> None:
    output.line(f"tailorbird {found.tailorbird}, Python {found.python}, {found.cores} cores")
    output.line(found.platform)
    packages = (*found.runtimes, *found.libraries)
    output.line(", ".join(f"{one.name} {one.version}" for one in packages))
    output.line("")
    columns = {"device": False, "images/s": True, "hardware": False, "provided by": False}
    rows = [
        (
            one.name,
            "-" if one.images_per_second is None else f"{one.images_per_second:,.0f}",
            one.hardware,
            one.source,
        )
        for one in found.devices
    ]
    output.print_table(columns, rows, gap=3, fold=True)
    output.line(f"(images per second of the backbone {found.backbone})")
    output.line("")
    extras = [
        (one.name, "missing" if one.missing else "installed", ", ".join(one.missing) or "-")
        for one in found.extras
    ]
    output.print_table({"extra": False, "": False, "lacks": False}, extras, gap=3, fold=True)
    absent = [one for one in found.extras if one.missing]
    if absent:
        output.line(f"To install an extra: {absent[0].install}")
    for advice in found.advice:
        output.line("")
        output.line(f"- {advice}")
