"""Scores as the command line prints them."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.cli.results import print_confusion, print_scores
from tailorbird.metrics.scores import Scores, score


def scores(classes: int) -> Scores:
    """Twelve photos per class; class 1 is predicted as class 0 five times, class 3 as 2 twice."""
    labels = np.arange(classes).repeat(12)
    predicted = labels.copy()
    predicted[np.flatnonzero(labels == 1)[:5]] = 0
    predicted[np.flatnonzero(labels == 3)[:2]] = 2
    names = [f"species {number:03}" for number in range(classes)]
    return score(labels, np.eye(classes)[predicted], names, 0.5)


@pytest.mark.parametrize("classes", [14, 400])
def test_many_classes_list_the_most_confused_pairs(
    classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_confusion(scores(classes))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"Most confused pairs of {classes} classes:",
        "  species 001 predicted as species 000: 5 (41.7% of its photos)",
        "  species 003 predicted as species 002: 2 (16.7% of its photos)",
    ]


def test_few_classes_have_a_whole_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    print_confusion(scores(6))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Confusion matrix: rows are true classes, columns predicted classes"
    assert len(lines) == 6 + 2 and all(len(line) <= 80 for line in lines)


def test_every_known_score_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(4)
    print_scores(found, "Test")
    text = capsys.readouterr().out
    for _, measure, value in found.measures():
        assert f"{measure.title} {measure.text(value)}" in text
    print_scores(Scores.from_dict({"n": 4, "accuracy": 0.5, "classes": ["a", "b"]}), "Test")
    assert "log-loss" not in capsys.readouterr().out


def test_few_photos_say_so_first_and_others_their_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = np.arange(2).repeat(9)
    few = score(labels, np.eye(2)[labels], ["a", "b"], 0.5)
    print_scores(few, "Test")
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == (
        "Test: 18 photos are too few to say: of new ones, between 82% and 100% would be right "
        "(95% interval); of these, 18 were"
    )
    assert second == "  answered 100 of 100 photos, 100 of 100 answers were right (100.0%)"
    assert few.too_few and few.as_dict()["too_few"] is True

    many = np.arange(2).repeat(300)
    predicted = np.eye(2)[many]
    predicted[:30] = [0.4, 0.6]
    print_scores(score(many, predicted, ["a", "b"], 0.9), "Test")
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "Test: accuracy 95.0% (95% interval 93.0% to 96.5%) on 600 photos"
    assert second == (
        "  answered 95 of 100 photos, 100 of 100 answers were right (100.0%), and said 'not sure' "
        "to the others"
    )
    print_scores(score(many, predicted * 0.5, ["a", "b"], 0.9), "Test")
    assert "answered none of the photos: it was not sure (0.9) of any" in capsys.readouterr().out
