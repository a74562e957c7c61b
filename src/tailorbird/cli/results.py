"""What training and scoring found, printed for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailorbird.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from tailorbird.engines.finetune.results import FinetuneResult
    from tailorbird.head import SearchResult
    from tailorbird.metrics.scores import Scores
    from tailorbird.training import TrainResult


def print_result(result: TrainResult, *, verbose: bool) -> None:
    """What was chosen, how well it does, what was left out, where the model is."""
    console = output.out()
    if result.search is not None:
        print_head(result.search, refit=bool(result.info.settings["refit"]))
    if result.tuned is not None:
        print_tuned(result.tuned)
    print_scores(result.test, "Test", verbose=verbose)
    console.print(result.threshold.sentence(), soft_wrap=True)
    if result.corrections is not None:
        console.print(result.corrections.sentence(), markup=False, soft_wrap=True)
    if result.left_out:
        reasons: dict[str, int] = {}
        for entry in result.left_out:
            reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
        console.print(f"Left out: {len(result.left_out)} photos")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[
            : None if verbose else 8
        ]:
            console.print(f"  {count} {output.printable(reason)}", markup=False, soft_wrap=True)
    if verbose:
        for entry in result.left_out:
            console.print(
                output.printable(f"    {entry.path}: {entry.reason}"), markup=False, soft_wrap=True
            )
    parts = ", ".join(
        f"{name} {seconds:.1f}"
        for name, seconds in result.seconds.items()
        if name != "total" and seconds >= 0.05
    )
    console.print(
        f"Seconds: {result.seconds['total']:.1f} ({parts}); {result.embedded:,} photos embedded now",
        soft_wrap=True,
    )
    console.print(
        f"Model: {result.model} ({result.model.stat().st_size / 1e6:.1f} MB)",
        markup=False,
        soft_wrap=True,
    )


def print_head(search: SearchResult, *, refit: bool) -> None:
    """The head that was chosen, and from how many."""
    console = output.out()
    for number, member in enumerate(search.members):
        settings = member.settings
        inner = " -> ".join(map(str, settings.inner)) or "none"
        lead = (
            "Head:"
            if len(search.members) == 1
            else f"Head, {number + 1} of the {len(search.members)} averaged:"
        )
        console.print(
            f"{lead} inner {inner}, dropout {settings.dropout:g}, learning rate {settings.learning_rate:g}, L2 {settings.l2:g}, "
            f"{settings.views} view{'s' * (settings.views > 1)}, best at epoch {member.best_epoch}",
            soft_wrap=True,
        )
    again = "; then trained on train and validation together" if refit else ""
    console.print(f"  chosen from {len(search.trials)} settings by validation log-loss{again}")


def print_tuned(tuned: FinetuneResult) -> None:
    """The stages of fine-tuning, and what it gained on validation."""
    console = output.out()
    for number, stage in enumerate(tuned.stages, start=1):
        console.print(f"Stage {number}: {stage.sentence()}", markup=False, soft_wrap=True)
    best, start = tuned.best, tuned.start
    ended = {"finished": "", "early": "; stopped early", "budget": "; stopped by the budget"}[
        tuned.stopped
    ]
    again = (
        f"; resumed at stage {tuned.resumed_from[0]}, epoch {tuned.resumed_from[1]}"
        if tuned.resumed_from
        else ""
    )
    console.print(
        f"  validation: log-loss {start.log_loss:.3f} -> {best.score.log_loss:.3f}, accuracy {output.percent(start.accuracy)} -> "
        f"{output.percent(best.score.accuracy)}; {best.sentence()}{ended}{again}",
        soft_wrap=True,
    )


MATRIX_CLASSES = 13
"""Most classes whose confusion matrix fits a terminal; of more, the most confused pairs are listed."""

PAIRS = 20
"""Confused pairs that are listed."""


def print_scores(scores: Scores, title: str, *, verbose: bool) -> None:
    """Print accuracy with its interval, then a row per class; verbose: the confusions as well."""
    console = output.out()
    low, high = scores.interval
    console.print(
        f"{title}: accuracy {output.percent(scores.accuracy)} "
        f"(95% interval {output.percent(low)} to {output.percent(high)}) on {scores.n:,} photos",
        soft_wrap=True,
    )
    shares = (
        ("baseline (always the most frequent class)", scores.majority_baseline),
        ("coverage above the confidence threshold", scores.coverage),
        ("accuracy there", scores.sure_accuracy),
    )
    known = [f"{name} {output.percent(value)}" for name, value in shares if value is not None]
    for line in (scores.summary(), ", ".join(known)):
        if line:
            console.print(f"  {line}", soft_wrap=True)
    console.print(_class_table(scores))
    if verbose:
        print_confusion(scores)


def _class_table(scores: Scores) -> Table:
    """Return precision, recall and F1 of each class, and the class it is most often taken for."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("class", "precision", "recall", "F1", "photos", "most often mistaken for"):
        left = name in ("class", "most often mistaken for")
        table.add_column(name, justify="left" if left else "right")
    worst: dict[str, str] = {}
    for pair in scores.confused_pairs():
        worst.setdefault(pair.label, f"{output.cell(pair.predicted)} ({pair.count})")
    for row in scores.per_class:
        figures = (f"{value:.3f}" for value in (row.precision, row.recall, row.f1))
        table.add_row(
            output.cell(row.label), *figures, f"{row.support:,}", worst.get(row.label, "")
        )
    if scores.macro:
        means = (f"{scores.macro[name]:.3f}" for name in ("precision", "recall", "f1"))
        table.add_row("[dim]macro[/dim]", *means, f"{scores.n:,}", "")
    return table


def print_confusion(scores: Scores) -> None:
    """Print the confusion matrix, or the most confused pairs where the matrix would be too wide."""
    from rich.table import Table

    console = output.out()
    if len(scores.classes) > MATRIX_CLASSES:
        pairs = scores.confused_pairs()
        console.print(f"Most confused pairs of {len(scores.classes)} classes:")
        for pair in pairs[:PAIRS]:
            console.print(
                f"  {output.printable(pair.label)} predicted as {output.printable(pair.predicted)}: "
                f"{pair.count:,} ({output.percent(pair.share)} of its photos)",
                markup=False,
                soft_wrap=True,
            )
        if len(pairs) > PAIRS:
            console.print(f"  and {len(pairs) - PAIRS:,} more pairs; --json has the whole matrix")
        return
    console.print("Confusion matrix: rows are true classes, columns predicted classes")
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
    console.print(table)
