"""Use a model file: photos in, labels with probabilities and heat maps out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import onnx_files
from tailorbird.errors import ImageError, ModelFileError, SettingsError
from tailorbird.images import MAX_PIXELS, Pixels, decode, from_array, from_pil, resize
from tailorbird.inference import CPU, Runner
from tailorbird.model.metadata import info_from, probe_image
from tailorbird.rendering import notebook, overlays

Source: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A photo: path, the file's bytes, a PIL image, or uint8 (H, W, 3) RGB."""

SELF_TEST_TOLERANCE = 0.02
"""Allowed difference of a probability: quantised models round differently on other processors."""

THUMBNAIL = 256
"""Pixels of the longer side of the photo a Prediction keeps to show with its heat maps."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    path: where it came from, None for bytes, images and arrays. label, probability: the most probable class, 0 to 1.
    unsure: the probability is below the model's threshold. top: the most probable classes with their probabilities.
    heatmaps: float32 (T, h, w), Grad-CAM of the T = min(3, C) most probable classes, 0 or more; None unless asked for.
    thumbnail: the photo as a small JPEG, kept where heat maps were asked for, so that a notebook can show them on it.
    """

    path: str | None
    label: str
    probability: float
    unsure: bool
    top: tuple[tuple[str, float], ...]
    heatmaps: npt.NDArray[np.float32] | None = None
    thumbnail: bytes | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: the photo, a bar for each class, and the heat maps where they were asked for.

        A photo given as a path is read when it is shown; of other photos only those with heat maps are still known.
        """
        photo = None
        try:
            if self.thumbnail is not None:
                photo = decode(self.thumbnail).image
            elif self.path is not None:
                photo = overlays.thumbnail(decode(self.path, at_least=THUMBNAIL).image, THUMBNAIL)
        except ImageError:
            photo = None  # gone since, and the answer still stands
        return notebook.prediction_html(
            self.top, unsure=self.unsure, source=self.path, photo=photo, heatmaps=self.heatmaps
        )

    def as_dict(self) -> dict[str, Any]:
        """One line of `predict --json`."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "unsure": self.unsure,
            "top": [
                {"label": label, "probability": probability} for label, probability in self.top
            ],
        }


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, and why."""

    path: str | None
    error: ImageError

    def as_dict(self) -> dict[str, Any]:
        """One line of `predict --json`."""
        return {"path": self.path, "error": str(self.error)}


@dataclass(frozen=True)
class _Source:
    """What is known of a photo beside its pixels: its path, its thumbnail, or why it failed."""

    path: str | None
    thumbnail: bytes | None = None
    error: ImageError | None = None


class Classifier:
    """An opened model file. Its methods may be called from several threads at once."""

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        """Audit and open a model file. `has_heatmaps` says whether it gives heat maps: its backbone may have no feature map.

        threads: threads within one run; 1 is fastest for many photos, which then go to all cores side by side.
        Raises ModelFileError when the file is missing, damaged, unsafe or of an unknown format.
        """
        self.path = Path(path)
        proto = onnx_files.read_audited(self.path, ModelFileError)
        self.info = info_from(proto, str(self.path))
        self.has_heatmaps = any(output.name == "heatmaps" for output in proto.graph.output)
        device = replace(CPU, threads=threads)
        self._runner = Runner(proto, str(self.path), ModelFileError, device=device)
        self._self_test()

    def _self_test(self) -> None:
        """Run the probe image on this device. Raises ModelFileError if the answer differs."""
        if not self.info.self_test:  # a file written before there were self-tests
            return
        found = self.run(probe_image(self.info.resize.size))[0][0]
        gap = float(np.abs(found - np.array(self.info.self_test)).max())
        if not gap <= SELF_TEST_TOLERANCE:
            raise ModelFileError(
                f"{self.path} fails its self-test on the device {self._runner.device.name}: "
                f"a probability of the probe image differs by {gap:.2g}, "
                f"{SELF_TEST_TOLERANCE:g} is allowed; the file or the ONNX Runtime is damaged"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.info.classes

    @property
    def why_no_heatmaps(self) -> str:
        """Where there are none, what is missing for them."""
        said = self.info.settings.get("no_heatmaps")
        return (
            str(said)
            if said
            else f"its backbone {self.info.backbone.get('name')} has no feature map"
        )

    def run(
        self, images: npt.NDArray[np.uint8], *, heatmaps: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """One run on uint8 (N, S, S, 3), resized by the model's rule: float32 (N, C) and, if asked for, (N, T, h, w)."""
        outputs = self._runner.run_batch(images, self._outputs(heatmaps))
        return outputs[0], outputs[1] if heatmaps else None

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3), resized by the model's rule, to float32 (N, C)."""
        rows: npt.NDArray[np.float32] = self._runner.run(images, ["probabilities"])[0]
        return rows

    @staticmethod
    def _outputs(heatmaps: bool) -> list[str]:
        return ["probabilities", "heatmaps"] if heatmaps else ["probabilities"]

    # A str is both a Source and an iterable of str, which is the one overlap mypy sees; it is taken as a path.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, photos: Source, *, top: int = ..., heatmaps: bool = ..., max_pixels: int = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        photos: Iterable[Source],
        *,
        top: int = ...,
        heatmaps: bool = ...,
        max_pixels: int = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        photos: Source | Iterable[Source],
        *,
        top: int = 3,
        heatmaps: bool = False,
        max_pixels: int = MAX_PIXELS,
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
            raise SettingsError(f"{self.path} has no heat maps: {self.why_no_heatmaps}")

        def load(source: Source) -> tuple[_Source, Pixels | None]:
            name = str(source) if isinstance(source, str | Path) else None
            try:
                photo = _picture(source, self.info.resize.least_side, max_pixels)
                pixels = resize(photo, self.info.resize)
                small = overlays.jpeg(overlays.thumbnail(photo, THUMBNAIL)) if heatmaps else None
                return _Source(name, thumbnail=small), pixels
            except ImageError as error:
                return _Source(name, error=error), None

        for source, row in self._runner.map(photos, load, self._outputs(heatmaps), workers=workers):
            if row is None:
                assert source.error is not None
                yield Failure(source.path, source.error)
            else:
                yield self._prediction(source, row[0], row[1] if heatmaps else None, top=top)

    def _prediction(
        self,
        source: _Source,
        probabilities: npt.NDArray[np.float32],
        heatmaps: npt.NDArray[np.float32] | None,
        *,
        top: int,
    ) -> Prediction:
        if not np.isfinite(probabilities).all():
            raise ModelFileError(
                f"{self.path} gives probabilities that are not finite for "
                f"{source.path or 'a photo'}; the model is damaged: train it again"
            )
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((self.classes[i], float(probabilities[i])) for i in order)
        label, probability = ranked[0]
        return Prediction(
            path=source.path,
            label=label,
            probability=probability,
            unsure=probability < self.info.threshold,
            top=ranked,
            heatmaps=heatmaps,
            thumbnail=source.thumbnail,
        )


def load(path: str | Path, *, threads: int = 1) -> Classifier:
    """Open a model file; the same as `Classifier(path, threads=threads)`. Raises ModelFileError."""
    return Classifier(path, threads=threads)


def _picture(source: Source, at_least: int, max_pixels: int) -> Image.Image:
    """Any photo decoded, RGB and upright, not yet resized."""
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, Image.Image):
        return from_pil(source)
    return decode(source, at_least=at_least, max_pixels=max_pixels).image
