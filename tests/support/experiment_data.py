"""Synthetic photos: features drawn so that the truth is known."""

from __future__ import annotations

import numpy as np

from tailorbird.experiments import ExperimentData


def blobs(
    counts: tuple[int, ...] = (80, 80, 80),
    *,
    width: int = 8,
    distance: float = 2.0,
    seed: int = 0,
    duplicates: int = 0,
    spreads: tuple[float, ...] | None = None,
) -> ExperimentData:
    """Return normal clouds, one per class; the first `duplicates` photos are there twice."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((len(counts), width))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.repeat(np.arange(len(counts)), counts)
    scale = np.array(spreads if spreads is not None else (1.0,) * len(counts))[labels, None]
    features = centres[labels] + scale * generator.standard_normal((len(labels), width))
    order = generator.permutation(len(labels))
    return photos_of(features[order], labels[order], duplicates=duplicates)


def photos_of(features: np.ndarray, labels: np.ndarray, *, duplicates: int = 0) -> ExperimentData:
    groups = np.arange(len(labels))
    twice = np.arange(duplicates)
    features, labels = (
        np.concatenate([features, features[twice]]),
        np.concatenate([labels, labels[twice]]),
    )
    groups = np.concatenate([groups, groups[twice]])
    classes = tuple(f"class {number}" for number in range(int(labels.max()) + 1))
    return ExperimentData(
        source="photos",
        backbone="lite",
        classes=classes,
        features=features[None].astype(np.float32),
        labels=labels.astype(np.int64),
        groups=groups.astype(np.int64),
        validation=np.arange(len(labels)) % 6 == 0,
        test_photos=10,
        seed=0,
    )
