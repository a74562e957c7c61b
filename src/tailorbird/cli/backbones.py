"""`tailorbird backbones`: what is at hand, and `backbones pull` for more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output

app = typer.Typer(
    help="List the backbones at hand with size and speed; `pull` brings more.",
    invoke_without_command=True,
)


@app.callback()
def backbones(
    context: typer.Context,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """List the backbones at hand: size, features, input size, images per second measured now."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from tailorbird import parallel
    from tailorbird.backbone import Backbone, at_hand

    rows = []
    for info in at_hand():
        speed = Backbone(info.path).images_per_second() * parallel.cores()
        rows.append((info, speed))
    if json:
        found = [
            {
                **info.as_dict(),
                "path": str(info.path),
                "bytes": info.file_bytes,
                "images_per_second": round(speed, 1),
            }
            for info, speed in rows
        ]
        output.print_json({"backbones": found})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("name", "MB", "input", "features", "heat maps", "images/s", "licence"):
        table.add_column(
            name,
            justify="right" if name in ("MB", "input", "features", "images/s") else "left",
            no_wrap=name == "name",
        )
    for info, speed in rows:
        grid = "x".join(map(str, info.grid)) if info.grid else "no"
        cells = [
            info.name,
            f"{info.file_bytes / 1e6:.1f}",
            f"{info.size}",
            f"{info.width}",
            grid,
            f"{speed:,.0f}",
            info.licence,
        ]
        table.add_row(*(output.cell(text) for text in cells))
    output.out().print(table)
    if verbose:
        for info, _ in rows:
            said = f"{info.name}: {info.path}\n  source: {info.source}\n  trained on: {info.trained_on}\n  sha256: {info.sha256}"
            output.out().print(said, markup=False, soft_wrap=True)
    output.say(
        f"images/s: measured now on one core, times the {parallel.cores()} cores at hand; decoding not included; -v shows origins"
    )
    output.say(
        "more: tailorbird backbones pull hf:onnx-community/dinov2-small, then train --backbone dinov2-small"
    )


@app.command()
def pull(
    reference: Annotated[
        str,
        typer.Argument(
            help="hf:OWNER/REPO, such as hf:onnx-community/dinov2-small, or keras:NAME, such as keras:Xception."
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(help="Side of the input in pixels; by default what the publisher says."),
    ] = None,
    file: Annotated[str | None, typer.Option(help="hf: which ONNX file of the repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="hf: branch, tag or commit.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="keras: a weights file (.weights.h5, .h5) to load instead of downloading."
        ),
    ] = None,
    with_classes: Annotated[
        bool,
        typer.Option(
            "--with-classes",
            help="keras: a model file that tells ImageNet's 1000 classes, instead of a backbone.",
        ),
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="with --with-classes: their names, as for `tailorbird import`; by default Keras downloads them."
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="with --with-classes: the model file; by default imagenet.onnx."
        ),
    ] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Bring a backbone from a hub or from Keras Applications, so that `train --backbone NAME` can use it."""
    from tailorbird.backbone import Backbone
    from tailorbird.engines.registry import ENGINES, engine_for_reference
    from tailorbird.errors import SettingsError

    engine = engine_for_reference(reference)
    schemes = ", ".join(f"{name}:NAME" for name in ENGINES)
    if not (with_classes and engine) and (with_classes or classes or target):
        raise SettingsError(
            f"--with-classes is for {schemes}, and --classes and --output require it; they do "
            f"nothing for {reference}"
        )
    if engine is not None:
        if file or revision:
            raise SettingsError(
                f"--file and --revision are for hf:OWNER/REPO; {reference} takes --size and "
                "--weights"
            )
        if with_classes:
            _with_classes(reference, target or Path("imagenet.onnx"), classes, weights, size, json)
            return
        with output.ProgressBar() as progress:
            path = engine.pull(reference, size=size, weights=weights, progress=progress)
    else:
        if weights:
            raise SettingsError(
                f"--weights is for {schemes}; {reference} takes --size, --file and --revision"
            )
        from tailorbird.backbone.hub import pull as fetch

        path = fetch(reference, size=size, file=file, revision=revision, say=output.say)
    info = Backbone(path).info
    if json:
        output.print_json({**info.as_dict(), "path": str(path), "bytes": info.file_bytes})
        return
    maps = "with heat maps" if info.grid else "without heat maps"
    output.out().print(
        f"{info.name}: {info.width} features at {info.size} px, {maps}, licence {info.licence}, {info.file_bytes / 1e6:.1f} MB",
        markup=False,
        soft_wrap=True,
    )
    output.out().print(
        f"use it: tailorbird train PHOTOS --backbone {path.name.removesuffix('.backbone.onnx')}",
        markup=False,
        soft_wrap=True,
    )


def _with_classes(
    reference: str,
    target: Path,
    classes: Path | None,
    weights: Path | None,
    size: int | None,
    json: bool,
) -> None:
    from tailorbird.cli.import_model import print_import
    from tailorbird.importing import import_application

    with output.ProgressBar() as progress:
        result = import_application(
            reference, target, classes=classes, weights=weights, size=size, progress=progress
        )
    if json:
        output.print_json(result.as_dict())
    else:
        print_import(result, verbose=False)
