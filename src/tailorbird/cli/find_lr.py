"""`tailorbird find-lr`: suggest a learning rate by the learning-rate range test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output, parsing
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    DropoutOption,
    InnerOption,
    JsonOption,
    L2Option,
    MirrorOption,
    PhotosArgument,
    PictureOption,
    SplitSeedOption,
    on_device,
    reads_photos,
)

if TYPE_CHECKING:
    from tailorbird.experiments import RateFinding

ROWS = 8
"""Approximate number of rows of the table."""


@on_device
@reads_photos
def find_lr(
    data: Any,
    photos: PhotosArgument,
    inner: InnerOption = "0",
    dropout: DropoutOption = 0.0,
    l2: L2Option = 0.01,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 128,
    batch_norm: Annotated[
        bool, typer.Option("--batch-norm", help="Batch normalisation in inner layers.")
    ] = False,
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 100,
    seeds: Annotated[int, typer.Option(help="Number of runs to average.")] = 5,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    seed: SplitSeedOption = 0,
    picture: PictureOption = None,
    json: JsonOption = False,
) -> None:
    """Suggest a learning rate for the head.

    The learning rate rises step by step; the suggestion is a tenth of the one with the lowest
    smoothed loss. Only training photos are used.
    """
    from tailorbird import experiments
    from tailorbird.experiments import plots

    experiments.check_outputs(photos, backbone, data=data, picture=picture)
    fixed: dict[str, Any] = {"inner": parsing.inner_layers(inner), "dropout": dropout, "l2": l2}
    fixed |= {"batch_size": batch_size} if batch_size != 128 else {}
    fixed |= {"batch_norm": True} if batch_norm else {}
    with output.ProgressBar() as progress:
        result = experiments.find_learning_rate(
            photos,
            fixed=fixed,
            lowest=lowest,
            highest=highest,
            steps=steps,
            seeds=seeds,
            seed=seed,
            data=data,
            backbone=backbone,
            mirror=mirror,
            progress=progress,
        )
    if picture is not None:
        plots.draw_rates(result, picture)
        output.say(f"picture written: {picture}")
    output.print_json_or_text(result, _print, json=json)


def _print(result: RateFinding) -> None:
    from tailorbird.experiments.summaries import rate_lines

    widest = max(result.losses)
    # The flat beginning is not informative: show rows from a hundredth of the suggestion on.
    places = [i for i, rate in enumerate(result.rates) if rate >= result.suggestion / 100] or [0]
    rows = [
        (
            f"{result.rates[i]:.2g}",
            f"{result.losses[i]:.3f}",
            "▇" * max(1, round(30 * result.losses[i] / widest)),
        )
        for i in places[:: max(1, len(places) // ROWS)]
    ]
    output.print_table({"learning rate": True, "loss": True, "": False}, rows)
    for line in rate_lines(result):
        output.line(line)
    output.line(f"  {output.runnable(result.command)}")
