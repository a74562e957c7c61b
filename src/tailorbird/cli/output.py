"""What every command prints with: results on standard output, everything meant for people's eyes meanwhile on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console


@dataclass
class _State:
    """How much to say."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


STATE = _State()


# A callback's result becomes the parameter's value.
def _quiet(value: bool) -> bool:
    STATE.quiet = STATE.quiet or value
    return value


def _verbose(value: bool) -> bool:
    STATE.verbose = STATE.verbose or value
    if value:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return value


def _debug(value: bool) -> bool:
    STATE.debug = STATE.debug or value
    if value:
        logging.basicConfig(
            level=logging.DEBUG, format="%(name)s: %(message)s", stream=sys.stderr, force=True
        )
    return value


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_quiet, help="Print results and errors only.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_verbose, help="Say more about what is done.")
]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_debug, help="Show tracebacks and log messages.")
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Read what links in a folder lead to outside it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

ReportPath = Annotated[
    Path | None,
    typer.Option("--report", help="Where the report goes; by default beside the model."),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.")]
ReportFormat = Annotated[
    str,
    typer.Option(
        "--format", help="The report's format: html, markdown (a model card) or json (the numbers)."
    ),
]


def wanted_report(path: Path | None, none: bool) -> Path | bool:
    """What --report and --no-report ask for. Raises SettingsError when both are given."""
    if path is not None and none:
        from tailorbird.errors import SettingsError

        raise SettingsError("--report and --no-report were both given; choose one")
    return path if path is not None else not none


def say_report(path: Path | None, problem: str | None) -> None:
    """Where the report is; or, on standard error whatever is silenced, why there is none although the rest went well."""
    if problem is not None:
        complain(f"warning: the report could not be written: {problem}")
    elif path is not None:
        out().print(f"Report: {printable(str(path))}", markup=False, soft_wrap=True)


def out() -> Console:
    """The console of results."""
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def err() -> Console:
    """The console of everything else."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """A line for a person, on standard error; nothing with --quiet."""
    if not STATE.quiet:
        err().print(text, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """An error, which may list examples on further lines."""
    print(
        "tailorbird: " + "\n".join(printable(line) for line in text.splitlines()), file=sys.stderr
    )


def print_json(value: Any) -> None:
    """One JSON object on one line of plain ASCII."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text that any UTF-8 terminal or parser takes, whatever bytes a file name holds."""
    if text.isprintable():
        return text
    from tailorbird.dataset import printable as escape

    return escape(text)


def cell(text: str) -> str:
    """Text for a rich table, where square brackets would be markup."""
    from rich.markup import escape

    return escape(printable(text))


def percent(value: float) -> str:
    """0.9213 as 92.1%."""
    return f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 2 min 5 s."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def metrics_text(values: Mapping[str, float]) -> str:
    """Format loss, accuracy, speed and seconds left for display beside a bar."""
    words = []
    if "loss" in values:
        words.append(f"loss {values['loss']:.3f}")
    if "accuracy" in values:
        words.append(f"{percent(values['accuracy'])} right")
    if "images_per_second" in values:
        words.append(f"{values['images_per_second']:,.0f} images/s")
    if "seconds_left" in values:
        left = round(values["seconds_left"])
        words.append(f"{left // 60}:{left % 60:02} left")
    return ", ".join(words)


def _left() -> rich_progress.ProgressColumn:
    """Return a column with the time left, empty where the metrics beside the bar include it."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.fields["timed"] else Text()

    return Left(compact=True, elapsed_when_finished=True)


_LABELS = {"embed": "read+embed", "finetune": "fine-tune", "corrections": "corrected"}
"""Descriptions of stages that differ from the stage's name."""

_UNITS = {"head": "settings", "labels": "fits", "fits": "fits", "draw": "pictures"}
"""What the steps of a stage are; photos by default."""


class ProgressBar:
    """Show the progress of a library function on standard error; implements `progress.Progress`.

    A stage gets a bar with its first step, so that stages without steps show none. Nothing is shown
    with --quiet, and a few plain lines where standard error is no terminal. Use it as a context
    manager, which finishes the last bar.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bars: rich_progress.Progress | None = None
        self._bar: rich_progress.BarColumn | None = None
        self._task: rich_progress.TaskID | None = None
        self._began = 0.0
        self._with_metrics = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Finish the bar of the previous stage."""
        self.stop()
        self._stage = name

    def advance(self, done: int, total: int) -> None:
        """Move the bar to `done` of `total` steps; start it where there is none yet."""
        if STATE.quiet:
            return
        if self._bars is None or self._task is None:
            self._start(total)
        assert self._bars is not None and self._task is not None
        self._bars.update(self._task, completed=done, total=total)
        if not self._with_metrics:
            # The average since the start: results arrive in batches, so that a momentary speed
            # would be meaningless.
            speed = done / max(1e-3, time.perf_counter() - self._began)
            unit = _UNITS.get(self._stage, "photos")
            self._bars.update(self._task, speed=f"{speed:,.0f} {unit}/s")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        say(text)

    def metrics(self, **values: float) -> None:
        """Show the metrics beside the bar, instead of its speed, until the next stage."""
        if self._bars is not None and self._task is not None and self._bar is not None:
            self._with_metrics = True
            self._bar.bar_width = 12  # so that bar and metrics fit into 80 columns
            self._bars.update(self._task, speed=metrics_text(values), timed=False)

    def stop(self) -> None:
        """Finish the bar."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _start(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = BarColumn(bar_width=30)
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            self._bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            _left(),
            console=err(),
            refresh_per_second=5,
            # Results that share the terminal are printed above the bar; those that go to a file
            # must stay out of it.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._began = time.perf_counter()
        self._with_metrics = False
        label = _LABELS.get(self._stage, self._stage)
        self._task = self._bars.add_task(label, total=total, speed="", timed=True)
        self._bars.start()
