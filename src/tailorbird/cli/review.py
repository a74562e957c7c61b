"""`tailorbird review`: decide about suspect photos on a local page."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    MirrorOption,
    on_device,
    reads_photos,
)

if TYPE_CHECKING:
    from tailorbird.review import Review


@on_device
@reads_photos
def review(
    data: Any,
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOS",
            help="Class folders, split/class folders, a CSV with the columns path,label[,split], "
            "the output of `tailorbird predict --csv`, or the manifest of a review.",
        ),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="CSV manifest to write or to continue; by default beside the photos: "
            "shop.reviewed.csv for shop.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Output of `tailorbird predict --csv` about these photos: those the model is not "
            "sure of come first, then those it labels otherwise."
        ),
    ] = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects/--no-suspects",
            help="Look for labels that are probably wrong; this embeds every photo.",
        ),
    ] = True,
    port: Annotated[
        int,
        typer.Option(
            help="Port of the page, on this machine only; 0: a free one.", min=0, max=65535
        ),
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the search for suspect labels.")] = 0,
) -> None:
    """Keep, relabel or exclude suspect photos.

    Shows unsure guesses of a model, suspect labels, duplicates and leaks on a local page, to be
    decided with one key each.
    Decisions are written to a CSV manifest that `tailorbird train` reads. No photo is moved,
    changed or deleted. Ctrl-C ends the review.
    """
    from tailorbird import review as library
    from tailorbird import service

    service.need_extra()
    with output.ProgressBar() as progress:
        opened = library.open_review(
            photos,
            manifest,
            backbone=backbone,
            mirror=mirror,
            find_suspects=suspects,
            seed=seed,
            data=data,
            predictions=predictions,
            progress=progress,
        )
    for note in opened.notes:
        output.say(note)
    say_items(opened)

    show_page(
        lambda **options: service.serve_review(opened, port=port, **options),
        "Review at the address below; only this machine can reach it. Every decision is saved at "
        "once; Ctrl-C ends the review.",
        browser=browser,
    )
    print_summary(opened)


def show_page(serve: Callable[..., None], said: str, *, browser: bool) -> None:
    """Serve a local page until it ends: print its address, and open it in a browser if wanted.

    serve: takes `announce` and `launch`, each called with the address. said: above the address.
    """

    def announce(address: str) -> None:
        output.say(said)
        # The only line on standard output: programs read the address from it.
        print(address, flush=True)

    def launch(address: str) -> None:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(announce=announce, launch=launch if browser and can_show() else None)


def can_show() -> bool:
    """Return whether a browser window can be opened; one inside the terminal would occupy it."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def say_items(opened: Review) -> None:
    """Print what there is to decide, and how many findings a review cannot decide."""
    from tailorbird.review.items import KINDS

    kinds = [kind for item in opened.items for kind in item.kinds]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in KINDS if kind in kinds)
    output.say(f"{len(opened.dataset.samples):,} usable photos; to look at: {counts or 'nothing'}")
    others = sum(finding.kind not in KINDS for finding in opened.dataset.findings)
    if others:
        verb = "finding concerns" if others == 1 else "findings concern"
        output.say(
            f"{others:,} more {verb} no single photo; tailorbird scan {opened.source} shows them"
        )


def print_summary(opened: Review) -> None:
    """Print the number of decisions, what is left, and how to train on them."""
    counts = opened.counts()
    left = counts.items - counts.done
    rest = (
        f"{left:,} of {counts.items:,} findings left to look at"
        if left
        else "nothing left to look at"
    )
    output.line(
        f"Kept {counts.keep:,}, relabelled {counts.relabel:,}, excluded {counts.exclude:,} of "
        f"{len(opened.manifest):,} photos; {rest}"
    )
    output.line(f"Manifest: {opened.manifest.path}")
    output.line(f"Train on it: {output.runnable(opened.train_command)}")
