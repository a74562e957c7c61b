"""Print results of training and scoring for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.advice import Advice
    from tailorbird.engines.finetune.results import FinetuneResult
    from tailorbird.head import SearchResult
    from tailorbird.int8 import Figures, QuantisedModel, QuantisedTraining
    from tailorbird.metrics.scores import Scores
    from tailorbird.training import TrainResult

REASONS = 8
"""Maximum number of reasons for leaving photos out printed without --verbose."""

PAIRS = 20
"""Maximum number of confused pairs printed."""


def print_figures(figures: Figures) -> None:
    """Print float32 and int8 side by side: accuracy, speed and size."""
    output.print_table(
        {"": False, "accuracy": True, "images/s": True, "MB": True},
        [
            (name, output.percent(one.accuracy), f"{one.images_per_second:,.1f}",
             f"{one.bytes / 1e6:.1f}")
            for name, one in (("float32", figures.float32), ("int8", figures.int8))
        ],
        gap=3,
    )  # fmt: skip
    output.line(
        f"int8 - float32: accuracy {100 * figures.difference:+.2f} points, {figures.speedup:.2f} "
        f"times as fast; both predict the same class for {output.percent(figures.agreement)}"
    )
    if figures.speedup < 1:
        output.say("int8 is slower here: keep float32 unless the smaller file is what counts")
    output.say("images/s: one thread of this processor, both measured in turns, without decoding")


def print_result(result: TrainResult) -> None:
    """Print what was chosen, the scores, what was left out, and where the model is."""
    if result.search is not None:
        print_head(result.search, refit=bool(result.info.settings["refit"]))
    if result.tuned is not None:
        print_tuned(result.tuned)
    print_scores(result.test, "Test")
    if output.STATE.verbose:
        print_confusion(result.test)
    output.line(result.threshold.sentence())
    if result.unfamiliarity is not None:
        output.line(result.unfamiliarity.sentence())
    if result.corrections is not None:
        output.line(result.corrections.sentence())
    if result.left_out:
        reasons = Counter(entry.reason for entry in result.left_out)
        folders = sum(entry.is_folder for entry in result.left_out)
        photos = len(result.left_out) - folders
        counts = [f"{photos} photo{'s' * (photos > 1)}"] * (photos > 0)
        counts += [f"{folders} linked folder{'s' * (folders > 1)}"] * (folders > 0)
        output.line(f"Left out: {' and '.join(counts)}")
        for reason, count in reasons.most_common(None if output.STATE.verbose else REASONS):
            output.line(f"  {count} {reason}")
    if output.STATE.verbose:
        for entry in result.left_out:
            output.line(f"    {entry.path}: {entry.reason}")
    parts = ", ".join(
        f"{name} {seconds:.1f}"
        for name, seconds in result.seconds.items()
        if name != "total" and seconds >= 0.05
    )
    output.line(
        f"Seconds: {result.seconds['total']:.1f} ({parts}); {result.embedded:,} photos embedded now"
    )
    output.line(f"Model: {result.model} ({result.model.stat().st_size / 1e6:.1f} MB)")
    print_advice(result.advice)


def print_advice(steps: Sequence[Advice]) -> None:
    """Print what to do next, a line each."""
    for step in steps:
        output.line(f"Next: {step.text}: {output.runnable(step.command)}")


def print_head(search: SearchResult, *, refit: bool) -> None:
    """Print the settings of the chosen head, or of the averaged heads."""
    for number, member in enumerate(search.members, start=1):
        settings = member.settings
        inner = " -> ".join(map(str, settings.inner)) or "none"
        averaged = f", {number} of the {len(search.members)} averaged" * (len(search.members) > 1)
        output.line(
            f"Head{averaged}: inner {inner}, dropout {settings.dropout:g}, "
            f"learning rate {settings.learning_rate:g}, L2 {settings.l2:g}, "
            f"{settings.views} view{'s' * (settings.views > 1)}, best at epoch {member.best_epoch}"
        )
    again = "; then trained on train and validation together" if refit else ""
    output.line(f"  chosen from {len(search.trials)} settings by validation log-loss{again}")


def print_tuned(tuned: FinetuneResult) -> None:
    """Print the stages of fine-tuning, and what it gained on validation."""
    for number, stage in enumerate(tuned.stages, start=1):
        output.line(f"Stage {number}: {stage.sentence()}")
    best, start = tuned.best, tuned.start
    ended = {"finished": "", "early": "; stopped early", "budget": "; stopped by the budget"}
    again = tuned.resumed_from
    resumed = f"; resumed at stage {again[0]}, epoch {again[1]}" if again else ""
    output.line(
        f"  validation: log-loss {start.log_loss:.3f} -> {best.score.log_loss:.3f}, "
        f"accuracy {output.percent(start.accuracy)} -> {output.percent(best.score.accuracy)}; "
        f"{best.sentence()}{ended[tuned.stopped]}{resumed}"
    )


def print_scores(scores: Scores, title: str) -> None:
    """Print the accuracy with its interval, then a row per class."""
    output.line(f"{title}: {scores.headline()}")
    guess = scores.majority_baseline
    baseline = "" if guess is None else f"always the most frequent class: {output.percent(guess)}"
    measured = ", ".join(part for part in (scores.summary(), baseline) if part)
    for line in (scores.answered(), measured):
        if line:
            output.line(f"  {line}")
    worst: dict[str, str] = {}
    for pair in scores.confused_pairs():
        worst.setdefault(pair.label, f"{pair.predicted} ({pair.count})")
    rows = [
        (row.label, *(f"{value:.3f}" for value in (row.precision, row.recall, row.f1)),
         f"{row.support:,}", worst.get(row.label, ""))
        for row in scores.per_class
    ]  # fmt: skip
    if scores.macro:
        means = (f"{scores.macro[name]:.3f}" for name in ("precision", "recall", "f1"))
        rows.append(("macro", *means, f"{scores.n:,}", ""))
    columns = {"class": False, "precision": True, "recall": True, "F1": True, "photos": True,
               "most often mistaken for": False}  # fmt: skip
    output.print_table(columns, rows)


def _matrix_width(scores: Scores) -> int:
    """Return the columns of the terminal that the confusion matrix needs."""
    cells = zip(scores.classes, zip(*scores.confusion, strict=True), strict=True)
    widths = [max(len(label[:8]), len(str(max(column)))) + 2 for label, column in cells]
    return max(map(len, scores.classes)) + 2 + sum(widths)


def print_confusion(scores: Scores) -> None:
    """Print the confusion matrix, or the most confused pairs where the matrix would be too wide."""
    if _matrix_width(scores) > output.out().width:
        pairs = scores.confused_pairs()
        output.line(f"Most confused pairs of {len(scores.classes)} classes:")
        for pair in pairs[:PAIRS]:
            output.line(
                f"  {pair.label} predicted as {pair.predicted}: {pair.count:,} "
                f"({output.percent(pair.share)} of its photos)"
            )
        if len(pairs) > PAIRS:
            output.line(f"  and {len(pairs) - PAIRS:,} more pairs; --json has the whole matrix")
        return
    output.line("Confusion matrix: rows are true classes, columns predicted classes")
    from rich.table import Table

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


def print_quantised(result: QuantisedModel) -> None:
    """Print the scores of an int8 model beside those of its float32 model."""
    for name, scores in result.scores.items():
        before = result.float32_scores[name].accuracy
        output.line(
            f"{name.capitalize()}: accuracy {output.percent(scores.accuracy)} "
            f"({output.interval(scores.interval)}) as int8, {output.percent(before)} as float32; "
            f"{scores.n:,} photos"
        )
    print_figures(result.figures)
    if result.path is not None:
        output.line(f"Model: {result.path}")


def print_quantised_training(result: QuantisedTraining) -> None:
    """Print a training and what became of its int8 model."""
    print_result(result.trained)
    print_quantised(result.int8)
    if result.refused:
        output.line(f"No int8 model: {result.refused}")
