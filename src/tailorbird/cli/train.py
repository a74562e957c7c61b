"""`tailorbird train`: photos in, one tested model file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.metrics import Scores
    from tailorbird.report import Format
    from tailorbird.training import TrainResult

_SEARCHED = "searched when not given"


_STAGES = {"scan": "read+embed", "corrections": "corrected", "views": "views", "head": "head", "labels": "labels"}
"""The stages worth a bar, and what it is called."""


class BarWatcher:
    """Shows training's stages as progress bars."""

    def __init__(self) -> None:
        self._bar = output.ProgressBar()

    def stage(self, name: str, total: int | None) -> None:
        """Begin a bar for a stage worth one."""
        if name in _STAGES:
            self._bar.start(_STAGES[name], total, unit={"head": "settings", "labels": "fits"}.get(name, "photos"))
        else:
            self._bar.stop()

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.advance(done, total)

    def note(self, text: str) -> None:
        """A line among the bars."""
        output.say(text)

    def stop(self) -> None:
        """Finish the last bar."""
        self._bar.stop()


def inner_sizes(value: str | None) -> tuple[int, ...] | None:
    """`100,50` as (100, 50), `0` as (). Raises SettingsError."""
    if value is None:
        return None
    from tailorbird.errors import SettingsError

    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingsError(f"--inner is {value!r}; give sizes of inner layers such as 100 or 100,50, or 0 for none")
    sizes = tuple(int(part) for part in parts)
    return () if sizes == (0,) else sizes


