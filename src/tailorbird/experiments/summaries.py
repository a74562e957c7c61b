"""Summaries of experiments in sentences, for the terminal and for plots."""

from __future__ import annotations

from tailorbird.experiments.alternatives import NAMES, value_text
from tailorbird.experiments.learning_curves import LearningCurve
from tailorbird.experiments.learning_rates import RateFinding
from tailorbird.experiments.paired_tests import p_text
from tailorbird.experiments.sweep_results import Factor, FoldScores, SweepResult

NAMED = 4
"""Maximum number of settings of a large family that are named; the rest are counted."""


def sweep_lines(result: SweepResult) -> list[str]:
    """Return a sentence for each factor, one on the p-values, and one on plain `train`."""
    lines = [_factor_line(result, factor) for factor in result.factors]
    count = len(result.comparisons)
    if count:
        lines.append(
            f"p-values are corrected for {count} comparison{'s' * (count > 1)} on the same folds "
            "(Nadeau and Bengio's test, Holm); from 0.05 on, a difference may be chance."
        )
    return [*lines, default_line(result)]


def default_line(result: SweepResult) -> str:
    """Say whether plain `train` or the best setting is better on the folds."""
    if not result.default.fits:
        return "plain train was not scored: stopped before"
    if result.default.failed:
        return "plain train failed on these folds"
    test = result.default_comparison
    plain, other = _shown(result, result.default), _shown(result, result.chosen)
    ahead, behind = "plain train", "the best setting"
    values = [plain, other]
    if result.recommended == "chosen":
        ahead, behind, values = behind, ahead, [other, plain]
    chance = f", {p_text(test.p)}" if test.pairs > 1 else ""
    if test.difference == 0:
        verdict = f"plain train is as good as the best setting ({plain})"
    else:
        verdict = (
            f"{ahead} is better than {behind}: {values[0]} and {values[1]} on the same folds "
            f"(difference {_amount(result, test.difference)}{chance})"
        )
    return f"{verdict}; plain train averages the best of several heads"


def sweep_title(result: SweepResult) -> str:
    """Return the result in one line."""
    equal = 0
    for factor in result.factors:
        compared = (result.comparison(factor.chosen, number) for number in factor.settings)
        equal += sum(found is not None and not found.distinguishable for found in compared)
    tail = f"; {equal} alternative{'s' * (equal > 1)} may be as good" if equal else ""
    best = f"{result.chosen.name} ({_score(result, result.chosen.number)}){tail}"
    if not result.default.fits:
        return f"Chosen: {best}"
    plain = _shown(result, result.default)
    if result.recommended == "default":
        return f"Chosen: plain train ({plain}); best setting: {best}"
    return f"Chosen: {best}; plain train: {plain}"


def _value(result: SweepResult, factor: Factor, number: int) -> str:
    settings = result.setting(number).settings
    if factor.name == "settings":
        return result.setting(number).name
    return value_text(factor.name, getattr(settings, factor.name))


def _amount(result: SweepResult, difference: float) -> str:
    if result.metric == "accuracy":
        return f"{100 * abs(difference):.1f} points"
    return f"{abs(difference):.3f} nats"


def _score(result: SweepResult, number: int) -> str:
    return _shown(result, result.setting(number))


def _shown(result: SweepResult, score: FoldScores) -> str:
    return (
        f"{100 * score.accuracy:.1f}%"
        if result.metric == "accuracy"
        else f"{score.log_loss:.3f} nats"
    )


