"""`tailorbird learning-curve`: would more photos help, and of which class?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.head_options import INNER_HELP, inner_layers

if TYPE_CHECKING:
    from tailorbird.experiments import LearningCurve


def learning_curve(
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    inner: Annotated[str, typer.Option(help=f"{INNER_HELP}.")] = "0",
    dropout: Annotated[float, typer.Option(help="Dropout, 0 to below 1.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = 0.001,
    l2: Annotated[float, typer.Option(help="Strength of the L2 penalty.")] = 0.01,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class/--no-per-class", help="Also find which class's photos are worth most."
        ),
    ] = True,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.")] = 5,
    seeds: Annotated[
        int, typer.Option(help="Rounds of it, each with other folds, parts and first weights.")
    ] = 2,
    backbone: Annotated[
        str, typer.Option(help="A name from `tailorbird backbones`, or an .onnx file.")
    ] = "pocket",
    seed: Annotated[
        int, typer.Option(help="Seed of the split (as in `train`), folds, parts and fits.")
    ] = 0,
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
    """Accuracy against the number of training photos, what twice as many would give, and which class to photograph.

    Cross-validated on train and validation; the test split is not touched.
    """
    from tailorbird import experiments
    from tailorbird.experiments import pictures

    if picture is not None:
        pictures.check_name(picture)
    experiments.check_outputs(photos, backbone, {"picture": picture})
    fixed: dict[str, Any] = {
        "inner": inner_layers(inner),
        "dropout": dropout,
        "learning_rate": learning_rate,
        "l2": l2,
    }
    with output.ProgressBar() as progress:
        result = experiments.learning_curve(
            photos,
            fixed=fixed,
            per_class=per_class,
            folds=folds,
            seeds=seeds,
            seed=seed,
            backbone=backbone,
            progress=progress,
        )
    if picture is not None:
        pictures.draw_curve(result, picture)
        output.say(f"picture written: {picture}")
    if json:
        output.print_json(result.as_dict())
    else:
        _print(result)
    if result.interrupted:
        raise typer.Exit(130)


def _print(result: LearningCurve) -> None:
    from rich.table import Table

    from tailorbird.experiments.words import curve_lines

    console = output.out()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("training photos", "accuracy %", "balanced %"):
        table.add_column(name, justify="right")
    for point in result.points:
        spread = f"{100 * point.accuracy:.1f} ± {100 * point.spread:.1f}"
        table.add_row(f"{point.photos:,}", spread, f"{100 * point.balanced_accuracy:.1f}")
    console.print(table)
    if result.classes:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class")
        for name in (
            "photos",
            "recall %",
            "points lost without ¾ of them (95%)",
            "expected from twice",
            "p",
        ):
            table.add_column(name, justify="right")
        for gain in result.classes:
            low, high = gain.interval
            table.add_row(
                output.cell(gain.label),
                f"{gain.photos:,}",
                f"{100 * gain.recall:.1f}",
                f"{100 * gain.cost:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                "may be chance"
                if gain.noise
                else ("" if gain.expected is None else f"{100 * gain.expected:+.1f}"),
                f"{gain.p:.3f}",
            )
        console.print(table)
        if result.untried:
            console.print(
                f"  the {result.untried} other classes, which have a higher recall, were not tried"
            )
    for line in curve_lines(result):
        console.print(output.printable(line), markup=False, soft_wrap=True)
    console.print(
        f"{result.folds} folds x {result.seeds} seeds of the {result.photos:,} photos of train and validation; "
        f"the {result.test_photos:,} test photos were not touched. {result.fits} fits in {output.duration(result.seconds)}.",
        soft_wrap=True,
    )
