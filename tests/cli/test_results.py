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
