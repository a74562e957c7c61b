"""`tailorbird corrections`: what people answered, counted, exported, forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.corrections import Stats

app = typer.Typer(
    help="Count, export and forget the corrections that `tailorbird serve` collects.",
    no_args_is_help=True,
)

SHOWN = 10

Database = Annotated[
    str, typer.Argument(metavar="DB", help="The database: an SQLite file or a postgresql:// URL.")
]
Photos = Annotated[
    Path | None,
    typer.Option(help="The folder of kept photos; for shop.db it is shop.photos when not given."),
]


@app.callback()
def corrections(
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Count, export and forget the corrections that `tailorbird serve` collects."""


@app.command()
def stats(
    db: Database,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """How often the model is right in use: in all, by class, by day, and what it confuses."""
    from tailorbird.corrections import open_existing

    with open_existing(db) as store:
        found = store.stats()
    if json:
        output.print_json(found.as_dict())
    else:
        print_stats(found, everything=verbose)


def print_stats(found: Stats, *, everything: bool) -> None:
    """Accuracy in use with its interval; tables by class, by day, of confusions."""
    from tailorbird.metrics.distributions import wilson_interval

    console = output.out()
    if found.accuracy is None:
        console.print("No corrections yet.")
        return
    low, high = found.interval
    console.print(
        f"In use: accuracy {output.percent(found.accuracy)} (95% interval {output.percent(low)} to {output.percent(high)}) on "
        f"{found.total:,} answered prediction{'s' * (found.total != 1)}",
        soft_wrap=True,
    )
    # Who is asked, and who bothers to answer, is not a random sample.
    output.say(
        "people answer more often where the model is wrong: read it as a trend, and against `tailorbird evaluate`"
    )
    intervals = [(row, wilson_interval(row.right, row.total)) for row in found.per_class]
    _table(
        ("class (as people say)", "right", "of", "accuracy", "95% interval"),
        [
            (row.label, f"{row.right:,}", f"{row.total:,}", output.percent(row.right / row.total),
             f"{output.percent(low)} to {output.percent(high)}")
            for row, (low, high) in intervals
        ],
    )  # fmt: skip
    days = found.by_day if everything else found.by_day[-SHOWN:]
    _table(
        ("day (UTC)", "right", "of", "accuracy"),
        [
            (day.day, f"{day.right:,}", f"{day.total:,}", output.percent(day.right / day.total))
            for day in days
        ],
    )
    if found.mistaken:
        shown = found.mistaken if everything else found.mistaken[:SHOWN]
        _table(
            ("really", "was called", "photos"),
            [(m.answer, m.predicted, f"{m.count:,}") for m in shown],
        )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    text = ("class (as people say)", "day (UTC)", "really", "was called")
    for name in columns:
        table.add_column(name, justify="left" if name in text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(output.cell(value) for value in row))
    output.out().print()
    output.out().print(table)


@app.command()
def export(
    db: Database,
    file: Annotated[Path, typer.Option("--output", "-o", help="The .csv or .json file to write.")],
    photos: Photos = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every answer, kept photo or not; `train` does not read that."),
    ] = False,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Write the kept photos with people's newest answers, as a CSV that `tailorbird train` reads, or as JSON.

    Exits 3 when the files of kept photos are missing.
    """
    from tailorbird import corrections as library

    with library.open_existing(db, photos) as store:
        result = library.export(store, file, everything=everything)
    for name in result.missing if verbose else result.missing[:SHOWN]:
        output.say(output.printable(f"the file of this kept photo is missing: {name}"))
    if len(result.missing) > SHOWN and not verbose:
        output.say(f"and {len(result.missing) - SHOWN:,} more; -v shows all")
    if result.conflicts:
        output.say(f"{result.conflicts:,} photos got different answers; the newest counts")
    if result.without_photo:
        what = "are listed without a path" if everything else "are left out (--all lists them)"
        output.say(
            f"{result.without_photo:,} photos people answered about were not kept and {what}"
        )
    if json:
        output.print_json(result.as_dict())
    else:
        what = "answers" if everything else "labelled photos"
        output.out().print(
            f"{result.written:,} {what} written: {result.path}", markup=False, soft_wrap=True
        )
    raise typer.Exit(3 if result.missing else 0)


@app.command()
def forget(
    db: Database,
    sha256: Annotated[
        str, typer.Argument(metavar="SHA256", help="The photo's SHA-256, as `sha256sum` prints it.")
    ],
    photos: Photos = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Delete everything that is kept about one photo: its rows and the photo itself."""
    from tailorbird.corrections import open_existing
    from tailorbird.errors import SettingsError

    with open_existing(db, photos) as store:
        gone = store.forget(sha256)
        folder = store.photos
    if not gone.rows and not gone.photo:
        raise SettingsError(
            f"nothing is kept about a photo with the SHA-256 {sha256}; `tailorbird corrections export --all` lists what is"
        )
    if folder is None:
        output.say(
            "warning: the folder of kept photos is not known, so none was deleted; name it with --photos"
        )
    if json:
        output.print_json({"rows": gone.rows, "photo": gone.photo})
    else:
        said = "and the photo" if gone.photo else "no photo was kept"
        output.out().print(
            f"forgotten: {gone.rows:,} row{'s' * (gone.rows != 1)}, {said}", soft_wrap=True
        )
    output.say(
        "models trained on it stay as they are until they are trained again; `tailorbird cache clear` drops its features"
    )
