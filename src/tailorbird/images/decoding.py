"""Decode the bytes or the path of a photo into an upright RGB picture.

Training and serving share this decoder. The cost of decoding is checked from the file's header and
structure before anything is decoded. Pictures that will be resized are passed as
`PIL.Image.Image` of mode RGB, which saves a copy of the large version.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from tailorbird import installing
from tailorbird.errors import ImageError, ImageTooLarge, UnreadableImage, UnsupportedImage
from tailorbird.images import conversion
from tailorbird.images.containers import Container
from tailorbird.images.formats import ACCEPTED, FORMATS, HEAD, Format, identify
from tailorbird.images.resizing import Pixels, ResizeRule, resize

MAX_PIXELS: Final = 89_478_485
"""Pixels allowed by default: 256 MiB of RGB, the same figure at which Pillow warns."""

MAX_SIDE: Final = 65_535
"""Pixels a side may have, JPEG's own limit. Decoders and filters take memory per row and column."""

SCALED_PIXELS: Final = 4
"""Times the cap that the header of a JPEG may announce when it is decoded at a fraction."""

MOST_BYTES: Final = 512 * 1024 * 1024
"""Bytes a photo's file may have."""

# Pillow warns from its own figure on; here the same figure is an error with its own message.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# A photo with a damaged EXIF block is still used; it counts as upright.
warnings.filterwarnings(
    "ignore", message="(Corrupt|Possibly corrupt) EXIF data", category=UserWarning
)

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes a picture upright, by EXIF orientation."""


@dataclass(frozen=True)
class Photo:
    """One decoded picture.

    image: RGB and upright; may be smaller than the original.
    width, height: pixels of the original, as stored in the file.
    """

    image: Image.Image
    width: int
    height: int


def read_bytes(path: str | Path) -> bytes:
    """Read a photo's file.

    Raises UnreadableImage, UnsupportedImage (a pipe or device) or ImageTooLarge.
    """
    path = Path(path)
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UnreadableImage("this is a folder, not a photo")
        if not stat.S_ISREG(about.st_mode):
            raise UnsupportedImage("a pipe, socket or device, not a file")
        if about.st_size > MOST_BYTES:
            size, most = about.st_size / 2**20, MOST_BYTES // 2**20
            raise ImageTooLarge(f"{size:,.0f} MiB; a photo's file may have at most {most} MiB")
        return path.read_bytes()
    except PermissionError:
        raise UnreadableImage("permission denied; allow this user to read the file") from None
    except FileNotFoundError:
        dangling = path.is_symlink()
        reason = "the link leads to a file that does not exist" if dangling else "no such file"
        raise UnreadableImage(reason) from None
    except MemoryError:
        raise UnreadableImage("not enough memory to read the file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(f"could not be read: {reason}") from None


def decode(
    source: bytes | str | Path,
    *,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accepted: Collection[str] = ACCEPTED,
) -> Photo:
    """Decode a picture: upright, RGB, the first frame of an animation.

    Args:
        source: the file's bytes, or its path.
        at_least: the caller will shrink the picture to this many pixels a side, so that a JPEG may
            be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides stay at least this long
            (libjpeg's scaled inverse DCT). None decodes in full.
        max_pixels: pixels that may be decoded; half of it for WebP, AVIF and HEIC.
        accepted: names of the formats to accept; see `formats.FORMATS`.

    Raises:
        UnsupportedImage: the content has another format.
        ImageTooLarge: the header announces more than the caps allow; nothing was decoded.
        UnreadableImage: the file is empty, truncated, damaged or not permitted to be read, or
            memory does not suffice.
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    row = _accepted_format(data, accepted)
    try:
        found = row.inspect(data)
        image, width, height = _load(row, found, at_least, max_pixels // row.pixel_cost)
        if found.orientation is None:
            image = ImageOps.exif_transpose(image)
        elif found.orientation in _TURNS:
            image = image.transpose(_TURNS[found.orientation])
        rgb = conversion.as_rgb(image, bits=found.bits, inverted=found.inverted)
    except ImageError:
        raise
    except MemoryError:
        raise UnreadableImage("not enough memory to decode this photo") from None
    except Image.DecompressionBombError:  # where a header's size is not known before
        raise ImageTooLarge(
            f"more pixels than twice the cap of {MAX_PIXELS:,}; shrink the photo"
        ) from None
    except UnidentifiedImageError:
        raise UnreadableImage(
            "the file is truncated or damaged: its header cannot be read"
        ) from None
    except Exception as error:
        # Decoders raise many types for damaged input (OSError, SyntaxError, struct.error...).
        why = f": {error}" if str(error) else ""
        raise UnreadableImage(f"the file is truncated or damaged{why}") from None
    return Photo(rgb, width, height)


def load(
    source: bytes | str | Path,
    rule: ResizeRule,
    *,
    max_pixels: int = MAX_PIXELS,
    accepted: Collection[str] = ACCEPTED,
) -> Pixels:
    """Decode and resize: uint8 (size, size, 3). Raises what `decode` raises."""
    photo = decode(source, at_least=rule.least_side, max_pixels=max_pixels, accepted=accepted)
    return resize(photo.image, rule)


def from_pil(image: Image.Image) -> Image.Image:
    """Return a PIL image of any mode as decoding its file would: upright, RGB.

    Raises UnreadableImage when it cannot be loaded.
    """
    try:
        image.load()
        return conversion.as_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise UnreadableImage("not enough memory to decode this image") from None
    except Exception as error:  # a lazily opened file raises what its decoder raises
        raise UnreadableImage(f"the image is truncated or damaged: {error}") from None


def from_array(array: npt.ArrayLike) -> Image.Image:
    """Return an RGB picture of a uint8 array: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.

    RGBA is laid over white. Raises UnsupportedImage for any other shape or dtype.
    """
    values = np.asarray(array)
    shape_ok = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if values.dtype != np.uint8 or not shape_ok or 0 in values.shape:
        raise UnsupportedImage(
            f"an array of shape {values.shape} and type {values.dtype} is not a picture; "
            "give uint8 of shape (height, width, 3), RGB, values 0 to 255"
        )
    return conversion.as_rgb(Image.fromarray(values))


def _accepted_format(data: bytes, accepted: Collection[str]) -> Format:
    """Return the format of a file. Raises UnsupportedImage when it is not among `accepted`."""
    if not data:
        raise UnreadableImage("the file is empty (0 bytes)")
    row = identify(data[:HEAD])
    if row is not None and row.name in accepted and row.accepted:
        return row
    names = ", ".join(r.name for r in FORMATS if r.name in accepted and not r.extra)
    if row is None:
        raise UnsupportedImage(f"not an image of a known format; accepted are {names}")
    hint = f"; {row.hint}" if row.hint else ""
    if accepted == ACCEPTED and row.extra and not row.available():
        hint += f"; or install what reads it: {installing.install(row.extra)}"
    raise UnsupportedImage(f"{row.name} is not accepted; accepted are {names}{hint}")


def _load(
    row: Format, found: Container, at_least: int | None, cap: int
) -> tuple[Image.Image, int, int]:
    """Return the decoded picture, and its width and height before decoding at a fraction."""
    most = cap * (SCALED_PIXELS if found.one_scan else 1)
    several_scans = row.pillow == "JPEG" and not found.one_scan
    hint = " or save it again, not as a progressive JPEG" if several_scans else ""
    _check_size(row, found.size or (1, 1), most, hint)
    if found.tile_pixels > cap:
        raise ImageTooLarge(f"tiles of {found.tile_pixels:,} pixels; the cap is {cap:,}")
    image = _open(row, found.data)
    width, height = image.size
    _check_size(row, image.size, most)
    if not found.complete:
        return _without_end(row, found, at_least, cap), width, height
    return _decoded(row, found, image, at_least, cap), width, height


def _open(row: Format, data: bytes) -> ImageFile.ImageFile:
    """Open a picture lazily: its header is read, nothing is decoded."""
    if row.pillow == "JPEG":  # not through Image.open, whose own cap ignores decoding at a fraction
        return JpegImageFile(io.BytesIO(data))
    if row.prepare:
        row.prepare()
    assert row.pillow is not None, "accepted formats have a decoder"
    return Image.open(io.BytesIO(data), formats=(row.pillow,))


def _check_size(row: Format, size: tuple[int, int], cap: int, hint: str = "") -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImage(f"the file is damaged: it has {width} x {height} pixels")
    if max(size) > MAX_SIDE:
        raise ImageTooLarge(f"{width} x {height} pixels; a side may have at most {MAX_SIDE:,}")
    if width * height > cap:
        why = f" for {row.name}" if row.pixel_cost > 1 else ""
        raise ImageTooLarge(
            f"{width} x {height} pixels are {width * height:,}; the cap{why} is {cap:,}; "
            f"shrink the photo{hint}"
        )


def _decoded(
    row: Format, found: Container, image: ImageFile.ImageFile, at_least: int | None, cap: int
) -> Image.Image:
    if at_least is not None:
        image.draft(image.mode, (at_least, at_least))
    _check_size(row, image.size, cap)
    low_bytes = conversion.low_byte_rawmode(image)
    image.load()
    if low_bytes is None or conversion.uses_high_bits(image):
        return image
    low = _open(row, found.data)
    (tile,) = low.tile
    args = (low_bytes, *tile.args[1:]) if isinstance(tile.args, tuple) else low_bytes
    low.tile = [tile._replace(args=args)]
    low.load()
    return conversion.join_bytes(image, low, found.bits)


def _without_end(row: Format, found: Container, at_least: int | None, cap: int) -> Image.Image:
    """Decode a JPEG that lacks its end marker, if only that is missing.

    The decoder fills up what is missing with the bytes that follow. Where the picture is complete,
    it is the same whatever follows.

    Raises UnreadableImage for a truncated picture.
    """
    if not found.data.endswith(bytes(16)):  # the file was not filled up with zeros
        pictures = []
        for filler in (b"\x00\x00", b"\x5a\xa5"):
            data = found.data + filler * 32 + b"\xff\xd9"
            pictures.append(_decoded(row, found, _open(row, data), at_least, cap))
        if pictures[0].tobytes() == pictures[1].tobytes():
            return pictures[0]
    raise UnreadableImage("the file is truncated")
