"""Scores from labels and probabilities, and reading them back from files of any version."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from support.calibrated import random_scores
from tailorbird.errors import DatasetError
from tailorbird.metrics.calibration import softmax
from tailorbird.metrics.scores import MEASURES, Scores, score

CLASSES = ("a", "b", "c", "d")


def test_scores_on_a_case_counted_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],
            [0.6, 0.4, 0.0, 0.0],
            [0.2, 0.5, 0.2, 0.1],
            [0.1, 0.8, 0.1, 0.0],
            [0.6, 0.05, 0.2, 0.15],
            [0.1, 0.1, 0.7, 0.1],
        ]
    )
    found = score(labels, probabilities, CLASSES, 0.65)
    assert (
        found.n == 6 and found.accuracy == pytest.approx(4 / 6) and found.majority_baseline == 0.5
    )
    assert found.confusion == ((2, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    assert found.top3 == pytest.approx(5 / 6)
    a, b, _, d = found.per_class
    assert (a.precision, a.recall, a.f1, a.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert (b.precision, b.recall, d.support, d.recall) == (0.5, 0.5, 0, 0.0)
    assert found.macro["recall"] == pytest.approx((2 / 3 + 0.5 + 1) / 3), (
        "a class without photos is not averaged in"
    )
    assert found.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.2, 0.8, 0.05, 0.7])))
    assert found.coverage == 0.5 and found.sure_accuracy == 1.0 and found.refused is None
    assert found.answered() == (
        "answered 50 of 100 photos, 100 of 100 answers were right (100.0%), and said 'not sure' to "
        "the others"
    )
    strange = np.array([True, False, False, False, False, False])
    other = score(labels, probabilities, CLASSES, 0.65, strange)
    assert other.refused == pytest.approx(1 / 6) and other.coverage == pytest.approx(2 / 6)
    assert other.accuracy == found.accuracy
    assert "said 'none of the classes' to 16.7%, and 'not sure' to the others" in str(
        other.answered()
    )
    assert set(found.as_dict()) >= {
        "n",
        "accuracy",
        "interval",
        "top3",
        "log_loss",
        "ece",
        "macro",
        "per_class",
        "classes",
        "confusion",
        "majority_baseline",
        "threshold",
        "coverage",
    }


def test_nothing_to_score() -> None:
    with pytest.raises(DatasetError, match="no photos to score"):
        score(np.zeros(0, np.int64), np.zeros((0, 4)), CLASSES, 0.5)


def test_counts_agree_with_scikit_learn() -> None:
    labels, logits = random_scores(150, sharpness=1.0)
    labels[labels == 2] = 1  # a class that is predicted but has no photo
    probabilities = softmax(logits)
    probabilities[:, 3] = 0  # and one that has photos but is never predicted
    found = score(labels, probabilities, CLASSES, 0.5)
    predicted = probabilities.argmax(axis=1)
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=range(4)))
    expected = precision_recall_fscore_support(
        labels, predicted, labels=range(4), zero_division=0.0
    )
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [getattr(row, name) for row in found.per_class] == pytest.approx(list(values))
    present = expected[3] > 0
    assert found.macro["f1"] == pytest.approx(expected[2][present].mean())


def test_scores_read_back_are_the_same() -> None:
    labels, logits = random_scores(40)
    for refused in (None, np.arange(40) < 3):
        found = score(labels, softmax(logits), CLASSES, 0.5, refused)
        assert Scores.from_dict(found.as_dict()) == found


@pytest.mark.parametrize(
    "name",
    [
        *MEASURES,
        "coverage",
        "threshold",
        "majority_baseline",
        "macro",
        "per_class",
        "confusion",
        "sure_accuracy",
        "refused",
        "interval",
    ],
)
def test_a_score_that_an_older_file_lacks_is_absent(name: str) -> None:
    labels, logits = random_scores(40)
    stored = score(labels, softmax(logits), CLASSES, 0.5).as_dict()
    read = Scores.from_dict({key: value for key, value in stored.items() if key != name})
    assert getattr(read, name) in (None, (), {}) or name == "interval"
    others = {key: value for key, value in read.as_dict().items() if key not in (name, "interval")}
    assert others == {key: stored[key] for key in others}


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"n": None}, {"accuracy": float("nan")}, {"accuracy": "high"}, {"classes": ["a"]},
     {"per_class": [{}]}, {"confusion": [[1]]}, {"log_loss": float("inf")}, {"interval": [0]}],
)  # fmt: skip
def test_invalid_scores_are_a_value_error(change: dict[str, object]) -> None:
    labels, logits = random_scores(40)
    stored = score(labels, softmax(logits), CLASSES, 0.5).as_dict()
    with pytest.raises(ValueError, match="not valid scores"):
        Scores.from_dict({**stored, **change})


def test_pairs_of_confused_classes_most_photos_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    probabilities = np.eye(4)[[0, 1, 1, 1, 1, 1, 2]]
    pairs = score(labels, probabilities, CLASSES, 0.5).confused_pairs()
    assert [(pair.label, pair.predicted, pair.count) for pair in pairs] == [
        ("a", "b", 2), ("b", "c", 1),
    ]  # fmt: skip
    assert pairs[0].share == pytest.approx(2 / 3)
