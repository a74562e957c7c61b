"""`tailorbird evaluate`: score a model on labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    AllOption,
    FormatOption,
    JsonOption,
    ModelArgument,
    NoReportOption,
    PhotosArgument,
    ReportOption,
    SplitOption,
    on_device,
    reads_photos,
)
from tailorbird.cli.results import print_confusion, print_scores

if TYPE_CHECKING:
    from tailorbird.evaluation import Evaluation
    from tailorbird.report import Format


@on_device
@reads_photos
def evaluate(
    data: Any,
    model: ModelArgument,
    photos: PhotosArgument,
    split: SplitOption = None,
    every: AllOption = False,
    strangers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photos that are none of the classes: how many are refused, and how "
            "well they are told from the others."
        ),
    ] = None,
    report: ReportOption = None,
    no_report: NoReportOption = False,
    report_format: FormatOption = "html",
    json: JsonOption = False,
) -> None:
    """Score a model on labelled photos that it has not seen.

    Photos that it was trained or chosen on are set aside, unless --all is given. Shows the accuracy
    with its interval, the scores per class, the confusion matrix and the worst mistakes, and writes
    a report. Exits 3 when photos had to be left out.
    """
    from tailorbird import evaluation

    with output.ProgressBar() as progress:
        result = evaluation.evaluate(
            model,
            photos,
            split=split,
            include_seen=every,
            strangers=strangers,
            data=data,
            report=output.requested_report(report, no_report),
            report_format=cast("Format", report_format),
            progress=progress,
        )
    output.print_left_out(result.left_out)
    output.print_seen(result.seen)
    if result.trained_on:
        output.say(
            f"warning: the model was trained on {result.trained_on:,} of these "
            f"{result.scores.n:,} photos; expect lower scores on new photos"
        )
    if result.copies:
        what = "photo is a copy" if len(result.copies) == 1 else "photos are copies"
        output.say(
            f"warning: {len(result.copies):,} scored {what} of photos that the model has seen, "
            f"such as {result.copies[0]}; expect lower scores on new photos"
        )
    everything = "Photos new to the model" if result.seen else "All photos"
    title = f"Split {result.split}" if result.split else everything
    if json:
        output.print_json(result.as_dict())
    else:
        print_scores(result.scores, title)
        print_confusion(result.scores)
        if result.strangers is not None:
            output.line(f"{result.strangers.sentence()}.")
        _print_mistakes(result)
    output.print_report_path(None if json else result.report, result.report_error)
    raise typer.Exit(3 if result.left_out else 0)


def _print_mistakes(result: Evaluation) -> None:
    shown = result.mistakes if output.STATE.verbose else result.mistakes[: output.SHOWN]
    if shown:
        output.line(f"Worst of {len(result.mistakes)} mistakes (most confident first):")
    for mistake in shown:
        output.line(
            f"  {mistake.probability:6.1%} sure of {mistake.predicted}, labelled {mistake.label}: "
            f"{mistake.path}"
        )
