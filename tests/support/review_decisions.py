"""Open a review of a dataset and decide about photos by name."""

from __future__ import annotations

from pathlib import Path

from tailorbird.review import Choice, Review, open_review


def open_without_suspects(photos: Path, output: Path | None = None) -> Review:
    return open_review(photos, output, find_suspects=False)


def item_of(review: Review, name: str) -> tuple[int, int]:
    """Return the index of the item that has a photo, and the index of the photo."""
    photo = next(i for i, sample in enumerate(review.dataset.samples) if sample.name == name)
    return next(i for i, item in enumerate(review.items) if photo in item.photos), photo


def decide(review: Review, name: str, decision: str, label: str = "") -> None:
    item, photo = item_of(review, name)
    review.decide(item, [Choice(photo, decision, label)])
