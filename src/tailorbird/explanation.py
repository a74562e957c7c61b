"""Explain a prediction: heat-map overlays of the most probable classes beside the photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tailorbird import images, parallel
from tailorbird.errors import ImageError, NotExplained, SettingsError
from tailorbird.model import Classifier, Failure, Prediction, Source
from tailorbird.model.classifier import read_file
from tailorbird.model.prediction import UNFAMILIAR
from tailorbird.rendering import fonts
from tailorbird.rendering.overlays import ALPHA, overlay, thumbnail

SIDE = 480
"""Pixels of the longer side of the photo shown."""

MOST = 3
"""Number of heat maps in a model file: those of the three most probable classes."""

_GAP, _LINE, _TEXT = 16, 26, 18  # pixels between pictures, of a caption's line, of its letters
_PAPER, _INK, _GREY = (255, 255, 255), (29, 33, 38), (100, 107, 115)


@dataclass(frozen=True)
class Explanation:
    """The explanation of one photo.

    Attributes:
        path: path of the photo; None for bytes, images and arrays.
        image: RGB, the photo and to its right an overlay for each of `labels`, with captions.
        prediction: the prediction with its heat maps.
        labels: the classes explained.
    """

    path: str | None
    image: Image.Image
    prediction: Prediction
    labels: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a line of `explain --json`, without the path of the image."""
        return {**self.prediction.as_dict(), "explained": list(self.labels)}


def explain(
    model: str | Path | Classifier,
    photo: Source,
    *,
    top: int = MOST,
    label: str | None = None,
    alpha: float = ALPHA,
) -> Explanation:
    """Explain one photo by overlays of the heat maps of its most probable classes.

    Args:
        model: the model file.
        photo: path, bytes, image, array or file object.
        top: number of classes, 1 to 3.
        label: explain this class instead.
        alpha: opacity of the overlay at its maximum, 0 to 1.

    Raises:
        SettingsError: an option outside its range, an unknown label, a model without heat maps.
        NotExplained: `label` is not among the three most probable classes of this photo.
        ImageError: the photo cannot be used.
        ModelFileError: the model file cannot be used.
    """
    (found,) = explain_many(model, [photo], top=top, label=label, alpha=alpha)
    if isinstance(found, Failure):
        where = f"{found.path}: " if found.path else ""
        raise type(found.error)(f"{where}{found.error}") from found.error
    return found


def explain_many(
    model: str | Path | Classifier,
    photos: Iterable[Source],
    *,
    top: int = MOST,
    label: str | None = None,
    alpha: float = ALPHA,
) -> Iterator[Explanation | Failure]:
    """Explain any number of photos, in order, in bounded memory and on all cores.

    Arguments and errors are those of `explain`. A photo that cannot be explained gives a Failure.
    """
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    _check(classifier, top, label, alpha)

    def one(photo: Source) -> Explanation | Failure:
        name = str(photo) if isinstance(photo, str | Path) else None
        try:
            if isinstance(photo, str | Path):
                photo = images.read_bytes(photo)
            elif not isinstance(photo, bytes | Image.Image | np.ndarray):
                photo = read_file(photo)
            (answer,) = classifier.stream([photo], top=MOST, heatmaps=True, workers=1)
            if isinstance(answer, Failure):
                return Failure(name, answer.error)
            return _explained(answer, _picture(photo), name, top, label, alpha)
        except ImageError as error:
            return Failure(name, error)

    return parallel.ordered(one, photos)


def _check(classifier: Classifier, top: int, label: str | None, alpha: float) -> None:
    problems = []
    if not 1 <= top <= MOST:
        problems.append(
            f"top is {top}; it must be 1 to {MOST}: a model file has heat maps of the {MOST} most "
            "probable classes"
        )
    if not 0 <= alpha <= 1:
        problems.append(f"alpha is {alpha}; it must be between 0 and 1")
    if label is not None and label not in classifier.classes:
        problems.append(f"the model has no class {label!r}; it has {', '.join(classifier.classes)}")
    if not classifier.has_heatmaps:
        problems.append(
            f"{classifier.path} has no heat maps: {classifier.why_no_heatmaps}; train with a "
            "backbone that has one, such as lite"
        )
    if problems:
        raise SettingsError("; ".join(problems))


def _picture(photo: Source) -> Image.Image:
    if isinstance(photo, np.ndarray):
        return thumbnail(images.from_array(photo), SIDE)
    if isinstance(photo, Image.Image):
        return thumbnail(images.from_pil(photo), SIDE)
    assert isinstance(photo, bytes), "paths and file objects were read"
    return thumbnail(images.decode(photo, at_least=SIDE).image, SIDE)


def _explained(
    answer: Prediction,
    photo: Image.Image,
    path: str | None,
    top: int,
    label: str | None,
    alpha: float,
) -> Explanation:
    assert answer.heatmaps is not None, "heat maps were asked for"
    ranked = list(zip(answer.top, answer.heatmaps, strict=False))
    if label is not None:
        ranked = [entry for entry in ranked if entry[0][0] == label]
        if not ranked:
            likeliest = ", ".join(f"{name} {probability:.1%}" for name, probability in answer.top)
            raise NotExplained(
                f"{label!r} is not among the {len(answer.top)} most probable classes, the only "
                f"ones with heat maps; they are {likeliest}"
            )
    ranked = ranked[:top]
    doubt = UNFAMILIAR if answer.unfamiliar else "the model is not sure" if answer.unsure else ""
    panels = [(photo, "photo", doubt)]
    for (name, probability), grid in ranked:
        note = "" if float(grid.max(initial=0.0)) > 0 else "no positive evidence"
        shown = overlay(photo, grid, answer.resize, alpha=alpha)
        panels.append((shown, f"{name}  {probability:.1%}", note))
    prediction, labels = replace(answer, path=path), tuple(name for (name, _), _ in ranked)
    return Explanation(path, _side_by_side(panels), prediction, labels)


def _side_by_side(panels: list[tuple[Image.Image, str, str]]) -> Image.Image:
    """Return pictures of equal size in a row, each with a caption and a grey note below."""
    width, height = panels[0][0].size
    cell = max(width, 200)
    lines = 2 if any(note for _, _, note in panels) else 1
    size = (_GAP + (cell + _GAP) * len(panels), 2 * _GAP + height + lines * _LINE)
    sheet = Image.new("RGB", size, _PAPER)
    canvas = ImageDraw.Draw(sheet)
    for number, (picture, caption, note) in enumerate(panels):
        left = _GAP + number * (cell + _GAP)
        sheet.paste(picture, (left + (cell - width) // 2, _GAP))
        for line, (text, colour) in enumerate(((caption, _INK), (note, _GREY))):
            words = fonts.fit(text, _TEXT, cell, keep_end=True)  # the probability is at the end
            start = left + cell / 2 - fonts.length(words, _TEXT) / 2
            place = (start, _GAP + height + 6 + line * _LINE)
            fonts.draw(canvas, place, words, _TEXT, colour)
    return sheet
