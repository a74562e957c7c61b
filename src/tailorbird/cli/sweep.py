"""`tailorbird sweep`: cross-validate alternatives of the head's settings on cached features."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.head_options import INNER_HELP, inner_alternatives

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from tailorbird.experiments import SettingScore, Standing, SweepResult

SHOWN = 20
LINE_SECONDS = 10.0
"""Where there is no terminal, a line on how far it is comes about so often."""


def _numbers(
    option: str, value: str | None, kind: Callable[[str], Any], valid: str
) -> list[Any] | None:
    """A comma-separated list."""
    if value is None:
        return None
    from tailorbird.errors import SettingsError

    try:
        return [kind(part.strip()) for part in value.split(",")]
    except ValueError:
        raise SettingsError(f"{option} is {value!r}; give {valid}, separated by commas") from None


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    """A parser of words that stand for values."""

    def parse(text: str) -> Any:
        if text not in choices:
            raise ValueError
        return choices[text]

    return parse


_SWITCH = _one_of({"off": False, "on": True})
_SCHEDULE = _one_of({"cosine": "cosine", "constant": "constant"})
_WEIGHTS = _one_of({"none": None, "balanced": "balanced"})
_FLOATS = "numbers such as 0.001,0.01"
_WHOLE = "whole numbers such as 10,30"


def sweep(
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    learning_rate: Annotated[
        str | None, typer.Option(help="Learning rates, such as 0.0001,0.001,0.01.")
    ] = None,
    inner: Annotated[
        str | None,
        typer.Option(help=f"{INNER_HELP}; alternatives by commas, such as 0,100,100x50."),
    ] = None,
    dropout: Annotated[str | None, typer.Option(help="Dropouts, such as 0,0.2,0.5.")] = None,
    l2: Annotated[
        str | None, typer.Option(help="Strengths of the L2 penalty, such as 0,0.001,0.01.")
    ] = None,
    views: Annotated[
        str | None, typer.Option(help="Numbers of views, such as 1,4; more than 1 augments.")
    ] = None,
    batch_norm: Annotated[str | None, typer.Option(help="Batch normalisation: off,on.")] = None,
    label_smoothing: Annotated[
        str | None, typer.Option(help="Label smoothing, such as 0,0.1.")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Most epochs; as many as `train` takes when not given.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Samples in a step, such as 32,128.")
    ] = None,
    class_weight: Annotated[str | None, typer.Option(help="Class weights: none,balanced.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Learning-rate schedules: cosine,constant.")
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid/--one-at-a-time",
            help="Every combination; by default one setting is varied at a time (learning rate, inner, dropout, the others), carrying "
            "on the best: 10 settings rather than 64, and a sentence on each.",
        ),
    ] = False,
    optuna: Annotated[
        int | None,
        typer.Option(
            help="So many settings chosen by Optuna, between the lowest and highest given; tailorbird[optuna]."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.")] = 5,
    seeds: Annotated[
        int, typer.Option(help="Rounds of it, each with other folds and first weights.")
    ] = 3,
    metric: Annotated[str, typer.Option(help="Rank by accuracy or log-loss.")] = "accuracy",
    backbone: Annotated[
        str, typer.Option(help="A name from `tailorbird backbones`, or an .onnx file.")
    ] = "pocket",
    seed: Annotated[
        int, typer.Option(help="Seed of the split (as in `train`), the folds and the fits.")
    ] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Draw a picture: .svg, .png, or .html with the findings."
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write every single fit to this CSV.")
    ] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Which learning rate, inner layers, dropout? Cross-validated on train and validation; the test split is not touched.

    With no alternatives given: learning rates 0.0001 to 0.1, inner layers 0 to 1000, dropout 0 to 0.8. Differences that may be
    chance are called so. Ctrl-C prints what is known so far.
    """
    from tailorbird import experiments
    from tailorbird.experiments import pictures

    given = {
        "learning_rate": _numbers("--learning-rate", learning_rate, float, _FLOATS),
        "inner": inner_alternatives(inner),
        "dropout": _numbers("--dropout", dropout, float, _FLOATS),
        "l2": _numbers("--l2", l2, float, _FLOATS),
        "views": _numbers("--views", views, int, _WHOLE),
        "batch_norm": _numbers("--batch-norm", batch_norm, _SWITCH, "off, on or both"),
        "label_smoothing": _numbers("--label-smoothing", label_smoothing, float, _FLOATS),
        "epochs": _numbers("--epochs", epochs, int, _WHOLE),
        "batch_size": _numbers("--batch-size", batch_size, int, _WHOLE),
        "class_weight": _numbers(
            "--class-weight", class_weight, _WEIGHTS, "none, balanced or both"
        ),
        "schedule": _numbers("--schedule", schedule, _SCHEDULE, "cosine, constant or both"),
    }
    alternatives = {name: values for name, values in given.items() if values is not None}
    if picture is not None:
        pictures.check_name(picture)
    experiments.check_outputs(photos, backbone, {"picture": picture, "CSV": csv})
    board = Board()
    progress = output.ProgressBar()
    try:
        result = experiments.sweep(
            photos,
            alternatives or None,
            grid=grid,
            optuna=optuna,
            folds=folds,
            seeds=seeds,
            seed=seed,
            metric=metric,  # type: ignore[arg-type]  # the library checks it
            backbone=backbone,
            progress=progress,
            on_fit=lambda standing: board.show(standing, progress),
        )
    finally:
        progress.stop()
        board.stop()
    if csv is not None:
        _write_csv(csv, result)
        output.say(f"every fit written: {csv}")
    if picture is not None:
        pictures.draw_sweep(result, picture)
        output.say(f"picture written: {picture}")
    if json:
        output.print_json(result.as_dict())
    else:
        _print(result, everything=verbose)
    if result.interrupted:
        raise typer.Exit(130)