def train(
    photos: Annotated[Path, typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split].")],
    model: Annotated[Path, typer.Option("--output", "-o", help="The model file to write.")] = Path("model.onnx"),
    backbone: Annotated[str, typer.Option(help="A name from `tailorbird backbones`, or an .onnx file.")] = "pocket",
    views: Annotated[int, typer.Option(help="Views of each training photo; those after the first are augmented.")] = 1,
    inner: Annotated[
        str | None, typer.Option(help=f"Sizes of inner layers, 100 or 100,50; 0 for none; {_SEARCHED}.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help=f"Dropout, 0 to below 1; {_SEARCHED}.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help=f"Adam's learning rate; {_SEARCHED}.")] = None,
    l2: Annotated[float | None, typer.Option(help=f"Strength of the L2 penalty; {_SEARCHED}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="The most epochs; early stopping may end sooner.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a step.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before stopping early.")] = None,
    batch_norm: Annotated[
        bool | None, typer.Option("--batch-norm/--no-batch-norm", help="Batch normalisation in inner layers.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing, 0 to below 1.")] = None,
    class_weight: Annotated[str | None, typer.Option(help="`balanced` weighs rare classes up.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Learning-rate schedule: cosine or constant.")] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="At the end, train the chosen head on train and validation together.")
    ] = False,
    precision: Annotated[
        float, typer.Option(help="Precision wanted of sure answers; below the threshold it is unsure.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the split, the search and the fit.")] = 0,
    manifest: Annotated[Path | None, typer.Option(help="Also write the split that was used, as a CSV.")] = None,
    corrections: Annotated[
        str | None, typer.Option(help="Learn from people's corrections too: the database's file or postgresql:// URL.")
    ] = None,
    corrections_photos: Annotated[
        Path | None, typer.Option(help="The folder of their photos; for shop.db it is shop.photos when not given.")
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option("--suspects", help="Also look for labels that are probably wrong, and show them in the report."),
    ] = False,
    report: output.ReportPath = None,
    no_report: output.NoReport = False,
    report_format: output.ReportFormat = "html",
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Train a classifier: scan, split, embed, choose the head, calibrate, test once, write one ONNX file and a report.

    The report contains photos.
    """
    from tailorbird import training
    from tailorbird.errors import SettingsError

    if corrections_photos is not None and corrections is None:
        raise SettingsError("--corrections-photos is given without --corrections; name the database too")
    given = {
        "inner": inner_sizes(inner),
        "dropout": dropout,
        "learning_rate": learning_rate,
        "l2": l2,
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "batch_norm": batch_norm,
        "label_smoothing": label_smoothing,
        "class_weight": class_weight,
        "schedule": schedule,
    }
    wanted = output.wanted_report(report, no_report)
    fixed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    watcher = BarWatcher()
    try:
        result = training.train(
            photos,
            model,
            backbone=backbone,
            views=views,
            fixed=fixed,
            refit=refit,
            precision=precision,
            seed=seed,
            manifest=manifest,
            corrections=corrections,
            corrections_photos=corrections_photos,
            report=wanted,
            report_format=cast("Format", report_format),
            judge_labels=suspects,
            watcher=watcher,
        )
    finally:
        watcher.stop()
    if json:
        output.print_json(result.as_dict())
    else:
        print_result(result, verbose=verbose)
    output.say_report(None if json else result.report, result.report_error)


def print_result(result: TrainResult, *, verbose: bool) -> None:
    """What was chosen, how well it does, what was left out, where the model is."""
    console = output.out()
    members = result.search.members
    for number, settings in enumerate(member.settings for member in members):
        inner = " -> ".join(map(str, settings.inner)) or "none"
        lead = "Head:" if len(members) == 1 else f"Head, {number + 1} of the {len(members)} averaged:"
        console.print(
            f"{lead} inner {inner}, dropout {settings.dropout:g}, learning rate {settings.learning_rate:g}, L2 {settings.l2:g}, "
            f"{settings.views} view{'s' * (settings.views > 1)}, best at epoch {members[number].best_epoch}",
            soft_wrap=True,
        )
    again = "; then trained on train and validation together" if result.info.settings["refit"] else ""
    console.print(f"  chosen from {len(result.search.trials)} settings by validation log-loss{again}")
    print_scores(result.test, "Test", verbose=verbose)
    threshold = result.threshold
    if threshold.reached:
        console.print(
            f"Unsure below {threshold.value:.2f}: on validation, {output.percent(threshold.precision)} of the rest is right "
            f"({output.percent(threshold.wanted)} wanted), at {output.percent(threshold.coverage)} coverage.",
            soft_wrap=True,
        )
    else:
        console.print(
            f"No threshold reaches a precision of {output.percent(threshold.wanted)} on validation; the best is "
            f"{output.percent(threshold.precision)}, unsure below {threshold.value:.2f}.",
            soft_wrap=True,
        )
    if result.corrections is not None:
        console.print(result.corrections.sentence(), markup=False, soft_wrap=True)
    if result.left_out:
        reasons: dict[str, int] = {}
        for entry in result.left_out:
            reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
        console.print(f"Left out: {len(result.left_out)} photos")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[: None if verbose else 8]:
            console.print(f"  {count} {output.printable(reason)}", markup=False, soft_wrap=True)
    if verbose:
        for entry in result.left_out:
            console.print(output.printable(f"    {entry.path}: {entry.reason}"), markup=False, soft_wrap=True)
    parts = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in result.seconds.items() if name != "total" and seconds >= 0.05
    )
    console.print(
        f"Seconds: {result.seconds['total']:.1f} ({parts}); {result.embedded:,} photos embedded now", soft_wrap=True
    )
    console.print(f"Model: {result.model} ({result.model.stat().st_size / 1e6:.1f} MB)", markup=False, soft_wrap=True)


def print_scores(scores: Scores, title: str, *, verbose: bool) -> None:
    """Accuracy with its interval, then a row per class; with `verbose` the confusion matrix too."""
    from rich.table import Table

    console = output.out()
    low, high = scores.interval
    console.print(
        f"{title}: accuracy {output.percent(scores.accuracy)} (95% interval {output.percent(low)} to {output.percent(high)}) on {scores.n:,} photos; "
        f"always saying the commonest class would get {output.percent(scores.majority_baseline)}",
        soft_wrap=True,
    )
    sure = f", of which {output.percent(scores.sure_accuracy)} right" if scores.sure_accuracy is not None else ""
    console.print(
        f"  top-3 {output.percent(scores.top3)}, log-loss {scores.log_loss:.3f}, calibration error {scores.ece:.3f}, "
        f"sure on {output.percent(scores.coverage)}{sure}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("class", "precision", "recall", "F1", "photos", "most often mistaken for"):
        table.add_column(name, justify="left" if name in ("class", "most often mistaken for") else "right")
    for number, row in enumerate(scores.per_class):
        wrong = [
            (count, scores.classes[i]) for i, count in enumerate(scores.confusion[number]) if i != number and count
        ]
        worst = max(wrong, default=None)
        table.add_row(
            output.cell(row.label),
            f"{row.precision:.3f}",
            f"{row.recall:.3f}",
            f"{row.f1:.3f}",
            f"{row.support:,}",
            f"{output.cell(worst[1])} ({worst[0]})" if worst else "",
        )
    macro = scores.macro
    table.add_row(
        "[dim]macro[/dim]",
        f"{macro['precision']:.3f}",
        f"{macro['recall']:.3f}",
        f"{macro['f1']:.3f}",
        f"{scores.n:,}",
        "",
    )
    console.print(table)
    if verbose:
        print_confusion(scores)


def print_confusion(scores: Scores) -> None:
    """Counts: rows are true classes, columns predicted ones."""
    from rich.table import Table

    output.out().print("Confusion: rows true, columns predicted")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    for label in scores.classes:
        table.add_column(output.cell(label[:8]), justify="right")
    for number, row in enumerate(scores.confusion):
        cells = [
            f"[bold]{count}[/bold]" if i == number else (str(count) if count else "[dim].[/dim]")
            for i, count in enumerate(row)
        ]
        table.add_row(output.cell(scores.classes[number]), *cells)
    output.out().print(table)
