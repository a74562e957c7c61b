"""Group photos that must stay on one side of every split and fold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from tailorbird.dataset.augmented_names import augmented_copies, augmented_findings
from tailorbird.dataset.duplicates.disjoint_sets import DisjointSets
from tailorbird.dataset.duplicates.groups import picture_findings
from tailorbird.dataset.samples import Finding, Sample
from tailorbird.dataset.settings import DataSettings

SCENE: Final = 8
"""Minimum number of nearly identical photos, most of a class, that count as one fixed scene."""

_BLOCK: Final = 4
_MOST_BLOCKS: Final = 20
_IN_ORDER: Final = 0.9
"""Share of a scene's names that must have the same form for their numbers to define an order."""


@dataclass(frozen=True)
class Grouped:
    """Samples with their groups.

    groups: one number per sample; the same number stays on one side of every split and fold.
    pictures: one number per sample; the same number shows the same picture. one_scene: classes that
    cannot be split, see `Dataset`.
    """

    samples: tuple[Sample, ...]
    groups: tuple[int, ...]
    pictures: tuple[int, ...]
    one_scene: tuple[str, ...]
    findings: tuple[Finding, ...]


def group_samples(
    samples: Sequence[Sample], pictures: Sequence[int], data: DataSettings
) -> Grouped:
    """Group samples by picture, fixed scene, and the item they show.

    Identical files always share a group, and so do photos named like augmented copies. Nearly
    identical photos (equal numbers in `pictures`) share one unless `data.near_duplicates` is
    `keep`, or the source already groups them by item. Where nearly identical photos are most of a
    class, as from a fixed camera, the whole class would become one group: such photos are grouped
    by the sequence in their names instead, within their class and split.
    """
    identical = _numbered(sample.digest for sample in samples)
    if data.near_duplicates == "keep":
        pictures = identical
    elif data.near_duplicates == "drop":
        return _dropped(samples, pictures)
    scenes = _scenes(samples, pictures)
    pictures = [-1 - i if p in scenes else p for i, p in zip(identical, pictures, strict=True)]
    near: list[object] = list(pictures)
    findings: list[Finding] = []
    one_scene: list[str] = []
    for number in sorted(scenes):
        for part in scenes[number]:
            blocks = _blocks([samples[i] for i in part])
            for i, block in zip(part, blocks or [0] * len(part), strict=True):
                near[i] = (number, samples[i].label, samples[i].split, block)
            first = samples[part[0]]
            findings.append(_scene_finding([samples[i] for i in part], blocks))
            if blocks is None and first.split in ("train", None):
                one_scene.append(first.label)
    keys = [
        (sample.group and ("item", sample.group)) or key
        for sample, key in zip(samples, near, strict=True)
    ]
    copies = augmented_copies(samples)
    groups = _united(keys, identical, copies)
    if any(sample.group for sample in samples):
        one_scene = []
    return Grouped(
        tuple(samples),
        groups,
        tuple(_numbered(pictures)),
        tuple(sorted(set(one_scene))),
        (*picture_findings(samples, pictures), *augmented_findings(samples, copies), *findings),
    )


def _numbered(keys: Iterable[object]) -> list[int]:
    """Number the keys from 0 in order of appearance; equal keys get equal numbers."""
    numbers: dict[object, int] = defaultdict(count().__next__)
    return [numbers[key] for key in keys]


def _united(*columns: Sequence[object]) -> tuple[int, ...]:
    """Return a group number per item; items that are equal in any column share a group."""
    sets = DisjointSets(len(columns[0]))
    for keys in columns:
        first: dict[object, int] = {}
        for i, key in enumerate(keys):
            sets.join(first.setdefault(key, i), i)
    return tuple(_numbered(sets.root(i) for i in range(len(columns[0]))))


def _dropped(samples: Sequence[Sample], pictures: Sequence[int]) -> Grouped:
    """Keep the first sample by name of each label, split and picture."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for i, (sample, picture) in enumerate(zip(samples, pictures, strict=True)):
        key = (sample.label, sample.split, picture)
        if key not in seen:
            seen.add(key)
            kept.append(i)
    left = tuple(samples[i] for i in kept)
    numbers = [pictures[i] for i in kept]
    keys = [(s.group and ("item", s.group)) or n for s, n in zip(left, numbers, strict=True)]
    dropped = len(samples) - len(left)
    findings = [*picture_findings(left, numbers)]
    if dropped:
        message = f"{dropped:,} photos dropped that are nearly identical to one that is kept"
        names = sorted({s.name for s in samples} - {s.name for s in left})
        findings.append(Finding("near-duplicate", tuple(names), message))
    identical = _numbered(sample.digest for sample in left)
    return Grouped(
        left,
        _united(keys, identical, augmented_copies(left)),
        tuple(_numbered(numbers)),
        (),
        tuple(findings),
    )


def _scenes(samples: Sequence[Sample], pictures: Sequence[int]) -> dict[int, list[list[int]]]:
    """Return pictures that make up most of a class: {picture: sample numbers of each part}.

    A part is a class in a split.
    """
    distinct: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    parts: dict[int, dict[tuple[str, str | None], list[int]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for i, (sample, picture) in enumerate(zip(samples, pictures, strict=True)):
        distinct[sample.label, sample.split].add(sample.digest)
        parts[picture][sample.label, sample.split].append(i)

    def most(key: tuple[str, str | None], part: list[int]) -> bool:
        files = len({samples[i].digest for i in part})
        return files >= SCENE and 2 * files > len(distinct[key])

    return {
        picture: list(by_class.values())
        for picture, by_class in parts.items()
        if any(most(key, part) for key, part in by_class.items())
    }


def _blocks(samples: Sequence[Sample]) -> list[int] | None:
    """Return the number of each sample's block of consecutive names, or None without an order.

    The names of nearly all must have the same form, apart from numbers (a counter or a time).
    """
    forms = [re.sub(r"\d+", "#", sample.name) for sample in samples]
    common = max(sorted(set(forms)), key=forms.count)
    numbers = [tuple(map(int, re.findall(r"\d+", sample.name))) for sample in samples]
    in_order = forms.count(common)
    if "#" not in common or in_order < max(3, _IN_ORDER * len(samples)):
        return None
    if len(set(numbers)) < _IN_ORDER * len(samples):
        return None
    blocks = min(_MOST_BLOCKS, max(3, len(samples) // _BLOCK))
    order = sorted(range(len(samples)), key=lambda i: (forms[i] != common, numbers[i]))
    result = [0] * len(samples)
    for rank, i in enumerate(order):
        result[i] = rank * blocks // len(samples)
    return result


def _scene_finding(samples: Sequence[Sample], blocks: list[int] | None) -> Finding:
    where = f" in {samples[0].split}" if samples[0].split else ""
    what = f"{len(samples):,} photos of {samples[0].label}{where} are nearly identical"
    if blocks is None:
        how = "nothing in their names orders them, so they cannot be divided"
    else:
        how = (
            f"they are divided into {max(blocks) + 1} blocks of consecutive names, each of which "
            "stays on one side of every split"
        )
    return Finding(
        "one-scene",
        tuple(sample.name for sample in samples),
        f"{what}, as from a fixed camera: {how}. {CHOICES}",
    )


CHOICES: Final = (
    "--near-duplicates keep treats them as different photos, drop keeps one of them, "
    "--group-by PATTERN groups them by their names"
)
"""Advice about photos that are too similar to be divided."""
