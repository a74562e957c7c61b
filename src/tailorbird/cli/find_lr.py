"""`tailorbird find-lr`: the learning-rate range test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.head_options import INNER_HELP, inner_layers

if TYPE_CHECKING:
    from tailorbird.experiments import RateFinding

ROWS = 8


def find_lr(
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    inner: Annotated[str, typer.Option(help=f"{INNER_HELP}.")] = "0",
    dropout: Annotated[float, typer.Option(help="Dropout, 0 to below 1.")] = 0.0,
    l2: Annotated[float, typer.Option(help="Strength of the L2 penalty.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Samples in a step.")] = 128,
    batch_norm: Annotated[
        bool, typer.Option("--batch-norm", help="Batch normalisation in inner layers.")
    ] = False,
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps between them.")] = 100,
    seeds: Annotated[int, typer.Option(help="Runs that are averaged.")] = 5,
    backbone: Annotated[
        str, typer.Option(help="A name from `tailorbird backbones`, or an .onnx file.")
    ] = "pocket",
    seed: Annotated[int, typer.Option(help="Seed of the split (as in `train`) and the runs.")] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Draw a picture: .svg, .png, or .html with the findings."
        ),
    ] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Suggest a learning rate: raise it step by step and see where the loss falls, is lowest, and explodes.

    The suggestion is a tenth of the rate with the lowest smoothed loss. Only photos that train are used.
    """
    from tailorbird import experiments
    from tailorbird.experiments import pictures

    if picture is not None:
        pictures.check_name(picture)
    experiments.check_outputs(photos, backbone, {"picture": picture})
    fixed: dict[str, Any] = {"inner": inner_layers(inner), "dropout": dropout, "l2": l2}
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
            backbone=backbone,
            progress=progress,
        )
    if picture is not None:
        pictures.draw_rates(result, picture)
        output.say(f"picture written: {picture}")
    if json:
        output.print_json(result.as_dict())
    else:
        _print(result)


def _print(result: RateFinding) -> None:
    from rich.table import Table

    from tailorbird.experiments.words import rate_lines

    console = output.out()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("learning rate", "loss"):
        table.add_column(name, justify="right")
    table.add_column("")
    widest = max(result.losses)
    # The flat beginning teaches nothing: rows from a hundredth of the suggestion on.
    places = [i for i, rate in enumerate(result.rates) if rate >= result.suggestion / 100] or [0]
    for i in places[:: max(1, len(places) // ROWS)]:
        bar = "▇" * max(1, round(30 * result.losses[i] / widest))
        table.add_row(f"{result.rates[i]:.2g}", f"{result.losses[i]:.3f}", bar)
    console.print(table)
    for line in rate_lines(result):
        console.print(output.printable(line), markup=False, soft_wrap=True)
    console.print("  " + output.printable(result.command), markup=False, soft_wrap=True)
