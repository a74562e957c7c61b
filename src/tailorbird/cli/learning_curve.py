"""`tailorbird learning-curve`: estimate whether more photos would help, and of which class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output, parsing
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    DropoutOption,
    FoldsOption,
    InnerOption,
    JsonOption,
    L2Option,
    MirrorOption,
    PhotosArgument,
    PictureOption,
    RepeatsOption,
    SplitSeedOption,
    on_device,
    reads_photos,
)

if TYPE_CHECKING:
    from tailorbird.experiments import ClassGain, LearningCurve


@on_device
@reads_photos
def learning_curve(
    data: Any,
    photos: PhotosArgument,
    inner: InnerOption = "0",
    dropout: DropoutOption = 0.0,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 0.001,
    l2: L2Option = 0.01,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class/--no-per-class", help="Also find which class needs photos the most."
        ),
    ] = True,
    folds: FoldsOption = 5,
    seeds: RepeatsOption = 2,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    seed: SplitSeedOption = 0,
    picture: PictureOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate the value of more photos.

    Shows the accuracy against the number of training photos, the accuracy expected from twice as
    many, and which class needs more photos. Cross-validated on train and validation; the test split
    is not used.
    """
    from tailorbird import experiments
    from tailorbird.experiments import plots

    experiments.check_outputs(photos, backbone, data=data, picture=picture)
    fixed: dict[str, Any] = {
        "inner": parsing.inner_layers(inner),
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
            data=data,
            backbone=backbone,
            mirror=mirror,
            progress=progress,
        )
    if picture is not None:
        plots.draw_curve(result, picture)
        output.say(f"picture written: {picture}")
    output.print_json_or_text(result, _print, json=json)
    if result.interrupted:
        raise typer.Exit(130)


def _print(result: LearningCurve) -> None:
    from tailorbird.experiments.summaries import curve_lines

    output.print_table(
        {"training photos": True, "accuracy %": True, "balanced %": True},
        [
            (
                f"{point.photos:,}",
                f"{100 * point.accuracy:.1f} ± {100 * point.spread:.1f}",
                f"{100 * point.balanced_accuracy:.1f}",
            )
            for point in result.points
        ],
    )
    if result.classes:
        lost = "points lost with only a quarter of them (95%)"
        columns = {"class": False, "photos": True, "recall %": True, lost: True,
                   "expected from twice": True, "p": True}  # fmt: skip
        output.print_table(columns, map(_class_row, result.classes))
        if result.untried:
            output.line(
                f"  the {result.untried} other classes (higher recall, or a handful of photos) "
                "were not tried"
            )
    for line in curve_lines(result):
        output.line(line)
    output.line(
        f"{result.folds} folds x {result.seeds} seeds of the {result.photos:,} photos of train and "
        f"validation; the {result.test_photos:,} test photos were not used. {result.fits} fits in "
        f"{output.duration(result.seconds)}."
    )


def _class_row(gain: ClassGain) -> tuple[str, ...]:
    low, high = gain.interval
    expected = "" if gain.expected is None else f"{100 * gain.expected:+.1f}"
    return (
        gain.label,
        f"{gain.photos:,}",
        f"{100 * gain.recall:.1f}",
        f"{100 * gain.cost:.1f} ({100 * low:.1f} to {100 * high:.1f})",
        "may be chance" if gain.noise else expected,
        f"{gain.p:.3f}",
    )
