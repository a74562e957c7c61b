"""`tailorbird compare`: two models on the same photos."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.predict import formula_safe

if TYPE_CHECKING:
    from tailorbird.comparison import Comparison, Differing

SHOWN = 10


def compare(
    a: Annotated[Path, typer.Argument(help="Model A, a file made by `tailorbird train`.")],
    b: Annotated[Path, typer.Argument(help="Model B.")],
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Compare on this split only; by default test where there is one, else everything."
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the photos on which they differ to this CSV file."),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="Write a picture (.png, .jpg) of the photos on which they differ."),
    ] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Which of two models is better, by how much, where they differ, and whether that could be chance.

    Exits 3 when photos had to be left out.
    """
    from tailorbird import comparison
    from tailorbird.dataset import check_outputs
    from tailorbird.errors import SettingsError
    from tailorbird.rendering import contact_sheets

    if csv_file is not None and csv_file.suffix.lower() != ".csv":
        raise SettingsError(f"--csv is {csv_file.name!r}; give the name of a .csv file")
    if contact_sheet is not None:
        contact_sheets.check_name(contact_sheet)
    check_outputs(
        photos,
        {"CSV": csv_file, "contact sheet": contact_sheet},
        inputs={"model A": a, "model B": b},
    )
    with output.ProgressBar() as progress:
        result = comparison.compare(a, b, photos, split=split, progress=progress)
    for path, reason in result.left_out if verbose else result.left_out[:SHOWN]:
        output.say(f"left out: {path}: {output.printable(reason)}")
    if len(result.left_out) > SHOWN and not verbose:
        output.say(f"left out: {len(result.left_out) - SHOWN} more; -v shows all")
    for name, remembered in zip("AB", result.trained_on, strict=True):
        if remembered:
            output.say(
                f"warning: {name} was trained on {remembered:,} of these {result.tally.n:,} photos, which favours it; compare on photos new to both"
            )
    if json:
        output.print_json(result.as_dict())
    else:
        _print(result, everything=verbose)
    if csv_file is not None:
        _write_csv(result, csv_file)
        output.say(f"written: {csv_file}")
    if contact_sheet is not None and result.differing:
        shown = comparison.tiles(result.differing)
        contact_sheets.save_sheet(contact_sheets.contact_sheet(shown), contact_sheet)
        output.say(f"contact sheet written: {contact_sheet} ({len(shown)} photos)")
    elif contact_sheet is not None:
        output.say(f"no contact sheet written to {contact_sheet}: the models differ on no photo")
    raise typer.Exit(3 if result.left_out else 0)


def _print(result: Comparison, *, everything: bool) -> None:
    from rich.table import Table

    console = output.out()

    def line(text: str) -> None:
        console.print(output.printable(text), markup=False, soft_wrap=True)

    for letter, name, scores in zip("AB", result.names, (result.a, result.b), strict=True):
        low, high = (output.percent(value) for value in scores.interval)
        line(
            f"{letter}: accuracy {output.percent(scores.accuracy)} (95% interval {low} to {high}), "
            f"{scores.summary()}: {name}"
        )
    least, most = (100 * value for value in result.interval)
    line(
        f"B - A: accuracy {100 * result.difference:+.1f} points (95% interval {least:+.1f} to {most:+.1f}), "
        f"log-loss {result.log_loss_difference:+.3f}{_loss_interval(result)}"
    )
    where = (
        f"{result.tally.n:,} photos of {result.split}"
        if result.split
        else f"{result.tally.n:,} photos"
    )
    line(
        f"{result.verdict}; {where}, {result.tally.both:,} both right, {result.tally.neither:,} both wrong."
    )
    for letter, labels in zip("AB", result.only_classes, strict=True):
        if labels:
            line(f"Classes that only {letter} knows: {', '.join(labels)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("class", "photos", "A right", "B right", "only A", "only B"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in result.per_class:
        counts = (row.n, row.both + row.only_a, row.both + row.only_b, row.only_a, row.only_b)
        table.add_row(output.cell(row.label or ""), *(f"{count:,}" for count in counts))
    console.print(table)
    shown = result.differing if everything else result.differing[:SHOWN]
    if shown:
        line(f"They differ on {len(result.differing):,} photos (surest mistakes first):")
    for photo in shown:
        line(f"  {photo.label}: {_answers(photo)}: {photo.name}")
    if len(result.differing) > len(shown):
        line(
            f"  ... and {len(result.differing) - len(shown):,} more; -v shows all, --csv FILE and --json have them for programs"
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


def _write_csv(result: Comparison, path: Path) -> None:
    from tailorbird.files import write_text

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "label", "a", "a_probability", "b", "b_probability", "right"])
    for photo in result.differing:
        right = "a" if photo.a.right else "b" if photo.b.right else "neither"
        answers = [
            cell
            for answer in (photo.a, photo.b)
            for cell in (answer.label, f"{answer.probability:.6f}")
        ]
        rows.writerow(
            [
                formula_safe(output.printable(cell))
                for cell in (photo.name, photo.label, *answers, right)
            ]
        )
    write_text(path, text.getvalue())
