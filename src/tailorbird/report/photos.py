"""The photos of a report as small data URIs, with the heat maps of the model file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tailorbird import parallel
from tailorbird.errors import ImageError
from tailorbird.images import decode, read_bytes
from tailorbird.model import Classifier, Failure
from tailorbird.rendering.overlays import data_uri, jpeg, overlay, thumbnail
from tailorbird.report.content import Content

SIDE: Final = 232
"""Longer side of a shown photo in pixels."""

SAMPLE_SIDE: Final = 112
SAMPLES: Final = 6
"""Photos per class on the contact sheet, fewer where there are many classes."""

MOST_SAMPLES: Final = 120


@dataclass(frozen=True)
class Shown:
    """One photo as a data URI, and (label, probability, data URI with heat map) of some classes."""

    photo: str
    maps: tuple[tuple[str, float, str], ...]


def answered(content: Content, entries: Sequence[Mapping[str, Any]]) -> list[Shown | None]:
    """Return the photos of mistakes or hits (entries of `numbers`) with two heat maps each.

    The maps are of the predicted class and of the label, or of the second class after a correct
    answer. None for a photo that can no longer be read.
    """
    if content.answers is None or not entries:
        return []
    classifier = Classifier(content.model, device="cpu")
    maps = classifier.has_heatmaps
    data = [_read(content.answers.paths[entry["photo"]]) for entry in entries]
    readable = [one for one in data if one is not None]
    answers = iter(classifier.stream(readable, heatmaps=maps))
    result: list[Shown | None] = []
    for entry, one in zip(entries, data, strict=True):
        answer = next(answers) if one is not None else None
        if one is None or answer is None or isinstance(answer, Failure):
            result.append(None)
            continue
        small = thumbnail(decode(one, at_least=SIDE).image, SIDE)
        chosen: list[tuple[str, float, str]] = []
        if answer.heatmaps is not None:
            wanted = [
                entry["predicted"],
                entry["label"] if entry["label"] != entry["predicted"] else None,
            ]
            ranked = [
                (label, p, grid)
                for (label, p), grid in zip(answer.top, answer.heatmaps, strict=False)
            ]
            if wanted[1] is None:
                wanted[1] = next((label for label, _, _ in ranked if label != wanted[0]), None)
            found = {label: (label, p, grid) for label, p, grid in ranked}
            for label, p, grid in (found[label] for label in wanted if label in found):
                chosen.append((label, p, _uri(overlay(small, grid, answer.resize))))
        result.append(Shown(_uri(small), tuple(chosen)))
    return result


def contact_sheet(content: Content) -> dict[str, list[tuple[str, str]]]:
    """Return a few training photos, else scored photos, per class: {label: [(name, data URI)]}."""
    by_class = _by_class(content)
    if not by_class:
        return {}
    each = max(1, min(SAMPLES, MOST_SAMPLES // len(by_class)))
    labels = list(by_class)[:MOST_SAMPLES]
    wanted = [
        (label, name, path) for label in labels for name, path in _spread(by_class[label], each)
    ]
    sheet: dict[str, list[tuple[str, str]]] = {label: [] for label in labels}
    for (label, name, _), uri in zip(
        wanted, parallel.ordered(_sample, (path for _, _, path in wanted)), strict=True
    ):
        if uri is not None:
            sheet[label].append((name, uri))
    return sheet


def suspects(content: Content, count: int) -> list[str | None]:
    """Return the `count` most suspect photos as data URIs; None for one that cannot be read."""
    if content.suspects is None:
        return []
    paths = (suspect.sample.path for suspect in content.suspects.reported[:count])
    return list(parallel.ordered(_sample, paths))


def unlike(content: Content, count: int) -> list[str | None]:
    """Return the `count` photos least like the others as data URIs, as `suspects` does."""
    if content.suspects is None:
        return []
    paths = (photo.sample.path for photo in content.suspects.unlike[:count])
    return list(parallel.ordered(_sample, paths))


def refused(content: Content, entries: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Return scored photos as data URIs; None for one that cannot be read."""
    answers = content.answers
    if answers is None:
        return []
    return list(parallel.ordered(_sample, (answers.paths[one["photo"]] for one in entries)))


def _by_class(content: Content) -> dict[str, list[tuple[str, Path]]]:
    found: dict[str, list[tuple[str, Path]]] = {label: [] for label in content.info.classes}
    if content.dataset is not None:
        for sample in sorted(content.dataset.of("train"), key=lambda sample: sample.digest):
            found.setdefault(sample.label, []).append((sample.name, sample.path))
    elif content.answers is not None:
        answers = content.answers
        for name, path, label in zip(answers.names, answers.paths, answers.labels, strict=True):
            found[content.info.classes[label]].append((name, path))
    return {label: photos for label, photos in found.items() if photos}


def _spread(photos: Sequence[tuple[str, Path]], count: int) -> Iterable[tuple[str, Path]]:
    """Return `count` photos at even distances: neighbours in a folder often show one scene."""
    return (
        photos if len(photos) <= count else [photos[i * len(photos) // count] for i in range(count)]
    )


def _sample(path: Path) -> str | None:
    data = _read(path)
    try:
        return (
            _uri(thumbnail(decode(data, at_least=SAMPLE_SIDE).image, SAMPLE_SIDE), 75)
            if data
            else None
        )
    except ImageError:
        return None


def _read(path: Path) -> bytes | None:
    """Return a photo's bytes; None if it was removed since it was scored."""
    try:
        return read_bytes(path)
    except ImageError:
        return None


def _uri(image: Image.Image, quality: int = 80) -> str:
    return data_uri(jpeg(image, quality=quality))
