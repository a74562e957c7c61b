"""Thumbnails, heat maps laid over photos, and pictures as data URIs.

Pictures are `PIL.Image.Image` of mode RGB; heat maps are float32 (h, w), 0 or more, as a model file
gives them.
"""

from __future__ import annotations

import base64
import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from tailorbird.images import ResizeRule

# Every 16th colour of matplotlib's "plasma" (S. van der Walt, N. Smith, E. Firing; CC0). It is
# perceptually uniform, also to colour-blind eyes, and becomes a ramp when printed in grey.
_STOPS: Final = (
    "0d0887 310597 4c02a1 6600a7 7e03a8 9511a1 aa2395 bc3587 cc4778 "
    "da5a6a e66c5c f0804e f89540 fdac33 fdc527 f8df25 f0f921"
)

ALPHA: Final = 0.75
"""Opacity of the overlay at the hottest place, 0 to 1."""


def _table() -> npt.NDArray[np.float32]:
    stops = np.array([list(bytes.fromhex(stop)) for stop in _STOPS.split()], np.float32)
    at = np.linspace(0, len(stops) - 1, 256)
    return np.stack(
        [np.interp(at, np.arange(len(stops)), stops[:, band]) for band in range(3)], axis=1
    ).astype(np.float32)


COLOURS: Final = _table()
"""The colour map: float32 (256, 3), RGB 0 to 255, cold first."""


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """Return an RGB copy that fits into `side` x `side` pixels; it is never enlarged."""
    copy = image.convert("RGB")  # always a copy without the original's metadata
    copy.info.clear()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def relative(heatmap: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Scale a heat map by its maximum: float32 (h, w), 0 to 1; all 0 if nothing is positive."""
    values = np.nan_to_num(np.asarray(heatmap, np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    hottest = float(values.max(initial=0.0))
    return (values / hottest).astype(np.float32) if hottest > 0 else values


def overlay(
    image: Image.Image,
    heatmap: npt.NDArray[np.floating[Any]],
    rule: ResizeRule | None = None,
    *,
    alpha: float = ALPHA,
) -> Image.Image:
    """Lay a heat map over a photo; the result has the photo's size.

    The map covers what the resize rule keeps of the photo; the rest counts as cold. It is enlarged
    with bicubic interpolation and scaled by its maximum. Cold places keep the photo with paler
    colours.

    Args:
        rule: how photos are resized for the model; None: squashed, so that all is kept.
        alpha: opacity of the overlay at the hottest place, 0 to 1.
    """
    region = rule.region(*image.size) if rule is not None else (0, 0, *image.size)
    left, top, right, bottom = (round(one) for one in region)
    size = (max(1, right - left), max(1, bottom - top))
    heat = Image.new("F", image.size)
    heat.paste(
        Image.fromarray(relative(heatmap)).resize(size, Image.Resampling.BICUBIC), (left, top)
    )
    share = np.asarray(heat, np.float32).clip(0, 1)
    grey = ImageOps.grayscale(image).convert("RGB")
    base = np.asarray(
        Image.blend(image.convert("RGB"), grey, 0.5 if alpha > 0 else 0.0), np.float32
    )
    colour = COLOURS[np.rint(share * 255).astype(np.intp)]
    weight = (alpha * share)[..., None]
    return Image.fromarray(
        np.rint(base * (1 - weight) + colour * weight).clip(0, 255).astype(np.uint8)
    )


def jpeg(image: Image.Image, *, quality: int = 80) -> bytes:
    """Encode a picture as JPEG without EXIF, GPS position, comment or colour profile."""
    buffer = io.BytesIO()
    image.convert("RGB").save(
        buffer, "JPEG", quality=quality, optimize=True, exif=b"", icc_profile=None, comment=b""
    )
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "image/jpeg") -> str:
    """Return bytes as a data URI of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
