"""The confidence threshold, and the promise that it carries."""

from __future__ import annotations

import numpy as np
import pytest

from support.calibrated import random_scores
from tailorbird.metrics.calibration import softmax
from tailorbird.metrics.distributions import binomial_tail, lower_bound
from tailorbird.metrics.thresholds import GRID, choose_threshold, fewest_answers


def certain(right: int, wrong: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes; every answer is class 0 with 0.999."""
    labels = np.array([0] * right + [1] * wrong)
    return labels, np.tile([0.999, 0.001], (len(labels), 1))


def test_the_threshold_is_the_lowest_whose_bound_reaches_the_precision() -> None:
    labels, logits = random_scores(2000)
    probabilities = softmax(logits)
    found = choose_threshold(labels, probabilities, 0.9)
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    sure = confidence >= found.value
    assert found.reached and found.value in GRID
    assert sure.mean() == pytest.approx(found.coverage)
    assert hit[sure].mean() == pytest.approx(found.precision)
    assert found.bound == pytest.approx(lower_bound(hit[sure].sum(), sure.sum(), 0.1))
    assert found.precision > found.bound >= 0.9
    lower = confidence >= found.value - 0.01
    assert lower_bound(hit[lower].sum(), lower.sum(), 0.1) < 0.9


@pytest.mark.parametrize(("n", "wanted"), [(120, 0.85), (341, 0.9), (1500, 0.95)])
def test_the_promise_holds_as_often_as_it_says(n: int, wanted: float) -> None:
    """In repetitions with other photos, it is broken in at most a tenth (and chance: 3 deviations).

    The population is so large that the precision above a threshold is known.
    """
    labels, logits = random_scores(100_000, 9999)
    probabilities = softmax(logits)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    draws = np.random.default_rng(0)
    made = broken = 0
    for _ in range(200):
        rows = draws.choice(len(labels), n, replace=False)
        found = choose_threshold(labels[rows], probabilities[rows], wanted)
        made += found.reached
        broken += found.reached and hit[confidence >= found.value].mean() < wanted
    assert made >= 40, "otherwise nothing would be tested"
    assert broken <= 0.1 * 200 + 3 * np.sqrt(0.1 * 0.9 * 200)


def test_a_model_whose_probabilities_are_too_high_breaks_no_promise() -> None:
    """The test counts answers that were right, whatever the probabilities say."""
    labels, logits = random_scores(100_000, 9999)
    probabilities = softmax(3 * logits)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    draws = np.random.default_rng(1)
    broken = 0
    for _ in range(200):
        rows = draws.choice(len(labels), 600, replace=False)
        found = choose_threshold(labels[rows], probabilities[rows], 0.85)
        broken += found.reached and hit[confidence >= found.value].mean() < 0.85
    assert broken <= 0.1 * 200 + 3 * np.sqrt(0.1 * 0.9 * 200)


def test_a_precision_that_cannot_be_promised() -> None:
    labels = np.array([0, 1] * 50)
    found = choose_threshold(labels, np.tile([0.6, 0.4], (100, 1)), 0.95)
    assert not found.reached and found.needed is None
    assert found.precision == 0.5 and found.coverage == 1.0
    assert found.sentence() == (
        "It cannot promise that 95 of 100 answers are right: at best 50 of 100 were, for 100 of "
        "100 photos, on 100 validation photos; more photos, a stronger backbone or a lower "
        "--precision may help. It says 'not sure' below 0.6."
    )


def test_the_fewest_photos_that_can_promise_anything() -> None:
    assert fewest_answers(0.95) == 45 and 0.95**45 <= 0.1 < 0.95**44
    kept = choose_threshold(*certain(45), 0.95)
    assert (kept.value, kept.coverage, kept.reached, kept.needed) == (0.0, 1.0, True, None)
    few = choose_threshold(*certain(18), 0.95)
    assert not few.reached and few.needed == 27 and few.precision == 1.0
    assert few.sentence() == (
        "It cannot promise that 95 of 100 answers are right: 18 validation photos are too few to "
        "be sure (at best 100 of 100 were, for 100 of 100 photos); about 27 more would be enough. "
        "It says 'not sure' below 0.999."
    )


def test_the_photos_that_are_needed_are_enough() -> None:
    """With as many more photos as it says, of the same kind, the promise is mostly kept."""
    labels, logits = random_scores(100_000, 9999)
    probabilities = softmax(logits)
    draws = np.random.default_rng(2)
    kept = missed = 0
    while kept + missed < 40:
        rows = draws.choice(len(labels), 200, replace=False)
        found = choose_threshold(labels[rows], probabilities[rows], 0.92)
        if found.reached or found.needed is None:
            continue
        more = draws.choice(len(labels), 200 + found.needed, replace=False)
        again = choose_threshold(labels[more], probabilities[more], 0.92).reached
        kept, missed = kept + again, missed + (not again)
    assert kept >= 20


def test_the_sentences_of_a_promise_that_is_kept() -> None:
    assert choose_threshold(*certain(90), 0.95).sentence() == (
        "It answers every photo; at least 95 of 100 answers are right, with 90% confidence "
        "(100.0% on 90 validation photos)."
    )
    labels, probabilities = certain(100)
    probabilities[80:] = [0.55, 0.45]
    labels[80:90] = 1
    found = choose_threshold(labels, probabilities, 0.95, crossfitted=True)
    assert found.sentence() == (
        "It answers about 80 of 100 photos and says 'not sure' to the others (below 0.56); at "
        "least 95 of 100 answers are right, with 90% confidence (100.0% on 100 photos, each judged "
        "by heads that had not seen it)."
    )


def test_no_photos_above_any_threshold_and_the_target_of_one() -> None:
    for right in (1, 3, 500):
        found = choose_threshold(*certain(right), 1.0)
        assert not found.reached and found.needed is None


def test_the_binomial_tail_and_its_bound() -> None:
    assert binomial_tail(3, 4, 0.5) == pytest.approx(5 / 16)
    assert binomial_tail(0, 4, 0.5) == binomial_tail(4, 4, 1.0) == 1.0
    assert binomial_tail(1, 4, 0.0) == 0.0
    assert lower_bound(45, 45, 0.1) == pytest.approx(0.1 ** (1 / 45))
    assert lower_bound(0, 9, 0.1) == lower_bound(0, 0, 0.1) == 0.0
    # SciPy: beta.ppf(0.1, 300, 21)
    assert lower_bound(300, 320, 0.1) == pytest.approx(0.9164210181590473)


def test_refused_photos_get_no_answer() -> None:
    labels, probabilities = certain(90, 10)
    wrong = labels == 1
    plain = choose_threshold(labels, probabilities, 0.95)
    found = choose_threshold(labels, probabilities, 0.95, refused=wrong)
    assert not plain.reached and plain.coverage == 1
    assert found.reached and found.precision == 1 and found.photos == 100
    assert found.coverage == pytest.approx(0.9)
    nothing = choose_threshold(labels, probabilities, 0.95, refused=np.ones(100, bool))
    assert not nothing.reached and nothing.coverage == 0
