"""`tailorbird review`: look at what is suspect, and decide with a key."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.review import Review


def review(
    photos: Annotated[
        Path,
        typer.Argument(
            help="Class folders, split/class folders, a CSV path,label[,split], or a review's manifest."
        ),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The CSV manifest to write, or to go on with. By default beside the photos: shop -> shop.reviewed.csv.",
        ),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="What suspect labels are found with: a name from `tailorbird backbones`, or an .onnx file."
        ),
    ] = "pocket",
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects/--no-suspects",
            help="Look for labels that are probably wrong; embeds every photo.",
        ),
    ] = True,
    port: Annotated[
        int,
        typer.Option(
            help="Port of the page, on this machine only; 0 takes a free one.", min=0, max=65535
        ),
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the search for suspect labels.")] = 0,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Look at suspect labels, duplicates and leaks on a local page; keep, relabel or exclude with a key. Ctrl-C ends it.

    Decisions go to a CSV manifest that `tailorbird train` reads. No photo is moved, changed or deleted.
    """
    from tailorbird import review as library
    from tailorbird import service

    service.need_extra()
    with output.ProgressBar() as progress:
        opened = library.open_review(
            photos,
            manifest,
            backbone=backbone,
            find_suspects=suspects,
            seed=seed,
            progress=progress,
        )
    for note in opened.notes:
        output.say(output.printable(note))
    say_items(opened)

    def announce(address: str) -> None:
        output.say(
            "Review at the address below; only this machine can reach it. Every decision is saved at once; Ctrl-C ends it."
        )
        # The one line for programs: a script that started us reads where we are.
        print(address, flush=True)

    def launch(address: str) -> None:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    service.serve_review(
        opened, port=port, announce=announce, launch=launch if browser and can_show() else None
    )
    print_summary(opened)


def can_show() -> bool:
    """Whether a window can be opened: a browser inside the terminal would take it from us."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def say_items(opened: Review) -> None:
    """What there is to look at, and what a review cannot decide."""
    from tailorbird.review.items import KINDS

    kinds = [kind for item in opened.items for kind in item.kinds]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in KINDS if kind in kinds)
    output.say(f"{len(opened.dataset.samples):,} usable photos; to look at: {counts or 'nothing'}")
    others = sum(finding.kind not in KINDS for finding in opened.dataset.findings)
    if others:
        output.say(f"{others:,} more {'finding is' if others == 1 else 'findings are'} not for deciding about one photo; "
                   f"tailorbird scan {output.printable(str(opened.source))} shows them")  # fmt: skip


def print_summary(opened: Review) -> None:
    """What was decided, what is left, and how to train on it."""
    told = opened.counts()
    left = told.items - told.done
    console = output.out()
    console.print(
        f"Kept {told.keep:,}, relabelled {told.relabel:,}, excluded {told.exclude:,} of {len(opened.manifest):,} photos; "
        + (
            f"{left:,} of {told.items:,} findings left to look at"
            if left
            else "nothing left to look at"
        ),
        soft_wrap=True,
    )
    console.print(
        f"Manifest: {output.printable(str(opened.manifest.path))}", markup=False, soft_wrap=True
    )
    console.print(f"Train on it: {opened.train_command}", markup=False, soft_wrap=True)
