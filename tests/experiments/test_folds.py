"""Folds: stratified, seeded, never through a group; the test split is never read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.experiment_data import blobs
from tailorbird.dataset import Sample, clean, scan, split
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.experiments import learning_curve, read_data, sweep
from tailorbird.experiments.cross_validation import fold_numbers, nested_order, partitions
from tailorbird.features import Embedder


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=10, max_size=120),
    st.integers(2, 5),
    st.integers(0, 1000),
)
def test_folds_never_split_a_group_and_every_photo_has_one(
    rows: list[tuple[int, int]], folds: int, seed: int
) -> None:
    labels, groups = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    if len(np.unique(groups)) < folds:
        with pytest.raises(SettingsError, match=r"count as only|folds is"):
            fold_numbers(labels, groups, folds, (seed,))
        return
    numbers = fold_numbers(labels, groups, folds, (seed,))
    for group in np.unique(groups):
        assert len(np.unique(numbers[groups == group])) == 1
    assert set(numbers) <= set(range(folds)) and numbers.shape == labels.shape
    np.testing.assert_array_equal(numbers, fold_numbers(labels, groups, folds, (seed,)))


def test_folds_are_stratified_and_differ_by_seed() -> None:
    labels = np.repeat(np.arange(3), (50, 23, 7))
    groups = np.arange(80)
    numbers = fold_numbers(labels, groups, 5, (0, 0))
    for label in range(3):
        counts = np.bincount(numbers[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(numbers)) <= 1
    assert (numbers != fold_numbers(labels, groups, 5, (0, 1))).any()


def test_partitions_hold_out_every_photo_once_a_round() -> None:
    photos = blobs((20, 20), duplicates=9)
    parts = partitions(photos.labels, photos.groups, folds=4, seeds=3, seed=5)
    assert len(parts) == 12 and len({part.seed for part in parts}) == 12
    for start in range(0, 12, 4):
        held = np.concatenate([part.held_out for part in parts[start : start + 4]])
        np.testing.assert_array_equal(np.sort(held), np.arange(len(photos)))
    for part in parts:
        assert not set(part.train) & set(part.held_out)
        assert not set(photos.groups[part.train]) & set(photos.groups[part.held_out])
    with pytest.raises(SettingsError, match="seeds is 0"):
        partitions(photos.labels, photos.groups, folds=4, seeds=0, seed=0)
    with pytest.raises(SettingsError, match="folds is 1"):
        partitions(photos.labels, photos.groups, folds=1, seeds=1, seed=0)


def test_every_beginning_of_the_nested_order_is_stratified() -> None:
    photos = blobs((100, 40, 12), duplicates=10)
    rows = np.arange(len(photos))
    order = nested_order(photos.labels, photos.groups, rows, (1,))
    np.testing.assert_array_equal(np.sort(order), rows)
    shares = np.bincount(photos.labels) / len(photos)
    for part in (len(rows) // 4, len(rows) // 2):
        counts = np.bincount(photos.labels[order[:part]], minlength=3)
        assert (np.abs(counts - part * shares) <= 5).all()


def test_the_photos_are_those_of_train_and_validation_and_test_features_are_never_read(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = clean(split(scan(shapes), seed=3))
    tests = {bytes.fromhex(sample.digest) for sample in dataset.samples if sample.split == "test"}
    known = {bytes.fromhex(sample.digest) for sample in dataset.samples if sample.split != "test"}
    read: set[bytes] = set()
    plain = Embedder.matrix

    def poisoned(self: Embedder, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        digests = [bytes.fromhex(sample.digest) for sample in samples]
        read.update(digests)
        rows = plain(self, samples)
        rows[[digest in tests for digest in digests]] = np.nan
        return rows

    monkeypatch.setattr(Embedder, "matrix", poisoned)
    photos = read_data(shapes, backbone="pocket", seed=3)
    assert tests and read == known and np.isfinite(photos.features).all()
    assert photos.test_photos == len(tests) and len(photos) == len(known)
    assert photos.validation.sum() == sum(
        sample.split == "validation" for sample in dataset.samples
    )
    read.clear()
    result = sweep(
        shapes,
        {"learning_rate": [0.01], "epochs": [3]},
        folds=2,
        seeds=1,
        seed=3,
        backbone="pocket",
    )
    assert (
        read == known and result.test_photos == len(tests) and np.isfinite(result.chosen.log_loss)
    )
    learning_curve(shapes, fixed={"epochs": 3}, folds=2, seeds=1, seed=3, backbone="pocket")
    assert not read & tests


def test_one_class_is_refused(make_dataset: object) -> None:
    folder = make_dataset(labels=("disc",), count=6)  # type: ignore[operator]
    with pytest.raises(DatasetError, match="at least two"):
        read_data(folder)


def test_photos_that_count_as_one_picture_are_refused_with_what_to_do() -> None:
    labels, groups = np.repeat(np.arange(2), 40), np.zeros(80, np.int64)
    with pytest.raises(SettingsError, match=r"80 photos count as only 1 different picture:.*keep"):
        fold_numbers(labels, groups, 5, (0,))
    groups[:3] = 1, 2, 3
    with pytest.raises(SettingsError, match="use at most 4 folds"):
        fold_numbers(labels, groups, 5, (0,))
