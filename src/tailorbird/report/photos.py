"""The photos a report shows, small and encoded anew, with the heat maps the model file gives for them."""

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
"""Pixels of a shown photo's longer side."""

SAMPLE_SIDE: Final = 112
SAMPLES: Final = 6
"""Photos of each class on the contact sheet, fewer where there are many classes."""

MOST_SAMPLES: Final = 120


@dataclass(frozen=True)
class Shown:
    """One photo as a data URI and, for the classes asked for, (label, probability, the photo with its heat map as a data URI)."""

    photo: str
    maps: tuple[tuple[str, float, str], ...]


def answered(content: Content, entries: Sequence[Mapping[str, Any]]) -> list[Shown | None]:
    """The photos of mistakes or hits (entries of `numbers`) with the heat maps of the predicted class and of the other one that
    tells most: the label after a mistake, the runner-up after a hit. None for a photo that can no longer be read."""
    if content.answers is None or not entries:
        return []
    classifier = Classifier(content.model)
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
                chosen.append((label, p, _uri(overlay(small, grid))))
        result.append(Shown(_uri(small), tuple(chosen)))
    return result


def contact_sheet(content: Content) -> dict[str, list[tuple[str, str]]]:
    """A few photos of each class: {label: [(name, data URI)]}. Those trained on, else those scored."""
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
    """The `count` most suspect photos as data URIs; None for one that can no longer be read."""
    if content.suspects is None:
        return []
    return list(
        parallel.ordered(
            _sample, (suspect.sample.path for suspect in content.suspects.reported[:count])
        )
    )


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
    """`count` of them at even distances: neighbours in a folder are often exposures of one scene."""
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
    """A photo's bytes; None for one that has gone since it was scored."""
    try:
        return read_bytes(path)
    except ImageError:
        return None


def _uri(image: Image.Image, quality: int = 80) -> str:
    return data_uri(jpeg(image, quality=quality))
