"""`tailorbird corrections`: count, export and delete the corrections of a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import Command, JsonOption, common

if TYPE_CHECKING:
    from tailorbird.corrections import Stats

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

DatabaseArgument = Annotated[
    str,
    typer.Argument(metavar="DB", help="Database: an SQLite file or a postgresql:// URL."),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the kept photos; by default shop.photos for shop.db."),
]


@app.callback()
@common
def corrections() -> None:
    """Count, export and delete corrections.

    Corrections are people's answers to predictions, collected by `tailorbird serve`.
    """


@app.command(cls=Command)
@common
def stats(db: DatabaseArgument, json: JsonOption = False) -> None:
    """Show the accuracy of a served model, judged by people's answers.

    Shows it in total, by class and by day, and which classes are confused.
    """
    from tailorbird.corrections import open_existing

    with open_existing(db) as store:
        found = store.stats()
    output.print_json_or_text(found, print_stats, json=json)


def print_stats(found: Stats) -> None:
    """Print the accuracy in use with its interval, by class, by day, and the confusions."""
    from tailorbird.metrics.distributions import too_few, wilson_interval

    if found.accuracy is None:
        output.line("No corrections yet.")
        return
    few = "too few answers to say; " if too_few(found.interval) else ""
    output.line(
        f"In use: {few}accuracy {output.percent(found.accuracy)} "
        f"({output.interval(found.interval)}) on {found.total:,} answered "
        f"prediction{'s' * (found.total != 1)}"
    )
    # The people who answer are not a random sample.
    output.say(
        "people answer more often when the model is wrong: compare the trend over time, and the "
        "scores of `tailorbird evaluate`"
    )
    if found.none_of_these:
        output.line(
            f"{found.none_of_these:,} of them: none of the classes; the model said so of "
            f"{found.none_refused:,}, the others count as wrong"
        )
    everything = output.STATE.verbose
    _print_table(
        {"class (as people say)": False, "right": True, "of": True, "accuracy": True,
         "95% interval": True},
        [
            (row.label, f"{row.right:,}", f"{row.total:,}", output.percent(row.right / row.total),
             " to ".join(map(output.percent, wilson_interval(row.right, row.total))))
            for row in found.per_class
        ],
    )  # fmt: skip
    _print_table(
        {"day (UTC)": False, "right": True, "of": True, "accuracy": True},
        [
            (day.day, f"{day.right:,}", f"{day.total:,}", output.percent(day.right / day.total))
            for day in (found.by_day if everything else found.by_day[-output.SHOWN :])
        ],
    )
    if found.mistaken:
        shown = found.mistaken if everything else found.mistaken[: output.SHOWN]
        _print_table(
            {"really": False, "was called": False, "photos": True},
            [(m.answer, m.predicted, f"{m.count:,}") for m in shown],
        )


def _print_table(columns: dict[str, bool], rows: list[tuple[str, ...]]) -> None:
    output.line("")
    output.print_table(columns, rows, fold=True)


@app.command(cls=Command)
@common
def export(
    db: DatabaseArgument,
    file: Annotated[Path, typer.Option("--output", "-o", help="File to write: .csv or .json.")],
    photos: FolderOption = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Export every answer, also without a kept photo; `train` does not read this form.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Export the kept photos with the newest answers.

    The file is a CSV that `tailorbird train` reads, or JSON. Exits 3 when files of kept photos are
    missing.
    """
    from tailorbird import corrections as library

    with library.open_existing(db, photos) as store:
        result = library.export(store, file, everything=everything)
    shown = result.missing if output.STATE.verbose else result.missing[: output.SHOWN]
    for name in shown:
        output.say(f"the file of this kept photo is missing: {name}")
    if len(result.missing) > len(shown):
        output.say(f"and {len(result.missing) - len(shown):,} more; -v shows all")
    if result.conflicts:
        output.say(f"{result.conflicts:,} photos have different answers; the newest counts")
    if result.without_photo:
        what = "are listed without a path" if everything else "are left out (--all lists them)"
        output.say(f"{result.without_photo:,} photos with an answer were not kept and {what}")
    if result.none_of_these and not everything:
        photos_of = f"photo{'s' * (result.none_of_these != 1)}"
        output.say(
            f"{result.none_of_these:,} {photos_of} of none of the classes, from which train learns "
            "what to refuse"
        )
    if json:
        output.print_json(result.as_dict())
    else:
        what = "answers" if everything else "labelled photos"
        output.line(f"{result.written:,} {what} written: {result.path}")
    raise typer.Exit(3 if result.missing else 0)


@app.command(cls=Command)
@common
def forget(
    db: DatabaseArgument,
    sha256: Annotated[
        str,
        typer.Argument(metavar="SHA256", help="SHA-256 of the photo, as `sha256sum` prints it."),
    ],
    photos: FolderOption = None,
    json: JsonOption = False,
) -> None:
    """Delete everything stored about one photo.

    Deletes its rows in the database and the kept photo itself.
    """
    from tailorbird.corrections import open_existing
    from tailorbird.errors import SettingsError

    with open_existing(db, photos) as store:
        gone = store.forget(sha256)
        folder = store.photos
    if not gone.rows and not gone.photo:
        raise SettingsError(
            f"nothing is stored about a photo with the SHA-256 {sha256}; `tailorbird corrections "
            "export --all` lists what is"
        )
    if folder is None:
        output.say(
            "warning: the folder of kept photos is not known, so no photo was deleted; give "
            "--photos"
        )
    if json:
        output.print_json({"rows": gone.rows, "photo": gone.photo})
    else:
        photo = "and the photo" if gone.photo else "no photo was kept"
        output.line(f"deleted: {gone.rows:,} row{'s' * (gone.rows != 1)}, {photo}")
    output.say(
        "models trained on the photo do not change until they are trained again; "
        "`tailorbird cache clear` deletes its cached features"
    )
