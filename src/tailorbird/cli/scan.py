"""`tailorbird scan`: what is in a dataset, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.dataset import Dataset

FINDINGS_EXIT_CODE = 3
SHOWN = 20


def scan(
    photos: Annotated[Path, typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split].")],
    json: output.Json = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Write a CSV path,label,split with every split filled in; it can be trained on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split written to the manifest.")] = 0,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Find unreadable files, duplicates, leaks between splits, conflicting labels and imbalance.

    Exits 0 when nothing was found and 3 when something was.
    """
    from tailorbird import dataset as library

    with output.progress("scan") as bar:
        found = library.scan(photos, progress=bar.advance)
    if manifest is not None:
        library.write_manifest(library.split(found, seed=seed), manifest)
        output.say(f"manifest written: {manifest}")
    if json:
        output.print_json(found.as_dict())
    else:
        print_dataset(found)
        print_findings(found, everything=verbose)
    raise typer.Exit(FINDINGS_EXIT_CODE if found.findings else 0)


def print_dataset(dataset: Dataset) -> None:
    """A table of photos by class and split."""
    from rich.table import Table

    splits = dataset.splits
    named = [name for name in ("train", "validation", "test") if name in splits]
    output.out().print(f"{len(dataset.samples):,} usable photos, {len(dataset.classes)} classes")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("class")
    for name in named:
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")
    for label, count in dataset.counts.items():
        table.add_row(output.cell(label), *(f"{splits[name].get(label, 0):,}" for name in named), f"{count:,}")
    output.out().print(table)


def print_findings(dataset: Dataset, *, everything: bool) -> None:
    """Every finding in a line of its own, the most serious kinds first; long lists are cut unless `everything`."""
    console = output.out()
    if not dataset.findings:
        console.print("No findings.")
        return
    kinds: dict[str, int] = {}
    for finding in dataset.findings:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
    console.print("Findings: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    shown: dict[str, int] = {}
    for finding in dataset.findings:
        shown[finding.kind] = shown.get(finding.kind, 0) + 1
        if everything or shown[finding.kind] <= SHOWN:
            paths = ", ".join(output.printable(path) for path in finding.paths[:4])
            more = f" and {len(finding.paths) - 4} more" if len(finding.paths) > 4 else ""
            where = f": {paths}{more}" if paths else ""
            line = f"  {finding.kind:<18} {output.printable(finding.message)}{where}"
            console.print(line, markup=False, soft_wrap=True)
    cut = {kind: count - SHOWN for kind, count in kinds.items() if count > SHOWN and not everything}
    for kind, count in cut.items():
        console.print(f"  {kind:<18} ... and {count} more; -v shows all, --json has them for programs")