def _factor_line(result: SweepResult, factor: Factor) -> str:
    """Return `learning rate: 0.001 is best (86.2%); 0.01 cannot be told apart (difference ...)`."""
    name = NAMES.get(factor.name, factor.name)
    tried = [
        number
        for number in factor.settings
        if result.setting(number).merit(result.metric) > float("-inf")
    ]
    if not tried:
        return f"{name}: every setting diverged"
    best = max(tried, key=lambda number: result.setting(number).merit(result.metric))
    parts = [f"{_value(result, factor, best)} is best ({_score(result, best)})"]
    same, worse = [], []
    for number in sorted(tried, key=lambda number: -result.setting(number).merit(result.metric)):
        found = result.comparison(best, number)
        if number == best or found is None:
            continue
        value, amount = _value(result, factor, number), _amount(result, found.difference)
        if found.distinguishable:
            worse.append(f"{value} is worse (by {amount}, {p_text(found.corrected)})")
        elif found.standard_error != found.standard_error:
            same.append(f"{value} was compared on one fold only")
        else:
            same.append(
                f"{value} cannot be told apart (difference {amount}, {p_text(found.corrected)})"
            )
    for group, rest in ((same, "cannot be told apart"), (worse, "are worse")):
        named = 1 if factor.name == "settings" else NAMED
        parts += group[:named]
        if len(group) > named:
            parts.append(f"{len(group) - named} more {rest}")
    failed = [_value(result, factor, number) for number in factor.settings if number not in tried]
    if failed:
        parts.append(f"{', '.join(failed)} diverged")
    return f"{name}: " + "; ".join(parts)


def rate_lines(result: RateFinding) -> list[str]:
    """Return the suggestion, where it comes from, and a warning."""
    low, high = min(result.by_seed), max(result.by_seed)
    seeds = f"{result.seeds} seeds: {low:g} to {high:g}" if result.seeds > 1 else "one seed"
    lines = [
        f"Learning rate {result.suggestion:g}: a tenth of {result.lowest_loss:.2g}, where the loss "
        f"is lowest ({seeds})",
        f"The loss falls fastest at {result.steepest:.2g}, and grows again above "
        f"{result.lowest_loss:.2g}.",
    ]
    if result.warning:
        lines.append(f"Do not trust it: {result.warning}.")
    return lines


def curve_lines(result: LearningCurve) -> list[str]:
    """Return whether more photos would help, and of which class, as sentences."""
    gain, low, high = result.last_doubling
    top = result.points[-1]
    reached = f"With {top.photos:,} training photos, {100 * top.accuracy:.1f}% are right."
    found = result.extrapolation
    lines = []
    if found.gain is not None and found.interval is not None:
        less, more = (100 * limit for limit in found.interval)
        text = f"Twice as many would bring about {_points(found.gain)} ({less:.1f} to {more:.1f}"
        lines.append(f"{reached} {text}{', perhaps nothing' if less <= 0 else ''}).")
    else:
        lines.append(f"{reached} What twice as many would bring cannot be said: {found.refused}.")
    lines.append(f"The last doubling brought {_points(gain)} ({_range((low, high))}).")
    if found.backtest is not None and not found.refused:
        predicted, seen = found.backtest
        lines.append(
            f"As a check: from half the photos, {_points(predicted)} were predicted for that "
            f"doubling, and it brought {_points(seen)}."
        )
    return lines + _class_lines(result)


def _class_lines(result: LearningCurve) -> list[str]:
    """Return of which classes to add photos first."""
    real = [gain for gain in result.classes if not gain.noise and gain.cost > 0]
    if not result.classes:
        return []
    if not real:
        return [
            "Add photos of all classes: none of them gains more than another, as far as can be "
            "told apart from chance."
        ]
    first, *others = [
        f"{gain.label} (twice its {gain.photos:,} would bring about {_points(gain.expected)})"
        if gain.expected is not None
        else f"{gain.label} (a quarter of its {gain.photos:,} photos would cost "
        f"{_points(gain.cost)})"
        for gain in real[:NAMED]
    ]
    then = f", then of {', '.join(others)}" if others else ""
    rest = len(result.classes) - len(real)
    tail = f" For the other {rest} classes, the difference may be chance." if rest > 1 else ""
    return [f"Add photos of {first} first{then}; points of the mean recall of all classes.{tail}"]


def _range(interval: tuple[float, float]) -> str:
    """Return an interval in points, `0.4 to 2.0`."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"
