"""The accuracy on blind photos, what more labels bring, and when to stop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tailorbird.labelling.outlook import Outlook, enough, look_ahead


def drawn(
    count: int, spread: float, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    middles = np.random.default_rng(99).normal(size=(5, 24))
    labels = random.integers(5, size=count)
    features = middles[labels] + spread * random.normal(size=(count, 24))
    return features.astype(np.float32), labels


def outlook(labels: int, blind: int, spread: float) -> Outlook:
    return look_ahead(*drawn(labels, spread), *drawn(blind, spread, seed=1), 5)


def test_an_easy_problem_says_stop() -> None:
    found = outlook(300, 100, 0.3)
    assert found.right == 100 and found.accuracy == 1
    assert found.interval[0] > 0.95 and found.interval[1] == 1
    assert found.stop and "you can stop" in found.advice
    assert [size for size, _ in found.curve][-1] == 300


def test_a_problem_that_still_improves_says_go_on() -> None:
    found = outlook(90, 300, 2.2)
    assert found.gain is not None and found.gain_interval is not None
    assert found.gain > 0.01 and not found.stop and "go on" in found.advice
    assert found.gain_interval[0] <= found.gain <= found.gain_interval[1]
    more = outlook(190, 300, 2.2)
    assert more.accuracy is not None and found.accuracy is not None
    measured = more.accuracy - found.accuracy
    low, high = found.gain_interval
    assert low - 0.05 <= measured <= high + 0.05, "the promise is about what is measured later"


def test_few_answers_promise_nothing() -> None:
    few = outlook(90, 12, 1.0)
    assert few.gain is None and not few.stop and "18 more blind answers" in few.advice
    assert few.accuracy is not None and few.interval[1] - few.interval[0] > 0.2
    none = look_ahead(*drawn(30, 1.0), *drawn(0, 1.0), 5)
    assert none.accuracy is None and none.interval == (0.0, 1.0)


def test_enough_labels_to_train() -> None:
    assert enough([3, 3]) and enough([40, 0, 3])
    assert not enough([40, 2]) and not enough([])
