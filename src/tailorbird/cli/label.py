"""`tailorbird label`: label photos on a local page, from nothing to a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    FollowLinksOption,
    MirrorOption,
    on_device,
)
from tailorbird.cli.review import show_page

if TYPE_CHECKING:
    from tailorbird.labelling import Labelling


@on_device
def label(
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOS", help="Folder of photos; all photos below it are labelled."
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes to begin with, such as dress,hat,shirt; more can be added on the page. "
            "Photos in a folder with the name of one of them start with that label."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="CSV manifest to write or to continue; by default beside the photos: "
            "shop.labels.csv for shop.",
        ),
    ] = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    follow_links: FollowLinksOption = False,
    port: Annotated[
        int,
        typer.Option(
            help="Port of the page, on this machine only; 0: a free one.", min=0, max=65535
        ),
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the choice of photos.")] = 0,
) -> None:
    """Label photos, from none to as many as it takes.

    A local page asks about the photos that teach most, shows sheets of photos with the class it
    proposes, and says how good a classifier already is and when to stop. Answers are saved at once
    beside a CSV manifest that `tailorbird train` reads; a button of the page trains too. No photo
    is moved, changed or deleted. Ctrl-C ends; the same command continues.
    """
    from tailorbird import labelling as library
    from tailorbird import service

    service.need_extra()
    names = tuple(part for part in (classes or "").split(",") if part.strip())
    settings = library.LabelSettings(
        classes=names, backbone=backbone, mirror=mirror, follow_links=follow_links, seed=seed
    )
    opened = library.open_labelling(photos, manifest, settings)
    for note in opened.notes:
        output.say(note)
    output.say(f"{len(opened.gallery.paths):,} files to label; they are read in the background")

    show_page(
        lambda **options: service.serve_labelling(opened, port=port, **options),
        "Label at the address below; only this machine can reach it. Every answer is saved at "
        "once; Ctrl-C ends the labelling.",
        browser=browser,
    )
    print_summary(opened)


def print_summary(opened: Labelling) -> None:
    """Print the labels, the accuracy, and how to train on them."""
    answers = opened.history.answers
    counts = ", ".join(f"{name} {count:,}" for name, count in answers.counts().items())
    output.line(
        f"{answers.steps:,} steps; labels: {counts or 'none'}; of "
        f"{len(opened.gallery.paths):,} files"
    )
    outlook = opened.last_outlook
    if outlook.accuracy is not None:
        low, high = outlook.interval
        output.line(
            f"Right for {outlook.right:,} of {outlook.blind:,} photos that were asked about "
            f"blindly ({low:.0%} to {high:.0%})"
        )
    output.line(f"Manifest: {opened.manifest}")
    if opened.can_train:
        output.line(f"Train on it: {output.runnable(opened.train_command)}")
