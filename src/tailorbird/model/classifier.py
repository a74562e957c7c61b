"""Open a model file and classify photos with it.

Shapes: images uint8 (N, S, S, 3), resized by the model's rule; probabilities float32 (N, C); heat
maps float32 (N, T, h, w).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import onnx_files
from tailorbird.errors import (
    ImageError,
    ModelFileError,
    SettingsError,
    UnreadableImage,
    UnsupportedImage,
)
from tailorbird.images import MAX_PIXELS, Pixels, decode, from_array, from_pil, resize
from tailorbird.inference import Device, DeviceChoice, Runner, chosen, open_runner
from tailorbird.model.metadata import info_from
from tailorbird.model.prediction import THUMBNAIL, Failure, Prediction
from tailorbird.model.self_test import SelfTest, compared, probe_image
from tailorbird.rendering import overlays

Source: TypeAlias = str | Path | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
"""A photo: path, bytes, binary file object, PIL image, or uint8 (H, W, 3) RGB."""

log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """What a model gives for N photos.

    probabilities: float32 (N, C). heatmaps: float32 (N, T, h, w), None unless asked for.
    unfamiliarity: float32 (N,), None in files that do not have it.
    """

    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.float32] | None
    unfamiliarity: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Loaded:
    """A photo without its pixels: path, thumbnail, and the error if it cannot be used."""

    path: str | None
    thumbnail: bytes | None = None
    error: ImageError | None = None


class Classifier:
    """An opened model file. Its methods may be called from several threads at once.

    It can be pickled: the copy opens the same path again.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        strict: bool = False,
        device: str | DeviceChoice | None = None,
        half: bool = False,
    ) -> None:
        """Audit and open a model file and run its self-test.

        Args:
            path: The model file.
            threads: Threads within one run; 1 is fastest for many photos, which are spread over
                all cores.
            strict: Whether to refuse a file that gives other answers on this device than where it
                was made; otherwise a warning is logged.
            device: Where to run: `auto`, `cpu`, `cuda`, `cuda:1` and so on; None: as asked for by
                `tailorbird.use_device`, else by TAILORBIRD_DEVICE, else `auto`.
            half: Whether to compute in float16, on a device that can.

        Raises:
            ModelFileError: The file is missing, damaged, unsafe or of an unknown format, or fails
                its self-test.
            SettingsError: The device is not available.
        """
        self.path = Path(path)
        proto = onnx_files.read_audited(self.path, ModelFileError)
        self.info = info_from(proto, str(self.path))
        self._strict = strict
        self._threads = threads
        self._choice = device if isinstance(device, DeviceChoice) else chosen(device, half=half)
        self._runner = open_runner(
            proto,
            str(self.path),
            ModelFileError,
            outputs=self._outputs(heatmaps=False),
            problem_with=self._problem_with,
            choice=self._choice,
            threads=threads,
        )
        self.self_test = self._tested()
        """The result of the self-test; None for a file that was written before there were any."""

    def __reduce__(self) -> tuple[Callable[..., Classifier], tuple[Path, int, bool, DeviceChoice]]:
        return _reopen, (self.path.resolve(), self._threads, self._strict, self._choice)

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._runner.device

    def _problem_with(self, runner: Runner) -> str | None:
        """Return why `auto` must not take a device: the model fails its self-test there."""
        expected = self.info.self_test
        if not expected:
            return "is not taken: the file has no self-test to check it with"
        result = self._compared(runner)
        if result.passed:
            return None
        return (
            f"is not taken: a probability of the self-test differs by {result.difference:.2g}, at "
            f"most {result.allowed:g} is allowed"
        )

    def _compared(self, runner: Runner) -> SelfTest:
        """Run the probe image. Raises ModelFileError for probabilities that are not finite."""
        probe = probe_image(self.info.resize.size)
        found = runner.run_batch(probe, ["probabilities"])[0][0]
        if not np.isfinite(found).all():
            raise ModelFileError(
                f"{self.path} fails its self-test on the device {runner.device.name}: "
                "probabilities are NaN or infinite; the file or the ONNX Runtime is damaged"
            )
        return compared(found, self.info.self_test, runner.device.name)

    def _tested(self) -> SelfTest | None:
        """Run the self-test on this device. Raises ModelFileError."""
        if not self.info.self_test:
            return None
        result = self._compared(self._runner)
        if not result.passed:
            if self._strict:
                raise ModelFileError(result.sentence(str(self.path)))
            log.warning("%s", result.sentence(str(self.path)))
        return result

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.info.classes

    @property
    def has_heatmaps(self) -> bool:
        """Whether the model gives heat maps: its backbone may have no feature map."""
        return "heatmaps" in self._runner.outputs

    @property
    def why_no_heatmaps(self) -> str:
        """Why the model has no heat maps."""
        reason = self.info.settings.get("no_heatmaps")
        return reason or f"its backbone {self.info.backbone.get('name')} has no feature map"

    @property
    def knows_unfamiliar(self) -> bool:
        """Whether the model tells photos unlike those of its classes."""
        return self.info.unfamiliar_above is not None

    def unfamiliar(self, unfamiliarity: float | None) -> bool:
        """Whether a photo of this unfamiliarity seems to be none of the classes."""
        limit = self.info.unfamiliar_above
        return limit is not None and unfamiliarity is not None and unfamiliarity > limit

    def run(
        self, images: npt.NDArray[np.uint8], *, heatmaps: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return probabilities and, if asked for, heat maps of one batch, in the calling thread."""
        found = self.outputs(images, heatmaps=heatmaps)
        return found.probabilities, found.heatmaps

    def outputs(self, images: npt.NDArray[np.uint8], *, heatmaps: bool = False) -> Outputs:
        """Return what the model gives for one batch, in the calling thread."""
        return self._named(self._runner.run_batch(images, self._outputs(heatmaps)), heatmaps)

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the probabilities of any number of images, computed on all cores."""
        rows: npt.NDArray[np.float32] = self._runner.run(images, ["probabilities"])[0]
        return rows

    def _outputs(self, heatmaps: bool) -> list[str]:
        """Return the names of the outputs to compute, in the order that `_named` expects."""
        wanted = {
            "probabilities": True,
            "heatmaps": heatmaps,
            "unfamiliarity": self.knows_unfamiliar,
        }
        return [name for name, needed in wanted.items() if needed]

    def _named(self, outputs: Sequence[Any], heatmaps: bool) -> Outputs:
        maps = outputs[1] if heatmaps else None
        return Outputs(outputs[0], maps, outputs[-1] if self.knows_unfamiliar else None)

    # A str is both a Source and an iterable of str; it is taken as a path.
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
        """Classify one photo or many.

        Args:
            photos: A path, bytes, binary file object, PIL image or uint8 array (H, W, 3); or an
                iterable of these, such as an array (N, H, W, 3).
            top: Number of most probable classes to return.
            heatmaps: Whether to compute heat maps.
            max_pixels: Largest photo to decode.

        Returns:
            One Prediction for one photo, a list in order for many.

        Raises:
            ImageError: For the first photo that cannot be used; `stream` continues past it.
        """
        single = isinstance(photos, str | Path | bytes | Image.Image) or hasattr(photos, "read")
        single = single or (isinstance(photos, np.ndarray) and photos.ndim < 4)
        if not single and not isinstance(photos, Iterable):
            raise UnsupportedImage(_not_a_photo(photos))
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
        """Classify any number of photos in order, in bounded memory and on all cores.

        Args:
            photos: As in `predict`; read as needed.
            top: Number of most probable classes to return.
            heatmaps: Whether to compute heat maps.
            max_pixels: Largest photo to decode.
            workers: Threads; None for one per core.

        Yields:
            A Prediction, or a Failure for a photo that cannot be used.

        Raises:
            SettingsError: `top` is below 1, or the model has no heat maps.
            ModelFileError: The probabilities of a photo are not finite.
        """
        if top < 1:
            raise SettingsError(f"top is {top}; it must be at least 1")
        if heatmaps and not self.has_heatmaps:
            raise SettingsError(f"{self.path} has no heat maps: {self.why_no_heatmaps}")

        def load(source: Source) -> tuple[_Loaded, Pixels | None]:
            path = str(source) if isinstance(source, str | Path) else None
            try:
                photo = _picture(source, self.info.resize.least_side, max_pixels)
                pixels = resize(photo, self.info.resize)
                small = overlays.jpeg(overlays.thumbnail(photo, THUMBNAIL)) if heatmaps else None
                return _Loaded(path, thumbnail=small), pixels
            except ImageError as error:
                return _Loaded(path, error=error), None

        for photo, row in self._runner.map(photos, load, self._outputs(heatmaps), workers=workers):
            if row is not None:
                yield self._prediction(photo, self._named(row, heatmaps), top)
            elif photo.error is not None:
                yield Failure(photo.path, photo.error)

    def _prediction(self, photo: _Loaded, row: Outputs, top: int) -> Prediction:
        """Return the answer for a photo from its row of each output."""
        probabilities = row.probabilities
        if not np.isfinite(probabilities).all():
            raise ModelFileError(
                f"{self.path} gives probabilities of {photo.path or 'a photo'} that are NaN or "
                "infinite; the model is damaged: train it again"
            )
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((self.classes[i], float(probabilities[i])) for i in order)
        label, probability = ranked[0]
        unfamiliarity = None if row.unfamiliarity is None else float(row.unfamiliarity)
        unfamiliar = self.unfamiliar(unfamiliarity)
        return Prediction(
            path=photo.path,
            label=label,
            probability=probability,
            unsure=unfamiliar or probability < self.info.threshold,
            top=ranked,
            heatmaps=row.heatmaps,
            thumbnail=photo.thumbnail,
            unfamiliarity=unfamiliarity,
            unfamiliar=unfamiliar,
            resize=self.info.resize,
        )


def load(
    path: str | Path,
    *,
    threads: int = 1,
    strict: bool = False,
    device: str | None = None,
    half: bool = False,
) -> Classifier:
    """Open a model file; the same as `Classifier` with these arguments. Raises ModelFileError."""
    return Classifier(path, threads=threads, strict=strict, device=device, half=half)


def _reopen(path: Path, threads: int, strict: bool, choice: DeviceChoice) -> Classifier:
    return Classifier(path, threads=threads, strict=strict, device=choice)


def _picture(source: Source, at_least: int, max_pixels: int) -> Image.Image:
    """Return a photo decoded, RGB and upright, not yet resized."""
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, Image.Image):
        return from_pil(source)
    if not isinstance(source, str | Path | bytes):
        source = read_file(source)
    return decode(source, at_least=at_least, max_pixels=max_pixels).image


def _not_a_photo(value: object) -> str:
    return (
        f"a {type(value).__name__} is not a photo; give a path, bytes, a file object, a PIL image "
        "or a uint8 array, or several of them"
    )


def read_file(file: IO[bytes]) -> bytes:
    """Read a file object from its present position."""
    if not hasattr(file, "read"):
        raise UnsupportedImage(_not_a_photo(file))
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UnreadableImage(f"the file object cannot be read: {error}") from None
    if not isinstance(content, bytes):
        raise UnreadableImage("the file object gives text; open the file in binary mode, 'rb'")
    return content
