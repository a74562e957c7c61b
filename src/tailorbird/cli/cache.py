"""`tailorbird cache`: list and delete the files that are kept between runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import Command, JsonOption, common

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
@common
def cache(context: typer.Context, json: JsonOption = False) -> None:
    """List the files kept between runs; `clear` deletes them.

    These are cached features, facts about scanned photos, and pulled backbones.
    """
    if context.invoked_subcommand is not None:
        return
    from tailorbird.files import cache_folder
    from tailorbird.files.cache import cache_entries

    entries = cache_entries()
    total = sum(entry.bytes for entry in entries)
    if json:
        found = [
            {"kind": e.kind, "name": e.name, "files": e.files, "bytes": e.bytes,
             "path": str(e.path)}
            for e in entries
        ]  # fmt: skip
        output.print_json({"folder": str(cache_folder()), "bytes": total, "entries": found})
        return
    output.line(f"{cache_folder()}: {total / 1e6:,.1f} MB")
    if entries:
        columns = {"kind": False, "what": False, "files": True, "MB": True}
        rows = [(e.kind, e.name, f"{e.files:,}", f"{e.bytes / 1e6:,.1f}") for e in entries]
        output.print_table(columns, rows, gap=3, fold=True)
    output.say(
        "everything here can be computed or pulled again; `tailorbird cache clear` deletes it, "
        "TAILORBIRD_CACHE moves it to another folder"
    )


@app.command(cls=Command)
@common
def clear(
    backbones: Annotated[
        bool, typer.Option("--backbones", help="Delete pulled backbones too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Delete cached features and facts.

    Deleted files are computed again when needed.
    """
    from tailorbird.files.cache import clear_cache

    freed = clear_cache(backbones=backbones)
    if json:
        output.print_json({"freed": freed})
    else:
        output.line(f"freed {freed / 1e6:,.1f} MB")
