"""What training and scoring found, printed for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.engines.finetune.results import Tuned
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


def print_tuned(tuned: Tuned) -> None:
    """The stages of fine-tuning, and what it gained on validation."""
    console = output.out()
    for number, stage in enumerate(tuned.stages, start=1):
        console.print(f"Stage {number}: {stage.sentence()}", markup=False, soft_wrap=True)
    best, start = tuned.best, tuned.start
    where = (
        f"stage {best.stage}, epoch {best.epoch}"
        if best.stage
        else "what it started from: training made nothing better"
    )
    ended = {"finished": "", "early": "; stopped early", "budget": "; stopped by the budget"}[
        tuned.stopped
    ]
    again = (
        f"; taken up again at stage {tuned.resumed_from[0]}, epoch {tuned.resumed_from[1]}"
        if tuned.resumed_from
        else ""
    )
    console.print(
        f"  validation: log-loss {start.log_loss:.3f} -> {best.score.log_loss:.3f}, accuracy {output.percent(start.accuracy)} -> "
        f"{output.percent(best.score.accuracy)}; kept {where}{ended}{again}",
        soft_wrap=True,
    )


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
    sure = (
        f", of which {output.percent(scores.sure_accuracy)} right"
        if scores.sure_accuracy is not None
        else ""
    )
    console.print(
        f"  top-3 {output.percent(scores.top3)}, log-loss {scores.log_loss:.3f}, calibration error {scores.ece:.3f}, "
        f"sure on {output.percent(scores.coverage)}{sure}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("class", "precision", "recall", "F1", "photos", "most often mistaken for"):
        table.add_column(
            name, justify="left" if name in ("class", "most often mistaken for") else "right"
        )
    for number, row in enumerate(scores.per_class):
        wrong = [
            (count, scores.classes[i])
            for i, count in enumerate(scores.confusion[number])
            if i != number and count
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
