"""`tailorbird sweep`: compare settings of the head by cross-validation on cached features."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    FoldsOption,
    JsonOption,
    MirrorOption,
    PhotosArgument,
    PictureOption,
    RayOption,
    RepeatsOption,
    SplitSeedOption,
    WorkersOption,
    on_device,
    reads_photos,
)
from tailorbird.cli.parsing import alternatives, inner_alternatives

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from tailorbird.experiments import FoldScores, Standing, SweepResult

SHOWN = 20
"""Maximum number of settings printed without --verbose."""

LINE_SECONDS = 10.0
"""Seconds between progress lines if standard error is not a terminal."""

ALTERNATIVES = "Alternatives (separated by commas)"


def _values(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=ALTERNATIVES)


_LearningRate = Annotated[str | None, _values("Learning rates, such as 0.0001,0.001,0.01.")]
_Inner = Annotated[
    str | None,
    _values(
        "Inner layers: 0 for none, 100 for one, 100x50 for two; alternatives by commas, such "
        "as 0,100,100x50."
    ),
]
_Dropout = Annotated[str | None, _values("Dropouts, such as 0,0.2,0.5.")]
_L2 = Annotated[str | None, _values("Strengths of the L2 penalty, such as 0,0.001.")]
_Views = Annotated[str | None, _values("Numbers of views, such as 1,4; more than 1 augments.")]
_BatchNorm = Annotated[str | None, _values("Batch normalisation: off,on.")]
_LabelSmoothing = Annotated[str | None, _values("Label smoothing, such as 0,0.1.")]
_Epochs = Annotated[str | None, _values("Maximum numbers of epochs; by default as in `train`.")]
_BatchSize = Annotated[str | None, _values("Batch sizes, such as 32,128.")]
_ClassWeight = Annotated[str | None, _values("Class weights: none,balanced.")]
_Schedule = Annotated[str | None, _values("Schedules: cosine,constant.")]
_Grid = Annotated[
    bool,
    typer.Option(
        "--grid/--one-at-a-time",
        help="Try every combination; by default one setting is varied at a time (learning "
        "rate, inner, dropout, the others), keeping the best: 10 settings instead of 64.",
    ),
]
_Optuna = Annotated[
    int | None,
    typer.Option(
        help="Number of Optuna trials, between the lowest and highest values given (needs "
        "the extra `optuna`)."
    ),
]
_Metric = Annotated[str, typer.Option(help="Rank settings by accuracy or log-loss.")]
_Csv = Annotated[
    Path | None, typer.Option("--csv", help="Write the result of every fit to a CSV file.")
]


@on_device
@reads_photos
def sweep(
    data: Any,
    photos: PhotosArgument,
    learning_rate: _LearningRate = None,
    inner: _Inner = None,
    dropout: _Dropout = None,
    l2: _L2 = None,
    views: _Views = None,
    batch_norm: _BatchNorm = None,
    label_smoothing: _LabelSmoothing = None,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    class_weight: _ClassWeight = None,
    schedule: _Schedule = None,
    grid: _Grid = False,
    optuna: _Optuna = None,
    folds: FoldsOption = 5,
    seeds: RepeatsOption = 3,
    metric: _Metric = "accuracy",
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    seed: SplitSeedOption = 0,
    picture: PictureOption = None,
    csv: _Csv = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Compare settings of the head by cross-validation.

    Plain `train` is scored on the same folds; the command to use is printed last. Uses train and
    validation; the test split is not used. By default it tries learning rates 0.0001
    to 0.1, inner layers 0 to 1000 and dropout 0 to 0.8. Differences that may be chance are marked.
    Ctrl-C prints the results so far.
    """
    from tailorbird import experiments

    given = {
        "learning_rate": alternatives("--learning-rate", learning_rate, float),
        "inner": inner_alternatives(inner),
        "dropout": alternatives("--dropout", dropout, float),
        "l2": alternatives("--l2", l2, float),
        "views": alternatives("--views", views, int),
        "batch_norm": alternatives("--batch-norm", batch_norm, {"off": False, "on": True}),
        "label_smoothing": alternatives("--label-smoothing", label_smoothing, float),
        "epochs": alternatives("--epochs", epochs, int),
        "batch_size": alternatives("--batch-size", batch_size, int),
        "class_weight": alternatives(
            "--class-weight", class_weight, {"none": None, "balanced": "balanced"}
        ),
        "schedule": alternatives(
            "--schedule", schedule, {"cosine": "cosine", "constant": "constant"}
        ),
    }
    run: Any = experiments.sweep
    if ray is not None or workers is not None:
        from tailorbird.cluster import sweeping
        from tailorbird.cluster.running import RaySettings

        run = partial(sweeping.sweep, where=RaySettings(ray, workers))
    experiments.check_outputs(photos, backbone, data=data, picture=picture, csv=csv)
    board = Board()
    progress = output.ProgressBar()
    try:
        result = run(
            photos,
            {name: values for name, values in given.items() if values is not None} or None,
            grid=grid,
            optuna=optuna,
            folds=folds,
            seeds=seeds,
            seed=seed,
            data=data,
            metric=metric,
            backbone=backbone,
            mirror=mirror,
            progress=progress,
            on_fit=lambda standing: board.show(standing, progress),
        )
    finally:
        progress.stop()
        board.stop()
    _write_files(result, csv, picture)
    output.print_json_or_text(result, _print, json=json)
    if result.interrupted:
        raise typer.Exit(130)


