"""Read a published image processor: what it does to pixel values, and its input size.

Sources are `preprocessor_config.json` as Hugging Face repositories publish it, and `pretrained_cfg`
of timm's `config.json`. Only the arithmetic on values and the final size are taken over. How a
photo gets to that size (shortest edge and centre crop, bicubic, ...) is not: tailorbird has one
resize rule, the same for every backbone.

    uint8 RGB -> [BGR] -> x * rescale + shift -> (x - mean) / std -> float32
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BackboneError, SettingsError

LEAST_SIDE, MOST_SIDE = 8, 2048

# Steps that no scale and offset per channel can express.
_UNSUPPORTED = ("do_color_quantize", "do_grayscale", "do_binarize", "do_threshold")

_PROCESSOR = "the published image processor"

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Pixel values as a network expects them.

    Attributes:
        side: S, pixels along each edge of the square input.
        rescale: Factor of the pixel values.
        shift: Added after rescaling.
        mean: Subtracted next; in RGB order.
        std: Divided by last; in RGB order.
        bgr: Whether the network expects blue first.
        published_resize: How the publisher resizes a photo, in words; recorded, not followed.
    """

    side: int
    rescale: float
    shift: float
    mean: Triple
    std: Triple
    bgr: bool
    published_resize: str

    def pixels(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Prepare pixels step by step as the publisher does; the reference for the graph.

        Args:
            images: uint8 (N, S, S, 3) RGB.

        Returns:
            float32 (N, 3, S, S).
        """
        mean: npt.NDArray[np.float32] = np.array(self.mean, np.float32)
        std: npt.NDArray[np.float32] = np.array(self.std, np.float32)
        values = images.astype(np.float32) * np.float32(self.rescale) + np.float32(self.shift)
        values = (values - mean) / std
        if self.bgr:
            values = values[..., ::-1]
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)

    def affine(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the same as scale and offset, float32 (3,), in the network's channel order."""
        channels = list(zip(self.mean, self.std, strict=True))
        if self.bgr:
            channels.reverse()
        scale = [self.rescale / std for _, std in channels]
        offset = [(self.shift - mean) / std for mean, std in channels]
        return np.array(scale, np.float32), np.array(offset, np.float32)


def read(
    preprocessor: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    *,
    size: int | None = None,
    fixed: tuple[int | None, int | None] = (None, None),
) -> Preprocessing:
    """Read a published image processor.

    Args:
        preprocessor: Content of preprocessor_config.json; may be empty if `config` has timm's
            `pretrained_cfg`.
        config: Content of config.json.
        size: The user's side; takes precedence over the published one.
        fixed: Height and width that the graph fixes, if any.

    Raises:
        SettingsError: `size` is outside 8 to 2048 or differs from the graph's fixed side.
        BackboneError: The processor has a step or value that is not supported.
    """
    preprocessor = preprocessor.get("image_processor", preprocessor)
    timm = preprocessor.get("pretrained_cfg") or (config or {}).get("pretrained_cfg")
    if timm and "image_mean" not in preprocessor:
        preprocessor = {
            "size": timm.get("input_size"),
            "image_mean": timm.get("mean"),
            "image_std": timm.get("std"),
            "do_normalize": True,
        }
    refused = [key for key in _UNSUPPORTED if preprocessor.get(key)]
    if refused:
        raise BackboneError(
            f"{_PROCESSOR} has unsupported steps: {', '.join(refused)}; supported are rescaling, "
            "normalising by mean and standard deviation, and BGR order"
        )
    published, words = _published_side(preprocessor, config or {})
    rescale, shift = _rescaling(preprocessor)
    mean, std = _mean_and_std(preprocessor)
    # The first releases with MobileViT used the second name.
    flipped = preprocessor.get("do_flip_channel_order", preprocessor.get("do_flip_channels", False))
    return Preprocessing(
        side=_side(published, size, fixed),
        rescale=rescale,
        shift=shift,
        mean=mean,
        std=std,
        bgr=bool(flipped),
        published_resize=words,
    )


def _rescaling(preprocessor: Mapping[str, Any]) -> tuple[float, float]:
    """Return factor and offset of the pixel values."""
    if not preprocessor.get("do_rescale", True):
        return 1.0, 0.0
    rescale = _number(preprocessor.get("rescale_factor", 1 / 255), "rescale_factor")
    # EfficientNet's processor subtracts 1 after rescaling by 1 / 127.5, to centre the values.
    centred = preprocessor.get("rescale_offset", preprocessor.get("offset", False))
    return rescale, -1.0 if centred else 0.0


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise BackboneError(f"{_PROCESSOR} has {name} = {value!r}; it must be a number")
    return float(value)


def _triple(value: object, name: str) -> Triple:
    numbers = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise BackboneError(
            f"{_PROCESSOR} has {name} with {len(numbers)} channels; it must have three (RGB)"
        )
    red, green, blue = (_number(number, name) for number in numbers)
    return red, green, blue


def _mean_and_std(preprocessor: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Return mean and standard deviation; zeros and ones if the publisher does not normalise."""
    stated = None not in (preprocessor.get("image_mean"), preprocessor.get("image_std"))
    if not preprocessor.get("do_normalize", stated):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not stated:
        raise BackboneError(
            f"{_PROCESSOR} normalises but does not state image_mean and image_std; use another "
            "repository of the same network whose preprocessor_config.json states them"
        )
    mean = _triple(preprocessor["image_mean"], "image_mean")
    std = _triple(preprocessor["image_std"], "image_std")
    if min(std) <= 0:
        raise BackboneError(f"{_PROCESSOR} has image_std = {list(std)}; they must be positive")
    kind = str(
        preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or ""
    )
    if kind.startswith("EfficientNet") and preprocessor.get("include_top", True):
        # EfficientNetImageProcessor divides by image_std twice for networks with a classifier.
        std = (std[0] ** 2, std[1] ** 2, std[2] ** 2)
    return mean, std


def _published_side(
    preprocessor: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int, int] | None, str]:
    """Return height and width after the publisher's resizing, and how it resizes, in words."""
    crop = preprocessor.get("crop_size") if preprocessor.get("do_center_crop", True) else None
    size = preprocessor.get("size")
    if crop is not None:
        return _pair(crop, "crop_size"), f"resized to {size}, then the centre {crop} cut out"
    if size is not None:
        return _pair(size, "size"), f"resized to {size}"
    known = config.get("image_size", (config.get("vision_config") or {}).get("image_size"))
    if known is None:
        return None, "not stated"
    return _pair(known, "image_size"), f"not stated; image_size {known}"


def _pair(value: object, name: str) -> tuple[int, int]:
    """Return height and width from any form in which they are published."""
    given: list[Any] = []
    if isinstance(value, Mapping):
        if value.get("height") is not None and value.get("width") is not None:
            given = [value["height"], value["width"]]
        elif value.get("shortest_edge") is not None:
            given = [value["shortest_edge"]] * 2
    elif isinstance(value, list | tuple):
        # Three values are timm's channels, height, width.
        given = list(value)[-2:] if len(value) in (2, 3) else list(value) * 2
    else:
        given = [value, value]
    if len(given) != 2 or not all(map(_is_whole, given)):
        raise BackboneError(
            f"{_PROCESSOR} has {name} = {value!r}; it must be a number, {{'height', 'width'}}, "
            "{'shortest_edge'} or [height, width]; give the side with `size`"
        )
    return int(given[0]), int(given[1])


def _is_whole(side: object) -> bool:
    return isinstance(side, int | float) and not isinstance(side, bool) and side == int(side)


def _side(
    published: tuple[int, int] | None, size: int | None, fixed: tuple[int | None, int | None]
) -> int:
    """Choose the side: the graph's if it fixes one, else the user's, else the published one."""
    height, width = fixed
    if height is not None and width is not None and height != width:
        raise BackboneError(
            f"the graph fixes its input at {height} x {width} pixels; only square inputs are "
            "supported"
        )
    if size is not None and not LEAST_SIDE <= size <= MOST_SIDE:
        raise SettingsError(
            f"size = {size}; a backbone's input side is {LEAST_SIDE} to {MOST_SIDE} pixels"
        )
    own = height if height is not None else width
    if own is not None:
        if size not in (None, own):
            raise SettingsError(
                f"size = {size}, but this file runs at {own} x {own} only; "
                "leave size out or choose another file"
            )
        return own
    return size if size is not None else _square(published)


def _square(published: tuple[int, int] | None) -> int:
    """Return the published side. Raises BackboneError if it cannot be used."""
    if published is None:
        raise BackboneError(
            f"{_PROCESSOR} states no size and the graph fixes none; give the side with `size`"
        )
    height, width = published
    if height != width:
        raise BackboneError(
            f"{_PROCESSOR} makes images of {height} x {width} pixels (height x width); only square "
            f"ones are supported; give a side with `size`, for example {min(published)}"
        )
    if not LEAST_SIDE <= height <= MOST_SIDE:
        raise BackboneError(
            f"the published side of {height} pixels is outside {LEAST_SIDE} to {MOST_SIDE}; "
            "give one with `size`"
        )
    return height
