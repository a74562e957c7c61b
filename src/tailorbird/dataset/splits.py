"""Make missing splits from train; leave out photos that would leak into a held-out split."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tailorbird.dataset.grouping import CHOICES
from tailorbird.dataset.samples import SPLITS, Dataset, Sample
from tailorbird.errors import DatasetError, SettingsError

FRACTIONS: Final = (0.15, 0.15)
"""Shares of each class that go to validation and test where these are missing."""


def split(
    dataset: Dataset, *, fractions: tuple[float, float] = FRACTIONS, seed: int = 0
) -> Dataset:
    """Give every sample a split: validation and test, where missing, are made from train.

    fractions: shares of train to move to validation and to test; ignored for a split that exists.

    A photo's place is a number in [0, 1) hashed from its content and the seed: below the test
    fraction it is in test, above one minus the validation fraction in validation. That alone never
    moves a photo when others are added, but is uneven in small classes. So the count n of a class
    with fraction f is held within 1.5 standard deviations of the binomial distribution,
    1.5 sqrt(n f (1 - f)), around n f, by moving the photos closest to the threshold; exact shares
    would move three times as many photos when a class grows. Samples of a group stay together. Each
    class with at least three groups is in every split; with fewer it is only in train. A group that
    is also in a split that exists stays in train (and `clean` leaves it out).

    Raises:
        SettingsError: a fraction is not in (0, 0.4].
        DatasetError: there is no training sample, or a class cannot be divided.
    """
    bad = [
        f"{name} is {f!r}"
        for name, f in zip(("validation", "test"), fractions, strict=True)
        if not 0 < f <= 0.4
    ]
    if bad:
        raise SettingsError(
            f"the fraction for {' and for '.join(bad)}; "
            "it must be above 0 and at most 0.4, such as 0.15"
        )
    present = {sample.split for sample in dataset.samples}
    if not present & {"train", None}:
        raise DatasetError(
            "there is no training photo: only "
            + " and ".join(name for name in SPLITS if name in present)
        )
    missing = {
        name: f
        for name, f in zip(("validation", "test"), fractions, strict=True)
        if name not in present
    }
    if missing and dataset.one_scene:
        raise DatasetError(one_scene_problem(dataset))
    assigned: dict[int, str] = {}
    for places in _places(dataset, seed).values():
        assigned.update(_assign(places, missing))
    samples = tuple(
        sample
        if sample.split in ("validation", "test")
        else _with_split(sample, assigned.get(group, "train"))
        for sample, group in zip(dataset.samples, dataset.groups, strict=True)
    )
    return replace(dataset, samples=samples)


def one_scene_problem(dataset: Dataset) -> str:
    """Return why the classes in `dataset.one_scene` cannot be divided, and what to do."""
    labels = ", ".join(dataset.one_scene[:4]) + (" ..." if len(dataset.one_scene) > 4 else "")
    return (
        f"the photos of {labels} cannot be divided into train, validation and test: nearly all are "
        f"nearly identical, as from a fixed camera, and their names give no order. {CHOICES}; "
        "or put them into split folders"
    )


def _with_split(sample: Sample, name: str) -> Sample:
    return sample if sample.split == name else replace(sample, split=name)


def _places(dataset: Dataset, seed: int) -> dict[str, list[tuple[float, int]]]:
    """Return the free groups of each class as (place in [0, 1), group), sorted by place.

    A group has the smallest digest of its samples, and the class of that sample.
    """
    first: dict[int, Sample] = {}
    held = set()
    for sample, group in zip(dataset.samples, dataset.groups, strict=True):
        known = first.get(group)
        if known is None or (sample.digest, sample.label) < (known.digest, known.label):
            first[group] = sample
        if sample.split in ("validation", "test"):
            held.add(group)
    places: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for group, sample in first.items():
        if group not in held:
            key = hashlib.sha256(f"{seed}:{sample.digest}".encode()).digest()[:8]
            places[sample.label].append((int.from_bytes(key, "big") / 2**64, group))
    return {label: sorted(found) for label, found in places.items()}


def _assign(places: Sequence[tuple[float, int]], missing: dict[str, float]) -> dict[int, str]:
    """Return the groups of one class that leave train: lowest places test, highest validation."""
    n = len(places)
    if n < 3:
        return {}
    result: dict[int, str] = {}
    if "test" in missing:
        taken = _within(sum(place < missing["test"] for place, _ in places), n, missing["test"])
        result.update((group, "test") for _, group in places[:taken])
    if "validation" in missing:
        taken = _within(
            sum(place >= 1 - missing["validation"] for place, _ in places), n, missing["validation"]
        )
        result.update((group, "validation") for _, group in places[n - taken :])
    return result


def _within(taken: int, n: int, fraction: float) -> int:
    """Return `taken` of n, held within 1.5 standard deviations of n * fraction.

    At least 1 and at most two fifths, or a third where n is below 6.
    """
    spread = 1.5 * math.sqrt(n * fraction * (1 - fraction))
    least = max(1, math.ceil(n * fraction - spread))
    most = max(least, min(math.floor(n * fraction + spread), n // 3 if n < 6 else n * 2 // 5))
    return min(max(taken, least), most)


def clean(dataset: Dataset) -> tuple[Dataset, tuple[tuple[Sample, str], ...]]:
    """Leave out samples that would bias training or scores; return them with their reasons.

    These are photos of which an identical copy has another label, in every split; training photos
    that share a group with validation or test; validation photos that share one with test; and of
    identical photos with the same label and split all but the first by name.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    held: dict[str, dict[int, list[int]]] = {
        "validation": defaultdict(list),
        "test": defaultdict(list),
    }
    for i, sample in enumerate(dataset.samples):
        labels[sample.digest].add(sample.label)
        if sample.split in held:
            held[sample.split][dataset.groups[i]].append(i)
    kept: list[int] = []
    left_out: list[tuple[Sample, str]] = []
    seen: dict[tuple[str, str, str | None], Sample] = {}
    for i, sample in enumerate(dataset.samples):
        reason = _conflict(sample, labels[sample.digest]) or _leak(dataset, i, held)
        if reason is None:
            first = seen.setdefault((sample.digest, sample.label, sample.split), sample)
            if first is not sample:
                reason = f"identical to {first.name}, which is kept"
        if reason is None:
            kept.append(i)
        else:
            left_out.append((sample, reason))
    result = replace(
        dataset,
        samples=tuple(dataset.samples[i] for i in kept),
        groups=tuple(dataset.groups[i] for i in kept),
        pictures=tuple(dataset.pictures[i] for i in kept),
    )
    return result, tuple(left_out)


def _conflict(sample: Sample, labels: set[str]) -> str | None:
    if len(labels) == 1:
        return None
    others = ", ".join(sorted(labels - {sample.label}))
    return f"an identical photo is labelled {others}, this one {sample.label}"


def _leak(dataset: Dataset, i: int, held: dict[str, dict[int, list[int]]]) -> str | None:
    """Return why a sample may not stay in its split: its picture or item is in a later split."""
    sample = dataset.samples[i]
    later = {"validation": ("test",), "test": ()}.get(
        sample.split or "train", ("test", "validation")
    )
    for name in later:
        for j in held[name].get(dataset.groups[i], ()):
            other = dataset.samples[j]
            if other.digest == sample.digest:
                how = "identical to"
            elif sample.group is not None and sample.group == other.group:
                how = f"in the same group ({sample.group}) as"
            elif dataset.pictures[i] == dataset.pictures[j]:
                how = "a copy of"
            else:
                how = "in a group of copies with"
            return f"{how} {other.name}, which is in {name}"
    return None
