"""Print results on standard output, and progress, notes and errors on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console


class _Result(Protocol):
    def as_dict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=_Result)

SHOWN = 10
"""Maximum number of list entries printed without --verbose."""


@dataclass
class State:
    """How much is printed."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


STATE = State()


def reset_verbosity() -> None:
    """Print the usual amount, until `set_verbosity` is called."""
    STATE.quiet = STATE.verbose = STATE.debug = False


def set_verbosity(*, quiet: bool, verbose: bool, debug: bool) -> None:
    """Set how much is printed and logged; flags set before, for a group of commands, stay set."""
    STATE.quiet |= quiet
    STATE.verbose |= verbose
    STATE.debug |= debug
    if debug:
        form = "%(name)s: %(message)s"
        logging.basicConfig(level=logging.DEBUG, format=form, stream=sys.stderr, force=True)
    elif verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def print_seen(count: int) -> None:
    """Say how many photos were set aside because a model has seen them."""
    if count:
        say(
            f"{count:,} photo{'s' * (count > 1)} the model was trained or chosen on set aside: "
            "they do not tell how good it is (--all uses them too)"
        )


def requested_report(path: Path | None, none: bool) -> Path | bool:
    """Return the `report` argument for --report and --no-report.

    Raises SettingsError if both are given.
    """
    if path is not None and none:
        from tailorbird.errors import SettingsError

        raise SettingsError("--report and --no-report were both given; choose one")
    return path if path is not None else not none


def print_report_path(path: Path | None, problem: str | None) -> None:
    """Print where the report is, or a warning why it could not be written."""
    if problem is not None:
        print_error(f"warning: the report could not be written: {problem}")
    elif path is not None:
        line(f"Report: {path}")


def out() -> Console:
    """Return the console of standard output."""
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def err() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def line(text: str) -> None:
    """Print one line of a result on standard output."""
    print(printable(text), flush=True)


def say(text: str) -> None:
    """Print a line for a person on standard error, unless --quiet."""
    if not STATE.quiet:
        print(printable(text), file=sys.stderr, flush=True)


def runnable(command: str) -> str:
    """Return a printed command, `tailorbird train ...`, as it can be typed in this terminal."""
    from tailorbird import installing

    return installing.runnable(command)


def print_error(text: str) -> None:
    """Print an error on standard error; it may have several lines."""
    shown = "\n".join(printable(part) for part in text.splitlines())
    print(f"tailorbird: {shown}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one JSON object on one line of ASCII."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_json_or_text(result: R, show: Callable[[R], None], *, json: bool) -> None:
    """Print a result as a JSON object with --json, else as text for people with `show`."""
    if json:
        print_json(result.as_dict())
    else:
        show(result)


def print_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Print the photos that could not be used, with the reasons; a long list is cut."""
    shown = left_out if STATE.verbose else left_out[:SHOWN]
    for path, reason in shown:
        say(f"left out: {path}: {reason}")
    if len(shown) < len(left_out):
        say(f"left out: {len(left_out) - len(shown):,} more; -v shows all")


def print_table(
    columns: Mapping[str, bool], rows: Iterable[Sequence[str]], *, gap: int = 2, fold: bool = False
) -> None:
    """Print a table on standard output.

    Args:
        columns: name -> whether its cells are numbers, which are aligned to the right.
        rows: cells as text, as many as there are columns.
        gap: spaces between columns.
        fold: break long cells into lines instead of cutting them.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name, number in columns.items():
        table.add_column(
            name, justify="right" if number else "left", overflow="fold" if fold else "ellipsis"
        )
    for row in rows:
        table.add_row(*map(cell, row))
    out().print(table)


def print_card(text: str) -> None:
    """Print a model card for people: formatted, without the metadata that is for model hubs."""
    from rich.markdown import Markdown

    body = text.partition("\n---\n")[2] if text.startswith("---\n") else text
    out().print(Markdown(body))


def printable(text: str) -> str:
    """Return text that any UTF-8 terminal or parser accepts, whatever bytes a file name holds."""
    if text.isprintable():
        return text
    from tailorbird.dataset import printable as escape

    return escape(text)


def cell(text: str) -> str:
    """Return text for a rich table, where square brackets would be markup."""
    from rich.markup import escape

    return escape(printable(text))


def percent(value: float) -> str:
    """Return 0.9213 as 92.1%."""
    return f"{100 * value:.1f}%"


def interval(limits: tuple[float, float]) -> str:
    """Return the limits of a 95% interval as text."""
    return f"95% interval {percent(limits[0])} to {percent(limits[1])}"


def duration(seconds: float) -> str:
    """Return seconds as 8 s or 2 min 5 s."""
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


_LABELS = {
    "recipe": "plain train",
    "embed": "read+embed",
    "finetune": "fine-tune",
    "corrections": "corrected",
}
"""Descriptions of stages that differ from the stage's name."""

_UNITS = {
    "recipe": "folds",
    "head": "settings",
    "labels": "fits",
    "fits": "fits",
    "draw": "pictures",
    "devices": "devices",
}
"""Units of the steps by stage; photos by default."""


class ProgressBar:
    """Show the progress of a library function on standard error; implements `progress.Progress`.

    A stage gets a bar with its first step, so that stages without steps show none. Nothing is shown
    with --quiet, and a few plain lines if standard error is not a terminal. Use it as a context
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
