"""Photos that look like none of the others are found, whatever their label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.data import draw_dataset
from tailorbird.dataset import NONE_OF_THESE, Sample
from tailorbird.label_errors import inspect_dataset
from tailorbird.label_errors.unlike import FEWEST, unlike_others
from tailorbird.rendering.strangers import draw_strangers
from tailorbird.review.opening import open_review


def samples(labels: list[str]) -> list[Sample]:
    return [
        Sample(Path(f"{i}.jpg"), label, None, f"{i:064x}", f"{i}.jpg")
        for i, label in enumerate(labels)
    ]


def cloud(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Draw features of four classes, each in a direction of its own."""
    random = np.random.default_rng(seed)
    which = random.integers(4, size=count)
    where = np.random.default_rng(1).normal(size=(4, 50))
    rows = where[which] + 0.3 * random.normal(size=(count, 50))
    return rows.astype(np.float32), [f"class {label}" for label in which]


def test_strangers_among_the_photos_are_found_first() -> None:
    rows, labels = cloud(400)
    strange = np.random.default_rng(5).normal(size=(3, 50)).astype(np.float32)
    rows[[10, 200, 390]] = strange
    found = unlike_others(samples(labels), rows, range(400))
    assert {one.sample.name for one in found[:3]} == {"10.jpg", "200.jpg", "390.jpg"}
    assert len(found) <= 4, "at most one in a hundred is reported"
    assert all(one.distance > 2 * one.usual for one in found[:3])
    assert found[0].finding().kind == "unfamiliar"
    assert "looks like none of the other photos" in found[0].message()


def test_a_wrong_label_alone_is_nothing_strange() -> None:
    rows, labels = cloud(400)
    labels[7] = "class 0" if labels[7] != "class 0" else "class 1"
    found = unlike_others(samples(labels), rows, range(400))
    assert "7.jpg" not in {one.sample.name for one in found}


def test_copies_of_a_stranger_do_not_make_it_usual() -> None:
    rows, labels = cloud(400)
    rows[:3] = np.random.default_rng(5).normal(size=50).astype(np.float32)
    groups = [0, 0, 0, *range(3, 400)]
    found = unlike_others(samples(labels), rows, groups)
    assert {"0.jpg", "1.jpg", "2.jpg"} <= {one.sample.name for one in found}


def test_few_photos_and_photos_of_no_class_are_not_reported() -> None:
    rows, labels = cloud(FEWEST - 1)
    rows[0] = -rows[0]
    assert unlike_others(samples(labels), rows, range(len(rows))) == ()
    rows, labels = cloud(200)
    rows[0], labels[0] = np.random.default_rng(5).normal(size=50), NONE_OF_THESE
    found = unlike_others(samples(labels), rows, range(200))
    assert "0.jpg" not in {one.sample.name for one in found}


@pytest.fixture
def with_a_stranger(tmp_path: Path) -> Path:
    photos = draw_dataset(tmp_path / "shapes", count=40)
    draw_strangers(1)["noise"][0].save(photos / "box" / "strange.png")
    return photos


def test_scan_reports_them_and_review_asks_about_them(with_a_stranger: Path) -> None:
    found = inspect_dataset(with_a_stranger, judge_labels=True, backbone="pocket")
    (first, *_) = [one for one in found.dataset.findings if one.kind == "unfamiliar"]
    assert first.paths == ("box/strange.png",)
    said = found.as_dict()["suspects"]["unfamiliar"]
    assert said[0]["path"] == "box/strange.png" and said[0]["distance"] > said[0]["usual"]
    review = open_review(with_a_stranger, backbone="pocket")
    asked = [item for item in review.items if item.kinds == ("unfamiliar",)]
    assert review.dataset.samples[asked[0].photos[0]].name == "box/strange.png"
    assert asked[0].proposal == "" and "Exclude it" in asked[0].reason
