"""Who trains and who is held out: folds that are stratified, seeded, and never split a picture's copies."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailorbird.errors import SettingsError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Rows that train, rows held out (int64, disjoint), and the seed of the fit, as in `head.fit`."""

    train: Rows
    held_out: Rows
    seed: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Photos held out over photos that train."""
        return len(self.held_out) / len(self.train)


def fold_numbers(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: tuple[int, ...]
) -> Rows:
    """The fold, 0 to folds - 1, of each of N photos: int64 (N,).

    labels: int64 (N,). groups: int64 (N,); photos of one group go to the same fold, and count for the commonest label among
    them. Each class is dealt out evenly, its groups in random order, larger ones first, each to the fold that holds fewest
    photos of the class so far, then fewest photos.

    Raises SettingsError for fewer than 2 folds, or more than there are groups.
    """
    found, first, of_photo, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    if not 2 <= folds <= len(found):
        raise SettingsError(
            f"folds is {folds}, but must be from 2 to {len(found)}, the number of different pictures"
        )
    label_of = labels[first]
    for group in np.flatnonzero(sizes > 1):
        label_of[group] = np.bincount(labels[of_photo == group]).argmax()
    generator = np.random.default_rng(seed)
    total = np.zeros(folds, np.int64)
    fold_of = np.empty(len(found), np.int64)
    for label in np.unique(label_of):
        members = generator.permutation(np.flatnonzero(label_of == label))
        in_class = np.zeros(folds, np.int64)
        for group in members[np.argsort(-sizes[members], kind="stable")]:
            fold = np.lexsort((total, in_class))[0]
            fold_of[group] = fold
            in_class[fold] += sizes[group]
            total[fold] += sizes[group]
    return fold_of[of_photo]


def partitions(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, folds: int, seeds: int, seed: int
) -> list[Partition]:
    """Cross-validation, `seeds` times over: seeds x folds partitions, each round with folds and first weights of its own.

    Every photo is held out once in a round. Raises SettingsError for folds or seeds outside their range.
    """
    if not 1 <= seeds <= 100:
        raise SettingsError(f"seeds is {seeds}, but must be from 1 to 100")
    if seed < 0:
        raise SettingsError(f"seed is {seed}, but must be at least 0")
    result: list[Partition] = []
    for round_number in range(seeds):
        numbers = fold_numbers(labels, groups, folds, (seed, round_number))
        for fold in range(folds):
            held_out = numbers == fold
            result.append(
                Partition(np.flatnonzero(~held_out), np.flatnonzero(held_out), (seed, len(result)))
            )
    return result


def nested_order(
    labels: NDArray[np.int64], groups: NDArray[np.int64], rows: Rows, seed: tuple[int, ...]
) -> Rows:
    """`rows` in an order of which every beginning is a random part of them with each class by its share.

    Copies of a picture stand side by side. A class's i-th picture of n stands at (i + u) / n of the way, u in [0, 1) by
    chance, so that the first tenth holds about a tenth of every class, and each class early.
    """
    generator = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        members[int(groups[row])].append(int(row))
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for found in members.values():
        by_class[int(labels[found[0]])].append(found)
    placed: list[tuple[float, list[int]]] = []
    for label in sorted(by_class):
        pictures = by_class[label]
        shuffled = generator.permutation(len(pictures))
        offsets = (np.arange(len(pictures)) + generator.random(len(pictures))) / len(pictures)
        placed += [
            (float(offset), pictures[index])
            for offset, index in zip(offsets, shuffled, strict=True)
        ]
    placed.sort(key=lambda entry: entry[0])
    return np.array([row for _, found in placed for row in found], np.int64)
