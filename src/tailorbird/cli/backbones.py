"""`tailorbird backbones`: what is at hand, and `backbones pull` for more."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import output

app = typer.Typer(
    help="List the backbones at hand with size and speed; `pull` brings more.", invoke_without_command=True
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
            {**info.as_dict(), "path": str(info.path), "bytes": info.file_bytes, "images_per_second": round(speed, 1)}
            for info, speed in rows
        ]
        output.print_json({"backbones": found})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("name", "MB", "input", "features", "heat maps", "images/s", "licence"):
        table.add_column(
            name, justify="right" if name in ("MB", "input", "features", "images/s") else "left", no_wrap=name == "name"
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
    output.say("more: tailorbird backbones pull hf:onnx-community/dinov2-small, then train --backbone dinov2-small")


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="hf:OWNER/REPO, such as hf:onnx-community/dinov2-small.")],
    size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels; by default what the repository says.")
    ] = None,
    file: Annotated[str | None, typer.Option(help="Which ONNX file of the repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Download a backbone from a hub and adapt it, so that `train --backbone NAME` can use it."""
    from tailorbird.backbone import Backbone
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
