"""Missing splits: stratified, stable, duplicates together; and held-out splits kept clean."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.data import CLOTHING, MakeDataset, encoded, needs_shared, picture
from tailorbird.dataset import Dataset, Sample, clean, scan, split
from tailorbird.dataset.layout import find
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.files import sha256_file


def sample(content: str, label: str = "a", where: str | None = None, name: str = "") -> Sample:
    name = name or f"{where}/{label}/{content}"
    return Sample(Path(name), label, where, hashlib.sha256(content.encode()).hexdigest(), name)


def dataset_of(sizes: dict[str, int], salt: object = "") -> Dataset:
    return Dataset(
        Path(),
        tuple(
            sample(f"{salt}-{label}-{n}", label)
            for label, size in sizes.items()
            for n in range(size)
        ),
    )


def grouped(samples: Iterable[Sample], groups: Iterable[int]) -> Dataset:
    return Dataset(Path(), tuple(samples), (), tuple(groups))


def places(dataset: Dataset) -> dict[str, str | None]:
    return {sample.name: sample.split for sample in dataset.samples}


def moved(before: Dataset, after: Dataset) -> int:
    now = places(after)
    return sum(now[name] != where for name, where in places(before).items())


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=2), st.integers(1, 120), min_size=1, max_size=6
    ),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_every_class_is_split_close_to_the_fractions(sizes: dict[str, int], seed: int) -> None:
    result = split(dataset_of(sizes), seed=seed)
    for label, n in sizes.items():
        counts = {
            name: result.splits.get(name, {}).get(label, 0)
            for name in ("train", "validation", "test")
        }
        assert sum(counts.values()) == n
        if n < 3:
            assert counts["train"] == n
            continue
        tolerance = max(1.0, 1.5 * math.sqrt(n * 0.15 * 0.85))
        for name in ("validation", "test"):
            assert counts[name] >= 1
            assert abs(counts[name] - 0.15 * n) <= tolerance
        assert counts["train"] >= max(1, n / 5)


@given(st.integers(3, 300), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_any_fractions_leave_something_in_every_split(
    n: int, validation: float, test: float, seed: int
) -> None:
    result = split(dataset_of({"a": n}), fractions=(validation, test), seed=seed)
    assert set(result.splits) == {"train", "validation", "test"}


def test_the_seed_decides_the_split() -> None:
    whole = dataset_of({"a": 100, "b": 100})
    shuffled = replace(whole, samples=tuple(reversed(whole.samples)))
    assert places(split(whole)) == places(split(shuffled))
    assert places(split(whole)) == places(split(split(whole)))
    assert moved(split(whole), split(whole, seed=1)) > 40
    assert split(whole).fingerprint == split(whole).fingerprint != split(whole, seed=1).fingerprint


def test_names_and_other_classes_do_not_change_a_split() -> None:
    whole = split(dataset_of({"a": 50, "b": 50}))
    alone = split(dataset_of({"a": 50}))
    assert all(places(whole)[name] == where for name, where in places(alone).items())


@pytest.mark.parametrize(("classes", "size"), [(40, 25), (10, 100), (5, 400), (2, 1000)])
def test_ten_percent_more_photos_move_less_than_two_percent(classes: int, size: int) -> None:
    shares = []
    for trial in range(12):
        before = split(dataset_of({f"c{number}": size for number in range(classes)}, trial))
        after = split(
            dataset_of({f"c{number}": math.ceil(size * 1.1) for number in range(classes)}, trial)
        )
        shares.append(moved(before, after) / len(before))
    assert max(shares) < 0.02
    assert sum(shares) / len(shares) < 0.01


@given(
    st.lists(st.integers(10, 120), min_size=4, max_size=10),
    st.floats(0, 0.1),
    st.integers(0, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_stability_whatever_the_classes(sizes: list[int], more: float, salt: int) -> None:
    before = split(dataset_of({f"c{n}": size for n, size in enumerate(sizes)}, salt))
    after = split(
        dataset_of({f"c{n}": round(size * (1 + more)) for n, size in enumerate(sizes)}, salt)
    )
    assert moved(before, after) <= max(0.02 * len(before), 2 * len(sizes) * 0.5)


def test_stability_when_photos_are_removed() -> None:
    whole = dataset_of({f"c{number}": 110 for number in range(10)})
    fewer = replace(
        whole,
        samples=whole.samples[::11] and tuple(s for i, s in enumerate(whole.samples) if i % 11),
        groups=(),
    )
    assert moved(split(fewer), split(whole)) / len(fewer) < 0.02


@given(st.lists(st.integers(0, 25), min_size=30, max_size=120), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_groups_stay_together(groups: list[int], seed: int) -> None:
    samples = [sample(str(number), "ab"[group % 2]) for number, group in enumerate(groups)]
    result = split(grouped(samples, groups), seed=seed)
    where = defaultdict(set)
    for item, group in zip(result.samples, result.groups, strict=True):
        where[group].add(item.split)
    assert all(len(found) == 1 for found in where.values())


def test_splits_that_exist_stay_and_only_the_missing_are_made() -> None:
    train = [sample(f"t{n}", "ab"[n % 2], "train") for n in range(100)]
    test = [sample(f"x{n}", "ab"[n % 2], "test") for n in range(20)]
    result = split(Dataset(Path(), tuple(train + test)))
    assert result.of("test") == tuple(test)
    assert 8 <= len(result.of("validation")) <= 24
    validation = [replace(item, split="validation") for item in test]
    result = split(Dataset(Path(), tuple(train + validation)))
    assert result.of("validation") == tuple(validation)
    assert 8 <= len(result.of("test")) <= 24
    complete = Dataset(Path(), tuple(train + validation[:10] + test[10:]))
    assert split(complete).samples == complete.samples


def test_a_picture_of_the_test_set_never_validates() -> None:
    """A training copy of a test photo stays in train, where `clean` removes it."""
    train = [sample(f"t{n}", "a", "train") for n in range(40)]
    test = [sample(f"x{n}", "a", "test") for n in range(40)]
    result = split(grouped(train + test, [*range(40), *range(40)]))
    assert "validation" not in result.splits
    kept, left_out = clean(result)
    assert kept.of("train") == ()
    assert len(left_out) == 40


@pytest.mark.parametrize("fractions", [(0.0, 0.15), (0.15, 0.5), (-1, 0.1), (float("nan"), 0.1)])
def test_fractions_out_of_range(fractions: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match=r"must be above 0 and at most 0\.4"):
        split(dataset_of({"a": 10}), fractions=fractions)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DatasetError, match="only validation and test"):
        split(Dataset(Path(), (sample("1", "a", "test"), sample("2", "a", "validation"))))


def test_clean_leaves_out_leaks_conflicts_and_repeats() -> None:
    samples = [
        sample("same", "a", "train", "1 train, identical in test"),
        sample("same", "a", "test", "2 test"),
        sample("near", "a", "train", "3 train, near in validation"),
        sample("near'", "a", "validation", "4 validation"),
        sample("held", "a", "validation", "5 validation, near in test"),
        sample("held'", "a", "test", "6 test"),
        sample("twice", "a", "train", "7 train, first"),
        sample("twice", "a", "train", "8 train, second"),
        sample("both", "a", "train", "9 train, also b"),
        sample("both", "b", "train", "9 train, also a"),
        sample("torn", "a", "test", "9 test, b in train"),
        sample("torn", "b", "train", "9 train, a in test"),
        sample("alone", "b", "train", "9 train"),
        sample("close", "b", "train", "9 train, near the next"),
        sample("close'", "b", "train", "9 train, near the last"),
    ]
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7]
    kept, left_out = clean(grouped(samples, groups))
    assert {item.name: reason for item, reason in left_out} == {
        "1 train, identical in test": "identical to 2 test, which is in test",
        "3 train, near in validation": "a copy of 4 validation, which is in validation",
        "5 validation, near in test": "a copy of 6 test, which is in test",
        "8 train, second": "identical to 7 train, first, which is kept",
        "9 train, also b": "an identical photo is labelled b, this one a",
        "9 train, also a": "an identical photo is labelled a, this one b",
        "9 test, b in train": "an identical photo is labelled b, this one a",
        "9 train, a in test": "an identical photo is labelled a, this one b",
    }
    assert len(kept) == len(kept.groups) == 7
    again, nothing = clean(kept)
    assert (again, nothing) == (kept, ())


def test_a_copy_of_a_contradictory_test_photo_is_left_out_of_train_too() -> None:
    samples = [
        sample("x", "a", "test"),
        sample("x", "b", "test", "other"),
        sample("x'", "a", "train"),
    ]
    kept, left_out = clean(grouped(samples, [0, 0, 0]))
    assert kept.samples == ()
    assert len(left_out) == 3


def test_from_the_folder_to_clean_splits(make_dataset: MakeDataset) -> None:
    root = make_dataset(labels=("a", "b"), count=30)
    for n in range(6):
        (root / "a" / f"re{n}.jpg").write_bytes(encoded(picture("a", n), quality=80))
        (root / "b" / f"copy{n}.jpg").write_bytes((root / "b" / f"b-00{n}.jpg").read_bytes())
    kept, left_out = clean(split(scan(root)))
    assert {item.name for item, _ in left_out} == {f"b/copy{n}.jpg" for n in range(6)}
    held = {group: item.split for item, group in zip(kept.samples, kept.groups, strict=True)}
    assert all(
        held[group] == item.split for item, group in zip(kept.samples, kept.groups, strict=True)
    )
    assert set(kept.splits) == {"train", "validation", "test"}


@needs_shared
def test_the_clothing_photos_as_if_they_had_no_splits() -> None:
    samples = tuple(
        Sample(entry.path, entry.label, None, sha256_file(entry.path), entry.name)
        for entry in find(CLOTHING).entries
    )
    bare = Dataset(CLOTHING, samples)
    whole = split(bare)
    for label, n in whole.counts.items():
        assert 0.1 < whole.splits["test"][label] / n < 0.2
        assert 0.1 < whole.splits["validation"][label] / n < 0.2
    fewer = Dataset(CLOTHING, tuple(item for item in samples if int(item.digest[:8], 16) % 11))
    assert moved(split(fewer), whole) / len(fewer) < 0.02
