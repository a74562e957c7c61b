"""`tailorbird scan`: describe a dataset and find problems in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    ContactSheetOption,
    JsonOption,
    PhotosArgument,
    on_device,
    reads_photos,
)
from tailorbird.cli.results import print_advice

if TYPE_CHECKING:
    from tailorbird.dataset import Dataset
    from tailorbird.label_errors import Suspects

FINDINGS_EXIT_CODE = 3
SHOWN = 20
"""Maximum number of findings of a kind printed without --verbose."""


@on_device
@reads_photos
def scan(
    data: Any,
    photos: PhotosArgument,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Write a CSV path,label,split with every split filled in, to train on later."
        ),
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects",
            help="Also find photos whose label is probably wrong, and photos unlike all others; "
            "this embeds every photo.",
        ),
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="With --suspects: a name listed by `tailorbird backbones`, or an .onnx file, or "
            f"several, separated by commas; by default {DEFAULT_BACKBONE}."
        ),
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="With --suspects: average the features of each photo with those of the mirrored "
            "photo.",
        ),
    ] = False,
    contact_sheet: ContactSheetOption = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the manifest's split and of the folds of --suspects.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Describe a dataset and find problems in it.

    Finds unreadable files, duplicates, leaks between splits, conflicting labels and imbalance; with
    --suspects also wrong labels, which --contact-sheet shows, and photos unlike all others. Exits 0
    if nothing was found, 3 if something was.
    """
    from tailorbird.label_errors import inspect_dataset

    with output.ProgressBar() as progress:
        found = inspect_dataset(
            photos,
            manifest=manifest,
            judge_labels=suspects,
            backbone=backbone,
            mirror=mirror,
            sheet=contact_sheet,
            seed=seed,
            data=data,
            progress=progress,
        )
    if manifest is not None:
        output.say(f"manifest written: {manifest}")
        if found.left_out:
            output.say(
                f"`train` will leave out {found.left_out:,} of its photos: identical to another, "
                "under two labels, or copies of photos in a later split; so it counts fewer"
            )
    if json:
        output.print_json(found.as_dict())
    else:
        print_dataset(found.dataset)
        if found.suspects:
            print_judged(found.suspects)
        print_findings(found.dataset)
        print_advice(found.advice)
    if found.suspects and contact_sheet is not None:
        output.say(
            f"contact sheet written: {contact_sheet}"
            if found.suspects.reported
            else f"no contact sheet written to {contact_sheet}: no label is suspect"
        )
    raise typer.Exit(FINDINGS_EXIT_CODE if found.dataset.findings else 0)


def print_judged(judged: Suspects) -> None:
    """Print how many labels were judged and are suspect, and what could not be judged."""
    output.line(
        f"Labels: {len(judged.ranked):,} judged with {judged.backbone}, each photo by heads "
        f"trained without it; they agree with {output.percent(judged.agreement)} of the labels; "
        f"{len(judged.reported):,} are suspect"
    )
    if judged.unjudged:
        labels = ", ".join(sorted({sample.label for sample in judged.unjudged}))
        output.line(
            f"  not judged: {len(judged.unjudged):,} photos of classes with too few different "
            f"photos: {labels}"
        )


def print_dataset(dataset: Dataset) -> None:
    """Print the number of photos by class and split."""
    splits = dataset.splits
    named = [name for name in ("train", "validation", "test") if name in splits]
    excluded = f"; {len(dataset.excluded):,} more excluded in a review" if dataset.excluded else ""
    output.line(f"{len(dataset.samples):,} usable photos, {len(dataset.classes)} classes{excluded}")
    rows = [
        (label, *(f"{splits[name].get(label, 0):,}" for name in named), f"{count:,}")
        for label, count in dataset.counts.items()
    ]
    output.print_table({"class": False, **dict.fromkeys([*named, "all"], True)}, rows, gap=3)


def print_findings(dataset: Dataset) -> None:
    """Print the findings, a line each, the most serious kinds first."""
    if not dataset.findings:
        output.line("No findings.")
        return
    kinds = Counter(finding.kind for finding in dataset.findings)
    output.line("Findings: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    shown: Counter[str] = Counter()
    for finding in dataset.findings:
        shown[finding.kind] += 1
        if output.STATE.verbose or shown[finding.kind] <= SHOWN:
            more = f" and {len(finding.paths) - 4} more" if len(finding.paths) > 4 else ""
            where = f": {', '.join(finding.paths[:4])}{more}" if finding.paths else ""
            output.line(f"  {finding.kind:<18} {finding.message}{where}")
    for kind, count in kinds.items():
        if count > SHOWN and not output.STATE.verbose:
            output.line(
                f"  {kind:<18} ... and {count - SHOWN} more; -v shows all, --json has them for "
                "programs"
            )
