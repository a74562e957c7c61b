"""`tailorbird evaluate`: score a model on labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tailorbird.cli import output
from tailorbird.cli.results import print_confusion, print_scores

if TYPE_CHECKING:
    from tailorbird.evaluation import Evaluation
    from tailorbird.report import Format

SHOWN = 10


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file made by `tailorbird train`.")],
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Score this split only; by default test where there is one, else everything."
        ),
    ] = None,
    report: output.ReportPath = None,
    no_report: output.NoReport = False,
    report_format: output.ReportFormat = "html",
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Accuracy with its interval, scores per class, confusion matrix, worst mistakes; and a report, which contains photos.

    Exits 3 when photos had to be left out.
    """
    from tailorbird import evaluation

    wanted = output.wanted_report(report, no_report)
    with output.ProgressBar() as progress:
        result = evaluation.evaluate(
            model,
            photos,
            split=split,
            report=wanted,
            report_format=cast("Format", report_format),
            progress=progress,
        )
    for path, reason in result.left_out if verbose else result.left_out[:SHOWN]:
        output.say(f"left out: {path}: {reason}")
    if len(result.left_out) > SHOWN and not verbose:
        output.say(f"left out: {len(result.left_out) - SHOWN} more; -v shows all")
    if result.trained_on:
        output.say(
            f"warning: the model was trained on {result.trained_on:,} of these {result.scores.n:,} photos; such scores say nothing about new ones"
        )
    if json:
        output.print_json(result.as_dict())
    else:
        print_scores(
            result.scores, f"Split {result.split}" if result.split else "All photos", verbose=False
        )
        print_confusion(result.scores)
        _print_mistakes(result, everything=verbose)
    output.say_report(None if json else result.report, result.report_error)
    raise typer.Exit(3 if result.left_out else 0)


def _print_mistakes(result: Evaluation, *, everything: bool) -> None:
    console = output.out()
    shown = result.mistakes if everything else result.mistakes[:SHOWN]
    if shown:
        console.print(f"Worst of {len(result.mistakes)} mistakes (surest first):")
    for mistake in shown:
        line = f"  {mistake.probability:6.1%} sure of {mistake.predicted}, labelled {mistake.label}: {mistake.path}"
        console.print(output.printable(line), markup=False, soft_wrap=True)
