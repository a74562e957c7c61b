"""`tailorbird cache`: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import output

app = typer.Typer(
    help="Show what is kept between runs; `clear` deletes it.", invoke_without_command=True
)


@app.callback()
def cache(
    context: typer.Context,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Show cached features, facts of scanned photos and pulled backbones."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from tailorbird.files import cache_folder
    from tailorbird.files.cache import cache_entries

    entries = cache_entries()
    total = sum(entry.bytes for entry in entries)
    if json:
        found = [
            {
                "kind": e.kind,
                "name": e.name,
                "files": e.files,
                "bytes": e.bytes,
                "path": str(e.path),
            }
            for e in entries
        ]
        output.print_json({"folder": str(cache_folder()), "bytes": total, "entries": found})
        return
    console = output.out()
    console.print(f"{cache_folder()}: {total / 1e6:,.1f} MB", markup=False, soft_wrap=True)
    if entries:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name in ("kind", "what", "files", "MB"):
            table.add_column(
                name, justify="right" if name in ("files", "MB") else "left", overflow="fold"
            )
        for entry in entries:
            table.add_row(
                entry.kind, output.cell(entry.name), f"{entry.files:,}", f"{entry.bytes / 1e6:,.1f}"
            )
        console.print(table)
    output.say(
        "everything here can be made again; TAILORBIRD_CACHE puts it elsewhere, `tailorbird cache clear` deletes it"
    )


@app.command()
def clear(
    backbones: Annotated[
        bool, typer.Option("--backbones", help="Delete pulled backbones too.")
    ] = False,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Delete cached features and facts; they are made again when needed."""
    from tailorbird.files.cache import clear_cache

    freed = clear_cache(backbones=backbones)
    if json:
        output.print_json({"freed": freed})
    else:
        output.out().print(f"freed {freed / 1e6:,.1f} MB")