class Board:
    """The standings while the sweep runs: a live table on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._said = 0.0

    def show(self, standing: Standing, progress: output.ProgressBar) -> None:
        """Bring the table up to date."""
        progress.stop()
        if output.STATE.quiet:
            return
        left = f"{standing.done} of {standing.total} fits, about {output.duration(standing.seconds_left)} left"
        if not sys.stderr.isatty():
            now = time.monotonic()
            if (
                standing.done == 1
                or standing.done == standing.total
                or now - self._said > LINE_SECONDS
            ):
                self._said = now
                best = standing.settings[0]
                output.say(f"{left}; best so far: {best.name}, {_accuracy(best)}")
            return
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=output.err(), refresh_per_second=5, transient=True)
            self._live.start()
        stage = standing.stage.replace("_", " ")
        self._live.update(
            table(standing.settings[:SHOWN], standing.varied, f"{left}; now: {stage}")
        )

    def stop(self) -> None:
        """Take the table away; the final one goes to standard output."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _accuracy(score: SettingScore) -> str:
    return f"{100 * score.accuracy:.1f}%"


def _with_spread(mean: float, spread: float, form: str) -> str:
    if mean != mean:
        return "diverged"
    return f"{mean:{form}} ± {spread:{form}}" if spread == spread else f"{mean:{form}}"


def table(
    settings: Sequence[SettingScore], varied: Sequence[str], caption: str | None = None
) -> Table:
    """Settings, best first, a column for each thing varied, with mean and spread."""
    from rich.table import Table

    from tailorbird.experiments.plan import WORDS, value_text

    noted = any(score.pruned or score.failed for score in settings)
    gap = (0, 1 if noted else 2, 0, 0)
    found = Table(box=None, pad_edge=False, padding=gap, caption=caption, caption_justify="left")
    for name in (
        *(WORDS.get(name, name) for name in varied),
        "accuracy %",
        "log-loss",
        "fits",
        "s a fit",
    ):
        found.add_column(name, justify="right", no_wrap=name in ("accuracy %", "log-loss"))
    if noted:
        found.add_column("")
    for score in settings:
        note = "given up" if score.pruned else (f"{score.failed} diverged" if score.failed else "")
        found.add_row(
            *(value_text(name, getattr(score.settings, name)) for name in varied),
            _with_spread(100 * score.accuracy, 100 * score.accuracy_spread, ".1f"),
            _with_spread(score.log_loss, score.log_loss_spread, ".3f"),
            str(score.fits),
            f"{score.seconds:.2f}" if score.seconds == score.seconds else "",
            *([f"[dim]{note}[/dim]"] if note else []),
        )
    return found


def _print(result: SweepResult, *, everything: bool) -> None:
    from tailorbird.experiments.words import sweep_lines

    console = output.out()
    shown = result.settings if everything else result.settings[:SHOWN]
    console.print(table(shown, result.varied))
    if len(shown) < len(result.settings):
        console.print(f"  ... and {len(result.settings) - len(shown)} more; -v shows all")
    console.print(
        f"Mean ± standard deviation over {result.folds} folds x {result.seeds} seeds of the {result.photos:,} photos of train and validation; "
        f"the {result.test_photos:,} test photos were not touched.",
        soft_wrap=True,
    )
    for line in sweep_lines(result):
        console.print("- " + output.printable(line), markup=False, soft_wrap=True)
    rate = 60 * len(result.fits) / max(result.seconds, 1e-9)
    ended = "stopped by Ctrl-C after " if result.interrupted else ""
    console.print(
        f"{ended}{len(result.fits)} fits in {output.duration(result.seconds)}, {rate:,.0f} a minute. Chosen: {result.chosen.name}",
        soft_wrap=True,
    )
    console.print("  " + output.printable(result.command), markup=False, soft_wrap=True)


def _write_csv(path: Path, result: SweepResult) -> None:
    import csv
    import io

    from tailorbird.files import write_text

    rows = result.fit_rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
