"""What every command prints with: results on standard output, everything meant for people's eyes meanwhile on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskID


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


def figures(values: Mapping[str, float]) -> str:
    """Loss, accuracy and seconds left as they stand beside a bar; other figures are not shown."""
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


@contextmanager
def progress(
    description: str, total: int | None = None, unit: str = "photos"
) -> Iterator[ProgressBar]:
    """A bar with speed and time left on standard error; nothing with --quiet; a few plain lines where there is no terminal."""
    bar = ProgressBar(unit)
    bar.start(description, total)
    try:
        yield bar
    finally:
        bar.stop()


def _left() -> ProgressColumn:
    """Time left, or taken once all is done; nothing where the words beside the bar say it."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.fields["timed"] else Text()

    return Left(compact=True, elapsed_when_finished=True)


class ProgressBar:
    """One bar at a time; `start` begins a new one."""

    def __init__(self, unit: str = "photos") -> None:
        self._unit = unit
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._bar: BarColumn | None = None
        self._began = 0.0
        self._remarked = False

    def start(self, description: str, total: int | None = None, unit: str | None = None) -> None:
        """Finish the bar before and begin one of `total` steps."""
        self.stop()
        if STATE.quiet:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = BarColumn(bar_width=30)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            self._bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            _left(),
            console=err(),
            refresh_per_second=5,
            # Where results share the terminal they are printed above the bar; where they go to a file they must stay out of it.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._unit = unit or self._unit
        self._began = time.perf_counter()
        self._remarked = False
        self._task = self._progress.add_task(description, total=total, speed="", timed=True)
        self._progress.start()

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` steps are over."""
        if self._progress is not None and self._task is not None:
            # The average since the start: results that come in batches would make a momentary figure meaningless.
            said = f"{done / max(1e-3, time.perf_counter() - self._began):,.0f} {self._unit}/s"
            self._progress.update(self._task, completed=done, total=total)
            if not self._remarked:
                self._progress.update(self._task, speed=said)

    def remark(self, text: str) -> None:
        """From now on, and until the next bar, say this beside the bar instead of its own speed."""
        if self._progress is not None and self._task is not None:
            self._remarked = True
            if self._bar is not None:
                self._bar.bar_width = 12  # so that bar and words fit into 80 columns
            self._progress.update(self._task, speed=text, timed=False)

    def stop(self) -> None:
        """Finish the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class ReadingBar:
    """Bars for the stages of reading photos; call it with (stage, done, total)."""

    def __init__(self) -> None:
        self._bar = ProgressBar()
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` photos of a stage are over."""
        if stage != self._stage:
            self._stage = stage
            self._bar.start(stage, total)
        self._bar.advance(done, total)

    def stop(self) -> None:
        """Finish the last bar."""
        self._bar.stop()


def check_writable(path: Path) -> None:
    """Raise SettingsError, before the work begins, where a file cannot be written."""
    from tailorbird.errors import SettingsError

    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(
            f"{path} cannot be written: it must be a file in a folder that exists and may be written to"
        )
