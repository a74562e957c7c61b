"""Which photos are asked about, on drawn features: clusters, copies, uncertain ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tailorbird.labelling.choosing import centres, diverse, instructive
from tailorbird.labelling.landscape import spread_labels, survey
from tailorbird.labelling.learning import probabilities, train_head

CLASSES = 4


def drawn(
    per_class: int = 80, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features of clusters that overlap a little, and their classes."""
    random = np.random.default_rng(seed)
    middles = random.normal(size=(CLASSES, 32)) * 1.2
    labels = np.repeat(np.arange(CLASSES), per_class)
    features = middles[labels] + random.normal(size=(len(labels), 32))
    return features.astype(np.float32), labels


def test_the_first_photos_are_one_of_each_cluster() -> None:
    features, labels = drawn()
    landscape = survey(np.arange(len(features)), features)
    found = diverse(landscape, np.ones(len(features), bool), CLASSES)
    assert set(labels[found.positions]) == set(range(CLASSES))
    assert set(found.classes) == {-1}, "nothing is proposed before anything is known"


def test_of_many_copies_one_is_asked_about() -> None:
    features, _ = drawn(20)
    copies = np.repeat(features[:1], 60, axis=0)
    everything = np.concatenate([features, copies + np.float32(1e-4)])
    landscape = survey(np.arange(len(everything)), everything)
    found = diverse(landscape, np.ones(len(everything), bool), 12)
    same = np.linalg.norm(everything[found.positions] - features[0], axis=1) < 0.1
    assert same.sum() <= 1


@pytest.mark.parametrize("count", [1, 5, 400])
def test_centres_are_different_photos(count: int) -> None:
    features, _ = drawn()
    landscape = survey(np.arange(len(features)), features)
    chosen = centres(landscape.places, np.ones(len(features), np.float32), count)
    assert len(set(chosen.tolist())) == len(chosen) <= min(count, len(features))


def known_and_free(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    features, labels = drawn()
    known = np.concatenate(
        [np.flatnonzero(labels == c)[: count // CLASSES] for c in range(CLASSES)]
    )
    free = np.ones(len(features), bool)
    free[known] = False
    return known, free


def test_a_sheet_holds_hesitant_photos_grouped_by_their_proposal() -> None:
    features, labels = drawn()
    known, free = known_and_free(12)
    landscape = survey(np.arange(len(features)), features)
    beliefs = probabilities(train_head(features[known], labels[known], CLASSES), features)
    found = instructive(landscape, beliefs, free, known, labels[known])
    assert 1 <= len(found.positions) <= 20
    assert not set(found.positions) & set(known), "no photo is asked about twice"
    assert (np.diff(found.classes) >= 0).all(), "grouped by proposal"
    ordered = np.sort(beliefs, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    assert margins[found.positions].mean() < margins[free].mean()
    assert (found.classes == labels[found.positions]).mean() > 1 / CLASSES


def test_a_sheet_of_one_class_proposes_that_class_alone() -> None:
    features, labels = drawn()
    known, free = known_and_free(40)
    landscape = survey(np.arange(len(features)), features)
    beliefs = probabilities(train_head(features[known], labels[known], CLASSES), features)
    found = instructive(landscape, beliefs, free, known, labels[known], only=2)
    assert set(found.classes) == {2}
    assert (labels[found.positions] == 2).mean() > 0.8


def test_the_same_state_gives_the_same_screen() -> None:
    features, labels = drawn()
    known, free = known_and_free(12)
    first, second = (
        instructive(
            survey(np.arange(len(features)), features),
            probabilities(train_head(features[known], labels[known], CLASSES), features),
            free,
            known,
            labels[known],
        )
        for _ in range(2)
    )
    assert first.positions.tolist() == second.positions.tolist()


def test_labels_spread_to_look_alikes_and_known_ones_stay() -> None:
    features, labels = drawn()
    landscape = survey(np.arange(len(features)), features)
    known = np.array([np.flatnonzero(labels == c)[0] for c in range(CLASSES)])
    nothing = np.full((len(features), CLASSES), 1 / CLASSES)
    spread = spread_labels(landscape, nothing, known, labels[known])
    assert np.allclose(spread.sum(axis=1), 1, atol=1e-5)
    assert (spread[known].argmax(axis=1) == labels[known]).all()
    assert (spread.argmax(axis=1) == labels).mean() > 0.6


def test_a_landscape_of_one_photo_and_of_equal_ones() -> None:
    one = survey(np.array([5]), np.ones((6, 8), np.float32))
    assert one.positions(np.array([5, 2])).tolist() == [0, -1]
    equal = survey(np.arange(30), np.ones((30, 8), np.float32))
    assert np.isfinite(equal.weights).all() and np.isfinite(equal.places).all()
    assert len(diverse(equal, np.ones(30, bool), 5).positions) >= 1


def test_chosen_labels_teach_more_than_random_ones() -> None:
    """With the same number of labels, averaged over seeds; two of the classes are rare."""
    sizes = (300, 200, 60, 40)
    chosen: list[float] = []
    random: list[float] = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        middles = generator.normal(size=(CLASSES, 32)) * 0.6
        labels = np.repeat(np.arange(CLASSES), sizes)
        noise = generator.normal(size=(len(labels), 32))
        features = (middles[labels] + noise).astype(np.float32)
        landscape = survey(np.arange(len(features)), features)
        known = diverse(landscape, np.ones(len(features), bool), 12, seed=seed).positions
        while len(known) < 72:
            free = np.ones(len(features), bool)
            free[known] = False
            head = train_head(features[known], labels[known], CLASSES)
            beliefs = probabilities(head, features)
            found = instructive(landscape, beliefs, free, known, labels[known], seed=seed)
            known = np.concatenate([known, found.positions])
        lot = generator.choice(len(features), len(known), replace=False)
        for part, results in ((known, chosen), (lot, random)):
            head = train_head(features[part], labels[part], CLASSES)
            results.append((head.logits(features).argmax(axis=1) == labels).mean())
    assert np.mean(chosen) > np.mean(random) + 0.01, (chosen, random)
