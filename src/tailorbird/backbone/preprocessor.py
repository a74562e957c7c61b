"""What a published image processor does to pixel values, and the side it does it at.

Read from `preprocessor_config.json` as Hugging Face repositories publish it, or from the `pretrained_cfg` of timm's `config.json`.
Only what happens to the values and the final side are taken over. How the photo gets to that side (shortest edge and centre
crop, bicubic, ...) is not: tailorbird has one resize rule, the same for every backbone.

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

# Steps that change pixel values in a way no scale and offset per channel can express.
_NOT_UNDERSTOOD = ("do_color_quantize", "do_grayscale", "do_binarize", "do_threshold")


@dataclass(frozen=True)
class Preprocessing:
    """Pixel values as a network expects them. `mean` and `std` are in RGB order, in units of the rescaled values."""

    side: int
    """Pixels along each edge of the square input."""
    rescale: float
    shift: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool
    """Whether the network wants blue first."""
    published_resize: str
    """How the publisher brings a photo to `side`, in words; not followed, kept for the record."""

    def pixels(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3) RGB to float32 (N, 3, S, S), step by step as the publisher does; the reference for the graph."""
        mean: npt.NDArray[np.float32] = np.array(self.mean, np.float32)
        std: npt.NDArray[np.float32] = np.array(self.std, np.float32)
        values = images.astype(np.float32) * np.float32(self.rescale) + np.float32(self.shift)
        values = (values - mean) / std
        if self.bgr:
            values = values[..., ::-1]
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)

    def affine(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The same as one multiplication and one addition: scale and offset, float32 (3,), in the network's channel order."""
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

    preprocessor: the contents of preprocessor_config.json; may be empty when `config` has timm's `pretrained_cfg`.
    size: the user's own choice of side; wins over the published one. fixed: the height and width the graph fixes, if any.

    Raises SettingsError for a `size` outside 8 to 2048 or other than the graph's fixed side, BackboneError for what is not understood.
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
    refused = [key for key in _NOT_UNDERSTOOD if preprocessor.get(key)]
    if refused:
        raise BackboneError(
            f"the published image processor has steps that are not understood: {', '.join(refused)}; "
            "understood are rescaling, normalising by mean and standard deviation, and BGR order"
        )
    published, words = _published_side(preprocessor, config or {})
    rescale, shift = 1.0, 0.0
    if preprocessor.get("do_rescale", True):
        rescale = _number(preprocessor.get("rescale_factor", 1 / 255), "rescale_factor")
        # EfficientNet's processor: "offset" centres the rescaled values, by subtracting one after rescaling by 1 / 127.5.
        shift = (
            -1.0 if preprocessor.get("rescale_offset", preprocessor.get("offset", False)) else 0.0
        )
    mean, std = _mean_and_std(preprocessor)
    return Preprocessing(
        side=_side(published, size, fixed),
        rescale=rescale,
        shift=shift,
        mean=mean,
        std=std,
        # The second name is the one of the first releases that had MobileViT.
        bgr=bool(
            preprocessor.get("do_flip_channel_order", preprocessor.get("do_flip_channels", False))
        ),
        published_resize=words,
    )


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise BackboneError(
            f"the published image processor has {name} = {value!r}; a number is understood"
        )
    return float(value)


def _triple(value: object, name: str) -> tuple[float, float, float]:
    numbers = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise BackboneError(
            f"the published image processor has {name} with {len(numbers)} channels; three (RGB) are understood"
        )
    red, green, blue = (_number(number, name) for number in numbers)
    return red, green, blue


def _mean_and_std(
    preprocessor: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The mean and standard deviation to normalise with; zeros and ones when the publisher does not normalise."""
    stated = (
        preprocessor.get("image_mean") is not None and preprocessor.get("image_std") is not None
    )
    if not preprocessor.get("do_normalize", stated):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not stated:
        raise BackboneError(
            "the published image processor normalises but does not state image_mean and image_std; "
            "take another repository of the same network whose preprocessor_config.json states them"
        )
    mean, std = (
        _triple(preprocessor["image_mean"], "image_mean"),
        _triple(preprocessor["image_std"], "image_std"),
    )
    if min(std) <= 0:
        raise BackboneError(
            f"the published image processor has image_std = {list(std)}; positive numbers are understood"
        )
    kind = str(
        preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or ""
    )
    if kind.startswith("EfficientNet") and preprocessor.get("include_top", True):
        # EfficientNetImageProcessor divides by image_std a second time when the network was trained with its classifier.
        std = (std[0] ** 2, std[1] ** 2, std[2] ** 2)
    return mean, std


def _published_side(
    preprocessor: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int, int] | None, str]:
    """Height and width after the publisher's resizing, and in words how it gets there."""
    crop = preprocessor.get("crop_size") if preprocessor.get("do_center_crop", True) else None
    size = preprocessor.get("size")
    if crop is not None:
        return _pair(crop, "crop_size"), f"resized to {size}, then the centre {crop} cut out"
    if size is not None:
        return _pair(size, "size"), f"resized to {size}"
    known = config.get("image_size", (config.get("vision_config") or {}).get("image_size"))
    return (
        (None, "not stated")
        if known is None
        else (_pair(known, "image_size"), f"not stated; image_size {known}")
    )


def _pair(value: object, name: str) -> tuple[int, int]:
    """Height and width out of every form they are published in."""
    given: list[Any] = []
    if isinstance(value, Mapping):
        if value.get("height") is not None and value.get("width") is not None:
            given = [value["height"], value["width"]]
        elif value.get("shortest_edge") is not None:
            given = [value["shortest_edge"]] * 2
    elif isinstance(value, list | tuple):
        given = (
            list(value)[-2:] if len(value) in (2, 3) else list(value) * 2
        )  # three: timm's channels, height, width
    else:
        given = [value, value]
    if len(given) != 2 or not all(
        isinstance(side, int | float) and not isinstance(side, bool) and side == int(side)
        for side in given
    ):
        raise BackboneError(
            f"the published image processor has {name} = {value!r}; understood are a number, "
            "{'height', 'width'}, {'shortest_edge'} and [height, width]; give the side with `size`"
        )
    return int(given[0]), int(given[1])


def _side(
    published: tuple[int, int] | None, size: int | None, fixed: tuple[int | None, int | None]
) -> int:
    """The one side of the square input: the graph's own when it fixes one, else the user's, else the published one."""
    height, width = fixed
    if height is not None and width is not None and height != width:
        raise BackboneError(
            f"the graph fixes its input at {height} x {width} pixels; only square inputs are understood"
        )
    if size is not None and not LEAST_SIDE <= size <= MOST_SIDE:
        raise SettingsError(
            f"size = {size}; a backbone's input side is {LEAST_SIDE} to {MOST_SIDE} pixels"
        )
    own = height if height is not None else width
    if own is not None:
        if size is not None and size != own:
            raise SettingsError(
                f"size = {size}, but this file runs at {own} x {own} only; leave size out or choose another file"
            )
        return own
    if size is not None:
        return size
    if published is None:
        raise BackboneError(
            "the published image processor states no size and the graph fixes none; give the side with `size`"
        )
    if published[0] != published[1]:
        raise BackboneError(
            f"the published image processor makes pictures of {published[0]} x {published[1]} pixels (height x width); "
            f"only square ones are understood; give a side with `size`, for example {min(published)}"
        )
    if not LEAST_SIDE <= published[0] <= MOST_SIDE:
        raise BackboneError(
            f"the published side of {published[0]} pixels is outside {LEAST_SIDE} to {MOST_SIDE}; give one with `size`"
        )
    return published[0]
