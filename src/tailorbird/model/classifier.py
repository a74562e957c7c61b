"""Use a model file: photos in, labels with probabilities and heat maps out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import graphs, parallel
from tailorbird.errors import ImageError, ModelFileError, SettingsError
from tailorbird.images import MAX_PIXELS, Pixels, decode, from_array, from_pil, resize
from tailorbird.model.file import info_from

Source: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A photo: path, the file's bytes, a PIL image, or uint8 (H, W, 3) RGB."""

BATCH = 8


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    path: where it came from, None for bytes, images and arrays. label, probability: the most probable class, 0 to 1.
    unsure: the probability is below the model's threshold. top: the most probable classes with their probabilities.
    heatmaps: float32 (T, h, w), Grad-CAM of the T = min(3, C) most probable classes, 0 or more; None unless asked for.
    """

    path: str | None
    label: str
    probability: float
    unsure: bool
    top: tuple[tuple[str, float], ...]
    heatmaps: npt.NDArray[np.float32] | None = None

    def as_dict(self) -> dict[str, Any]:
        """One line of `predict --json`."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "unsure": self.unsure,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
        }


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, and why."""

    path: str | None
    error: ImageError

    def as_dict(self) -> dict[str, Any]:
        """One line of `predict --json`."""
        return {"path": self.path, "error": str(self.error)}


class Classifier:
    """An opened model file. Its methods may be called from several threads at once."""

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        """Audit and open a model file.

        threads: threads within one run; 1 is fastest for many photos, which then go to all cores side by side.
        Raises ModelFileError when the file is missing, damaged, unsafe or of an unknown format.
        """
        self.path = Path(path)
        proto = graphs.read_audited(self.path, ModelFileError)
        self.info = info_from(proto, str(self.path))
        self.has_heatmaps = any(output.name == "heatmaps" for output in proto.graph.output)
        self._session = graphs.session(proto.SerializeToString(), str(self.path), ModelFileError, threads=threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.info.classes

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3), resized by the model's rule, to float32 (N, C)."""
        result: npt.NDArray[np.float32] = self._session.run(["probabilities"], {"images": images})[0]
        return result

    # A str is both a Source and an iterable of str, which is the one overlap mypy sees; it is taken as a path.
    @overload
    def predict(self, photos: Source, *, top: int = ..., heatmaps: bool = ..., max_pixels: int = ...) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(
        self, photos: Iterable[Source], *, top: int = ..., heatmaps: bool = ..., max_pixels: int = ...
    ) -> list[Prediction]: ...

    def predict(
        self, photos: Source | Iterable[Source], *, top: int = 3, heatmaps: bool = False, max_pixels: int = MAX_PIXELS
    ) -> Prediction | list[Prediction]:
        """Classify one photo (one Prediction) or many (a list, in order).

        photos: a path, bytes, PIL image or uint8 array (H, W, 3); or an iterable of these, such as an array (N, H, W, 3).
        Raises ImageError for the first photo that cannot be used; `stream` goes on past it.
        """
        single = isinstance(photos, str | Path | bytes | Image.Image) or (
            isinstance(photos, np.ndarray) and photos.ndim < 4
        )
        sources: Iterable[Any] = [photos] if single else photos  # type: ignore[assignment]
        results = []
        for result in self.stream(sources, top=top, heatmaps=heatmaps, max_pixels=max_pixels):
            if isinstance(result, Failure):
                where = f"{result.path}: " if result.path else ""
                raise type(result.error)(f"{where}{result.error}") from result.error
            results.append(result)
        return results[0] if single else results

    def stream(
        self,
        photos: Iterable[Source],
        *,
        top: int = 3,
        heatmaps: bool = False,
        max_pixels: int = MAX_PIXELS,
        workers: int | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Classify any number of photos in order and in bounded memory, on all cores; a bad one gives a Failure and the rest go on.

        `photos` is read as needed. Raises SettingsError for `top` below 1 or heat maps the model does not have.
        """
        if top < 1:
            raise SettingsError(f"top is {top}; it must be at least 1")
        if heatmaps and not self.has_heatmaps:
            raise SettingsError(
                f"{self.path} has no heat maps: its backbone {self.info.backbone.get('name')} has no feature map"
            )

        def classify(batch: Sequence[Source]) -> list[Prediction | Failure]:
            return self._classify(batch, top, heatmaps, max_pixels)

        for results in parallel.ordered(classify, _batches(photos), workers=workers):
            yield from results

    def _classify(
        self, batch: Sequence[Source], top: int, heatmaps: bool, max_pixels: int
    ) -> list[Prediction | Failure]:
        """Decode and run one small batch in the calling thread."""
        results: list[Prediction | Failure | None] = []
        pixels: list[Pixels] = []
        for source in batch:
            try:
                pixels.append(self._pixels(source, max_pixels))
                results.append(None)
            except ImageError as error:
                results.append(Failure(_name(source), error))
        if not pixels:
            return [result for result in results if result is not None]
        names = ["probabilities", "heatmaps"] if heatmaps else ["probabilities"]
        outputs = self._session.run(names, {"images": np.stack(pixels)})
        rows = iter(zip(*outputs, strict=True))
        return [
            result if result is not None else self._prediction(_name(source), *next(rows), top=top)
            for source, result in zip(batch, results, strict=True)
        ]

    def _pixels(self, source: Source, max_pixels: int) -> Pixels:
        rule = self.info.resize
        if isinstance(source, np.ndarray):
            return resize(from_array(source), rule)
        if isinstance(source, Image.Image):
            return resize(from_pil(source), rule)
        return resize(decode(source, at_least=rule.least_side, max_pixels=max_pixels).image, rule)

    def _prediction(
        self,
        path: str | None,
        probabilities: npt.NDArray[np.float32],
        heatmaps: npt.NDArray[np.float32] | None = None,
        *,
        top: int,
    ) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((self.classes[i], float(probabilities[i])) for i in order)
        label, probability = ranked[0]
        return Prediction(path, label, probability, probability < self.info.threshold, ranked, heatmaps)


def load(path: str | Path, *, threads: int = 1) -> Classifier:
    """Open a model file; the same as `Classifier(path, threads=threads)`. Raises ModelFileError."""
    return Classifier(path, threads=threads)


def _name(source: Source) -> str | None:
    return str(source) if isinstance(source, str | Path) else None


def _batches(photos: Iterable[Source]) -> Iterator[Sequence[Source]]:
    """Batches that start small, so that the first result, or the only one, comes at once."""
    source, size = iter(photos), 1
    while batch := list(islice(source, size)):
        yield batch
        size = BATCH
