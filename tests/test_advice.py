"""What to do next: from what was measured, in order of what it should bring, two steps at most."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from support.data import MakeDataset
from tailorbird.advice import LITE_REMOVES, Trained, after_scan, after_training
from tailorbird.dataset import Dataset, Sample
from tailorbird.metrics.scores import Scores, score
from tailorbird.metrics.thresholds import Threshold
from tailorbird.training import train

KEPT = Threshold(0.5, 0.97, 0.9, 0.95, True, 0.97, 1000)


def scores_of(mistakes: dict[tuple[str, str], int], photos: int = 100) -> Scores:
    """`photos` of each of the classes a, b, c; {(label, predicted): count} are wrong."""
    names = ["a", "b", "c"]
    labels = np.arange(3).repeat(photos)
    predicted = labels.copy()
    for (label, wrong), count in mistakes.items():
        free = np.flatnonzero((labels == names.index(label)) & (predicted == labels))
        predicted[free[:count]] = names.index(wrong)
    return score(labels, np.eye(3)[predicted], names, 0.5)


def measured(mistakes: dict[tuple[str, str], int], **changes: object) -> Trained:
    base = Trained(
        photos="my photos",
        backbone="other.onnx",
        frozen=True,
        judged=scores_of(mistakes),
        test=scores_of({}, 300),
        threshold=KEPT,
        counts={"a": 70, "b": 70, "c": 70},
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_model_without_a_pattern_of_mistakes_gets_no_advice() -> None:
    assert after_training(measured({})) == ()
    assert after_training(measured({("a", "b"): 2, ("b", "a"): 2})) == ()


def test_pocket_is_told_of_lite_and_lite_of_fine_tuning() -> None:
    mistakes = {("a", "b"): 30}
    (step,) = after_training(
        measured(mistakes, backbone="pocket", counts={"a": 90, "b": 70, "c": 70})
    )
    assert step.command == "tailorbird train 'my photos' --backbone lite -o model.onnx"
    assert step.points == pytest.approx(LITE_REMOVES * 10) and "4.8 points" in step.text
    (step,) = after_training(
        measured(mistakes, backbone="lite", counts={"a": 90, "b": 70, "c": 70})
    )
    assert step.command.startswith("tailorbird train 'my photos' --finetune --ema 0.95 --views 8 ")
    assert "4.0 points" in step.text
    tuned = measured(mistakes, backbone="lite", frozen=False, counts={"a": 90, "b": 70, "c": 70})
    assert after_training(tuned) == ()


def test_two_classes_confused_both_ways_are_named_with_both_counts() -> None:
    (step, *_) = after_training(measured({("a", "b"): 12, ("b", "a"): 9}))
    assert step.text.startswith("a and b are taken for each other (12 and 9 of 300 photos)")
    assert step.points == pytest.approx(7) and step.command == "tailorbird review 'my photos'"
    one_way = after_training(measured({("a", "b"): 12}))
    assert not any("taken for each other" in step.text for step in one_way)


def test_a_weak_class_with_few_photos_needs_more_of_them() -> None:
    (step,) = after_training(
        measured({("c", "a"): 20, ("c", "b"): 20}, counts={"a": 90, "b": 90, "c": 30})
    )
    assert step.text == (
        "add photos of c: 60 of 100 are recognised, and it has only 30; twice as many may bring "
        "4.0 points"
    )
    assert step.command == "tailorbird learning-curve 'my photos'"
    many = measured({("c", "a"): 20, ("c", "b"): 20}, counts={"a": 90, "b": 90, "c": 300})
    assert after_training(many) == ()


def test_steps_are_ordered_by_what_they_should_bring_and_are_two_at_most() -> None:
    found = after_training(
        measured(
            {("a", "b"): 20, ("b", "a"): 20, ("c", "a"): 40},
            backbone="pocket",
            counts={"a": 90, "b": 90, "c": 30},
            suspects=6,
        )
    )
    points = [step.points or 0.0 for step in found]
    assert len(found) == 2 and points == sorted(points, reverse=True)
    assert "taken for each other" in found[0].text and "lite" in found[1].text
    (first, *_) = after_training(measured({}, suspects=40))
    assert first.command == "tailorbird review 'my photos'" and "40 photos" in first.text


def test_too_few_photos_come_first() -> None:
    mistakes = {("a", "b"): 20, ("b", "a"): 20}
    small = measured(mistakes, test=scores_of({}, 6))
    assert after_training(small)[0].text.startswith("add photos: 18 test photos are too few")
    missed = dataclasses.replace(KEPT, reached=False, needed=120, crossfitted=True)
    first, second = after_training(measured(mistakes, threshold=missed))
    assert first.text.startswith("add about 120 photos, so that 95 of 100 right answers")
    assert first.command == "tailorbird train 'my photos' -o model.onnx" and first.points is None
    assert "taken for each other" in second.text


def dataset(counts: dict[str, int]) -> Dataset:
    samples = [
        Sample(Path(f"{label}/{i}.jpg"), label, None, f"{i:064x}", f"{label}/{i}.jpg")
        for label, count in counts.items()
        for i in range(count)
    ]
    return Dataset(Path("d"), tuple(samples))


def test_after_a_clean_scan_comes_training() -> None:
    (step,) = after_scan(dataset({"a": 30, "b": 30}), "d", to_review=0)
    assert (step.text, step.command) == ("train", "tailorbird train d -o model.onnx")


def test_after_a_scan_findings_and_small_classes_come_first() -> None:
    first, second = after_scan(dataset({"a": 30, "b": 4}), "d", to_review=3)
    assert (first.text, first.command) == ("look at 3 findings", "tailorbird review d")
    assert second.text.startswith("add photos of b: it has 4, and at least 10 are needed")
    confused = [("a", "b")] * 20 + [("b", "a")] * 15 + [("a", "c")]
    first, second = after_scan(
        dataset({"a": 90, "b": 90, "c": 90}), "d",
        to_review=9, judged=270, suspects=9, confused=confused,
    )  # fmt: skip
    assert first.text.startswith("a and b are taken for each other (20 and 15 of 270 photos)")
    assert second.text == "look at 9 findings, 9 of them labels that are probably wrong"


def test_train_gives_its_advice_everywhere(make_dataset: MakeDataset, tmp_path: Path) -> None:
    result = train(make_dataset(), tmp_path / "m.onnx", backbone="pocket")
    assert 1 <= len(result.advice) <= 2
    assert result.as_dict()["advice"] == [step.as_dict() for step in result.advice]
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "What to do next" in page and result.advice[0].command.split()[-1] in page
