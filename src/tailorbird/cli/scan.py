"""`tailorbird scan`: what is in a dataset, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.dataset import Dataset
    from tailorbird.label_errors import Suspects

FINDINGS_EXIT_CODE = 3
SHOWN = 20


def scan(
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    json: output.Json = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Write a CSV path,label,split with every split filled in; it can be trained on."
        ),
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects", help="Also find photos whose label is probably wrong; embeds every photo."
        ),
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="For --suspects: a name from `tailorbird backbones`, or an .onnx file; pocket when not given."
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            help="For --suspects: a picture (.png, .jpg) of the suspect photos with their labels."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the manifest's split and of the suspects' folds.")
    ] = 0,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Find unreadable files, duplicates, leaks between splits, conflicting labels and imbalance; with --suspects, wrong labels too.

    Exits 0 when nothing was found and 3 when something was.
    """
    from tailorbird import dataset as library
    from tailorbird.backbone import find

    library.check_outputs(
        photos,
        {"manifest": manifest, "contact sheet": contact_sheet},
        inputs={"backbone": find(backbone) if backbone else None},
    )
    judged = None
    if suspects:
        judged = _judge(photos, backbone, contact_sheet, seed)
        found = judged.dataset
    else:
        _refuse(backbone, contact_sheet)
        with output.ProgressBar() as progress:
            found = library.scan(photos, progress=progress)
    if manifest is not None:
        library.write_manifest(library.split(found, seed=seed), manifest)
        output.say(f"manifest written: {manifest}")
    if json:
        output.print_json({**found.as_dict(), **({"suspects": judged.as_dict()} if judged else {})})
    else:
        print_dataset(found)
        if judged:
            print_judged(judged)
        print_findings(found, everything=verbose)
    if judged and contact_sheet is not None:
        _draw(judged, contact_sheet)
    raise typer.Exit(FINDINGS_EXIT_CODE if found.findings else 0)


def _refuse(backbone: str | None, contact_sheet: Path | None) -> None:
    from tailorbird.errors import SettingsError

    given = [
        name
        for name, value in (("--backbone", backbone), ("--contact-sheet", contact_sheet))
        if value is not None
    ]
    if given:
        raise SettingsError(
            f"{' and '.join(given)} without --suspects: only the search for wrong labels uses it; add --suspects"
        )


def _judge(photos: Path, backbone: str | None, contact_sheet: Path | None, seed: int) -> Suspects:
    """Find suspect labels with a bar for each stage."""
    from tailorbird import label_errors
    from tailorbird.backbone.catalogue import SHIPPED
    from tailorbird.rendering import contact_sheets

    if contact_sheet is not None:
        contact_sheets.check_name(contact_sheet)  # before the long part begins
    with output.ProgressBar() as progress:
        return label_errors.suspects(
            photos, backbone=backbone or SHIPPED, seed=seed, progress=progress
        )


def _draw(judged: Suspects, contact_sheet: Path) -> None:
    """Write the reported suspects as one picture."""
    from tailorbird import label_errors
    from tailorbird.rendering import contact_sheets

    if not judged.reported:
        output.say(
            f"no contact sheet written to {contact_sheet}: there is no suspect label to show"
        )
        return
    shown = label_errors.tiles(judged.reported)
    contact_sheets.save_sheet(contact_sheets.contact_sheet(shown), contact_sheet)
    output.say(f"contact sheet written: {contact_sheet} ({len(shown)} photos)")


def print_judged(judged: Suspects) -> None:
    """How many labels were judged, how well the judges agree with them, and what could not be judged."""
    console = output.out()
    console.print(
        f"Labels: {len(judged.ranked):,} judged with {judged.backbone}, each photo by heads that have not seen it; "
        f"they agree with {output.percent(judged.agreement)}; {len(judged.reported):,} are suspect",
        markup=False,
        soft_wrap=True,
    )
    if judged.unjudged:
        labels = ", ".join(sorted({sample.label for sample in judged.unjudged}))
        console.print(
            f"  not judged: {len(judged.unjudged):,} photos of classes with too few different pictures: {output.printable(labels)}",
            markup=False,
            soft_wrap=True,
        )


def print_dataset(dataset: Dataset) -> None:
    """A table of photos by class and split."""
    from rich.table import Table

    splits = dataset.splits
    named = [name for name in ("train", "validation", "test") if name in splits]
    excluded = f"; {len(dataset.excluded):,} more excluded in a review" if dataset.excluded else ""
    output.out().print(
        f"{len(dataset.samples):,} usable photos, {len(dataset.classes)} classes{excluded}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("class")
    for name in named:
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")
    for label, count in dataset.counts.items():
        table.add_row(
            output.cell(label), *(f"{splits[name].get(label, 0):,}" for name in named), f"{count:,}"
        )
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
        console.print(
            f"  {kind:<18} ... and {count} more; -v shows all, --json has them for programs"
        )