def _write_files(result: SweepResult, csv: Path | None, picture: Path | None) -> None:
    """Write the table of fits and the plot, where they are wanted."""
    if csv is not None:
        result.write_fits(csv)
        output.say(f"every fit written: {csv}")
    if picture is not None:
        from tailorbird.experiments import plots

        plots.draw_sweep(result, picture)
        output.say(f"picture written: {picture}")


class Board:
    """Show the results so far: a live table on a terminal, else a line from time to time."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._last = 0.0

    def show(self, standing: Standing, progress: output.ProgressBar) -> None:
        """Update the table."""
        progress.stop()
        if output.STATE.quiet:
            return
        left = (
            f"{standing.done} of {standing.total} fits, about "
            f"{output.duration(standing.seconds_left)} left"
        )
        if not sys.stderr.isatty():
            self._show_line(standing, left)
            return
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=output.err(), refresh_per_second=5, transient=True)
            self._live.start()
        stage = standing.stage.replace("_", " ")
        settings = standing.settings[:SHOWN]
        self._live.update(table(settings, standing.varied, f"{left}; now: {stage}"))

    def _show_line(self, standing: Standing, left: str) -> None:
        now = time.monotonic()
        if standing.done in (1, standing.total) or now - self._last > LINE_SECONDS:
            self._last = now
            best = standing.settings[0]
            accuracy = output.percent(best.accuracy)
            output.say(f"{left}; best so far: {best.name}, {accuracy}")

    def stop(self) -> None:
        """Remove the table; the final one is printed on standard output."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _with_spread(mean: float, spread: float, form: str) -> str:
    if mean != mean:
        return "diverged"
    return f"{mean:{form}} ± {spread:{form}}" if spread == spread else f"{mean:{form}}"


def table(rows: Sequence[FoldScores], varied: Sequence[str], caption: str | None = None) -> Table:
    """Return a table of settings and plain `train`, with mean and spread of their scores."""
    from rich.table import Table

    from tailorbird.experiments import SettingScore
    from tailorbird.experiments.alternatives import NAMES, value_text

    noted = any(score.pruned or score.failed for score in rows)
    gap = (0, 1 if noted else 2, 0, 0)
    found = Table(box=None, pad_edge=False, padding=gap, caption=caption, caption_justify="left")
    scores = ("accuracy %", "log-loss")
    for name in (*(NAMES.get(name, name) for name in varied), *scores, "fits", "s a fit"):
        found.add_column(name, justify="right", no_wrap=name in scores)
    if noted:
        found.add_column("")
    for score in rows:
        note = "given up" if score.pruned else (f"{score.failed} diverged" if score.failed else "")
        found.add_row(
            *(
                [value_text(name, getattr(score.settings, name)) for name in varied]
                if isinstance(score, SettingScore)
                else [score.name, *[""] * (len(varied) - 1)]
            ),
            _with_spread(100 * score.accuracy, 100 * score.accuracy_spread, ".1f"),
            _with_spread(score.log_loss, score.log_loss_spread, ".3f"),
            str(score.fits),
            f"{score.seconds:.2f}" if score.seconds == score.seconds else "",
            *([f"[dim]{note}[/dim]"] if note else []),
        )
    return found


def _print(result: SweepResult) -> None:
    from tailorbird.experiments.summaries import sweep_lines

    shown = result.settings if output.STATE.verbose else result.settings[:SHOWN]
    rows = sorted(
        [*([result.default] if result.default.fits else []), *shown],
        key=lambda score: (score.pruned, -score.merit(result.metric)),
    )
    output.out().print(table(rows, result.varied))
    if len(shown) < len(result.settings):
        output.line(f"  ... and {len(result.settings) - len(shown)} more; -v shows all")
    output.line(
        f"Mean ± standard deviation over {result.folds} folds x {result.seeds} seeds of the "
        f"{result.photos:,} photos of train and validation; the {result.test_photos:,} test photos "
        "were not used."
    )
    for line in sweep_lines(result):
        output.line(f"- {line}")
    rate = 60 * len(result.fits) / max(result.seconds, 1e-9)
    ended = "stopped by Ctrl-C after " if result.interrupted else ""
    plain = "plain train, without further options"
    output.line(
        f"{ended}{len(result.fits)} fits in {output.duration(result.seconds)}, {rate:,.0f} a "
        f"minute. Best: {plain if result.recommended == 'default' else result.chosen.name}"
    )
    output.line(f"  {output.runnable(result.command)}")
