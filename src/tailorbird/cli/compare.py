"""`tailorbird compare`: compare two models on the same photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    AllOption,
    ContactSheetOption,
    JsonOption,
    ModelArgument,
    PhotosArgument,
    SplitOption,
    on_device,
    reads_photos,
)

if TYPE_CHECKING:
    from tailorbird.comparison import Comparison, Differing


@on_device
@reads_photos
def compare(
    data: Any,
    a: ModelArgument,
    b: Annotated[Path, typer.Argument(metavar="OTHER", help="Model file to compare it with.")],
    photos: PhotosArgument,
    split: SplitOption = None,
    every: AllOption = False,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the photos on which the models differ to a CSV file."),
    ] = None,
    contact_sheet: ContactSheetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two models on labelled photos.

    Shows which model is better, by how much, where they differ, and whether that may be chance, on
    photos that neither was trained or chosen on (--all: on all).
    Exits 3 when photos had to be left out.
    """
    from tailorbird import comparison

    with output.ProgressBar() as progress:
        result = comparison.compare(
            a,
            b,
            photos,
            split=split,
            include_seen=every,
            csv=csv_file,
            contact_sheet=contact_sheet,
            data=data,
            progress=progress,
        )
    output.print_left_out(result.left_out)
    output.print_seen(result.seen)
    for name, remembered in zip("AB", result.trained_on, strict=True):
        if remembered:
            output.say(
                f"warning: {name} was trained on {remembered:,} of these {result.tally.n:,} "
                "photos, which favours it; compare on photos new to both"
            )
    output.print_json_or_text(result, _print, json=json)
    if csv_file is not None:
        output.say(f"written: {csv_file}")
    if contact_sheet is not None:
        output.say(
            f"contact sheet written: {contact_sheet}"
            if result.differing
            else f"no contact sheet written to {contact_sheet}: the models differ on no photo"
        )
    raise typer.Exit(3 if result.left_out else 0)


def _print(result: Comparison) -> None:
    for letter, name, scores in zip("AB", result.names, (result.a, result.b), strict=True):
        output.line(
            f"{letter}: accuracy {output.percent(scores.accuracy)} "
            f"({output.interval(scores.interval)}), {scores.summary()}: {name}"
        )
    least, most = (100 * value for value in result.interval)
    output.line(
        f"B - A: accuracy {100 * result.difference:+.1f} points "
        f"(95% interval {least:+.1f} to {most:+.1f}), "
        f"log-loss {result.log_loss_difference:+.3f}{_loss_interval(result)}"
    )
    where = f" of {result.split}" if result.split else ""
    output.line(
        f"{result.verdict}; {result.tally.n:,} photos{where}, {result.tally.both:,} both right, "
        f"{result.tally.neither:,} both wrong."
    )
    for letter, labels in zip("AB", result.only_classes, strict=True):
        if labels:
            output.line(f"Classes that only {letter} knows: {', '.join(labels)}")
    columns = {name: name != "class" for name in
               ("class", "photos", "A right", "B right", "only A", "only B")}  # fmt: skip
    counts = [
        (row.label or "", row.n, row.both + row.only_a, row.both + row.only_b,
         row.only_a, row.only_b)
        for row in result.per_class
    ]  # fmt: skip
    output.print_table(
        columns, [(label, *(f"{count:,}" for count in rest)) for label, *rest in counts]
    )
    shown = result.differing if output.STATE.verbose else result.differing[: output.SHOWN]
    if shown:
        output.line(
            f"They differ on {len(result.differing):,} photos (most confident mistakes first):"
        )
    for photo in shown:
        output.line(f"  {photo.label}: {_answers(photo)}: {photo.name}")
    if len(result.differing) > len(shown):
        output.line(
            f"  ... and {len(result.differing) - len(shown):,} more; -v shows all, "
            "--csv FILE and --json have them for programs"
        )


def _loss_interval(result: Comparison) -> str:
    if result.log_loss_interval is None:
        return ""
    low, high = result.log_loss_interval
    return f" ({low:+.3f} to {high:+.3f}; below 0 is better)"


def _answers(photo: Differing) -> str:
    return ", ".join(
        f"{letter} {'right' if answer.right else f'says {answer.label}'} ({answer.probability:.0%})"
        for letter, answer in (("A", photo.a), ("B", photo.b))
    )
