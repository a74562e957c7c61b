"""Bytes or a path in, RGB pixels out: the one decoder and the one resize rule that training and serving share.

Arrays here are uint8 (H, W, 3), channels in the order red, green, blue, values 0 to 255.
Pictures that are still to be resized travel as `PIL.Image.Image` of mode RGB, which spares a copy of the large version.
"""

from __future__ import annotations

import hashlib
import io
import math
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from tailorbird.errors import (
    ImageTooLarge,
    ModelFileError,
    SettingsError,
    UnreadableImage,
    UnsupportedImage,
)

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, 0 to 255."""

ACCEPTED: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP") + (
    ("AVIF",) if features.check("avif") else ()
)
"""What is decoded, decided by content; a file's name plays no part."""

EXTENSIONS: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".avif"}
)
"""Names under which photos are usually found; files with other names are opened too and judged by content."""

MAX_PIXELS: Final = 89_478_485
"""Pixels allowed by default: 256 MiB of RGB, the same figure Pillow warns at."""

MOST_SCAN_PIXELS: Final = 1_500_000_000
"""Scans times pixels of a JPEG that is read in several scans: 30 of 50 megapixels. Progressive photos have about ten scans; a
file of a few kilobytes can have thousands, each of which takes the decoder over the whole picture once more."""

_HUNGRY: Final = frozenset({"WEBP", "AVIF"})
"""Formats whose decoders hold a picture several times over: 16 to 20 bytes a pixel where others take 6 to 12."""

MOST_BYTES: Final = 512 * 1024 * 1024
"""Bytes a photo's file may have."""

_STRIP: Final = 256  # rows converted at a time

# Pillow warns from this figure on; here the same figure is an error with its own message, so the warning says nothing new.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# A photo whose EXIF block is damaged is still a photo; without a readable orientation it is taken as upright.
warnings.filterwarnings(
    "ignore", message="(Corrupt|Possibly corrupt) EXIF data", category=UserWarning
)

# What people try to upload and what to tell them. (offset, signature, name)
_FOREIGN: Final = (
    (0, b"%PDF", "PDF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "MP4 video"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\1\0", "icon (ICO)"),
    (0, b"\x1aE\xdf\xa3", "WebM video"),
    (0, b"PK\3\4", "ZIP archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"qoif", "QOI"),
    (0, b"#!", "script"),
    (0, b"\x7fELF", "program"),
)
_OWN: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


@dataclass(frozen=True)
class ResizeRule:
    """How a picture of any shape becomes the square the backbone wants: squashed to `size` x `size` pixels.

    Squashing keeps the whole product in view, as the usual Keras loaders do. The filter is Pillow's BILINEAR, a triangle
    filter that widens when it shrinks, so that nothing aliases.
    """

    size: int

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise SettingsError(f"image size is {self.size}; it must be between 8 and 2048 pixels")

    @property
    def least_side(self) -> int:
        """The fewest pixels a side a JPEG may be decoded to: 7/8 of `size`.

        Enlarging by at most 8/7 after decoding at half the size costs a third of decoding in full, and on a frozen MobileNetV2
        the scores of five-fold cross-validation were the same (benchmarks/README.md).
        """
        return self.size * 7 // 8

    @property
    def key(self) -> str:
        """A short name that changes whenever the pixels a rule produces would."""
        return f"squash-{self.size}-bilinear-from-{self.least_side}"

    def as_dict(self) -> dict[str, Any]:
        """The rule as it stands in a model file's metadata."""
        return {
            "mode": "squash",
            "size": self.size,
            "filter": "bilinear, antialiased (Pillow BILINEAR)",
        }

    @classmethod
    def from_dict(cls, value: object) -> ResizeRule:
        """Read `as_dict` back. Raises ModelFileError for a rule this version does not know."""
        if (
            not isinstance(value, dict)
            or value.get("mode") != "squash"
            or not isinstance(value.get("size"), int)
        ):
            raise ModelFileError(
                f"the resize rule {value!r} is unknown to this version of tailorbird; upgrade tailorbird"
            )
        return cls(size=value["size"])


def foreign_format(head: bytes) -> str | None:
    """The everyday name of a format that is not accepted, told from a file's first bytes; None when not recognised."""
    for offset, signature, name in _FOREIGN:
        if head[offset : offset + len(signature)] == signature:
            return name
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "SVG" if b"<svg" in head.lower() or start.startswith(b"<!doctype svg") else "XML"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML page"
    if head and all(byte in b"\t\r\n\f\x1b" or byte >= 32 for byte in head[:512]):
        return "text"
    return None


def starts_like_a_photo(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of an image, accepted or not, rather than of text."""
    if head.startswith(b"BM"):
        return head[6:10] == bytes(
            4
        )  # reserved and zero in a bitmap; "BM" alone may begin a file's name
    webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    return head.startswith(_OWN) or webp or foreign_format(head) not in (None, "text", "script")


_HINTS: Final = {
    "SVG": "export it as PNG",
    "HEIC": "export it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)",
    "HEIF": "export it as JPEG",
    "PDF": "export the page as PNG or JPEG",
    "HTML page": "this is a web page saved in place of the photo; download the photo itself",
}


def read_bytes(path: str | Path) -> bytes:
    """A photo's bytes. Raises UnreadableImage, UnsupportedImage (a pipe or device) or ImageTooLarge with the reason in words."""
    path = Path(path)
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UnreadableImage("this is a folder, not a photo")
        if not stat.S_ISREG(about.st_mode):
            raise UnsupportedImage("a pipe, socket or device, not a file")
        if about.st_size > MOST_BYTES:
            raise ImageTooLarge(
                f"{about.st_size / 2**20:,.0f} MiB; no photo is larger than {MOST_BYTES // 2**20} MiB"
            )
        return path.read_bytes()
    except PermissionError:
        raise UnreadableImage("permission denied; allow this user to read the file") from None
    except FileNotFoundError:
        reason = (
            "the link leads to a file that does not exist" if path.is_symlink() else "no such file"
        )
        raise UnreadableImage(reason) from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(
            f"could not be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """A lazily opened picture whose format and size are acceptable; nothing is decoded yet."""
    if not data:
        raise UnreadableImage("the file is empty (0 bytes)")
    accepted = ", ".join(ACCEPTED)
    try:
        image = Image.open(io.BytesIO(data), formats=ACCEPTED)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{error}; the cap is {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        name = foreign_format(data[:4096])
        if name and not data.startswith(_OWN):
            hint = f"; {_HINTS[name]}" if name in _HINTS else ""
            raise UnsupportedImage(
                f"{name} is not accepted; accepted are {accepted}{hint}"
            ) from None
        if data.startswith(_OWN) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise UnreadableImage(
                "the file is damaged or truncated: its header cannot be read"
            ) from None
        raise UnsupportedImage(f"not an image of a known format; accepted are {accepted}") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        IndexError,
        KeyError,
        TypeError,
    ) as error:
        raise UnreadableImage(f"the file is damaged: {error}") from None
    width, height = image.size
    cap = max_pixels // 2 if image.format in _HUNGRY else max_pixels
    if width * height > cap:
        why = f" for {image.format}" if cap < max_pixels else ""
        raise ImageTooLarge(
            f"{width} x {height} pixels are {width * height:,}; the cap{why} is {cap:,}; shrink the photo"
        )
    return image


def _check_scans(image: Image.Image, data: bytes) -> None:
    """Raise ImageTooLarge for a JPEG of so many scans that decoding it would take minutes. Looks at nothing of other files."""
    if not isinstance(image, JpegImageFile):
        return
    # Pillow has read up to the end of the first scan's header, which says how many components are in it (ITU T.81, B.2.3).
    end = image.fp.tell() if image.fp else 0
    first = data.rfind(b"\xff\xda", max(0, end - 16), end)
    in_first = data[first + 4] if first >= 0 else 0
    if not image.info.get("progressive") and in_first >= image.layers:
        return  # an ordinary photo: one scan holds everything, and the decoder stops after it
    scans = data.count(b"\xff\xda")
    width, height = image.size
    # A scan costs something however small the picture is: tables are built and the whole image's blocks walked.
    if scans * (width * height + 1_000_000) > MOST_SCAN_PIXELS:
        raise ImageTooLarge(
            f"{scans} scans of {width} x {height} pixels take too long to decode; save the photo again, not as a progressive JPEG"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: 16-bit scaled rather than clipped, transparency over white."""
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if not deep and not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    # In strips: several copies of a large picture at once, some of eight bytes a value, would be most of what serving needs.
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        whole.paste(_scaled(strip) if deep else _over_white(strip), (0, top))
    return whole


def _scaled(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    # 16-bit grey spans 0 to 65535, and 65535 / 257 = 255 exactly.
    return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert(
        "RGB"
    )


def _upright_rgb(image: Image.Image) -> Image.Image:
    """EXIF orientation applied first: converting a picture drops the tag."""
    return _as_rgb(ImageOps.exif_transpose(image))


@dataclass(frozen=True)
class Photo:
    """One decoded picture. `image` is RGB, upright, and may be smaller than the original `width` x `height` in pixels."""

    image: Image.Image
    width: int
    height: int


def decode(
    source: bytes | str | Path, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Decode a JPEG, PNG, WebP, GIF, BMP or AVIF picture: upright, RGB, first frame of an animation.

    source: the file's bytes, or its path.
    at_least: the caller will shrink the picture to this many pixels a side, so a JPEG may be decoded at 1/2, 1/4 or 1/8 of
        its size as long as both sides stay at least this long (libjpeg's scaled inverse DCT). None decodes in full.
    max_pixels: more than this, by the header, is refused before anything is decoded; half of it for WebP and AVIF.

    Raises UnsupportedImage, ImageTooLarge or UnreadableImage (empty, truncated, damaged, not permitted).
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    image = _opened(data, max_pixels)
    _check_scans(image, data)
    width, height = image.size
    try:
        if at_least is not None:
            image.draft(image.mode, (at_least, at_least))
        image.load()
        upright = _upright_rgb(image)
    except MemoryError:
        raise UnreadableImage(f"not enough memory to decode {width} x {height} pixels") from None
    except Exception as error:
        # Decoders raise whatever they like on damaged input (OSError, SyntaxError, struct.error, ZeroDivisionError...).
        raise UnreadableImage(f"the file is truncated or damaged: {error}") from None
    return Photo(upright, width, height)


def resize(image: Image.Image, rule: ResizeRule) -> Pixels:
    """THE resize rule: uint8 (size, size, 3)."""
    if image.size != (rule.size, rule.size):
        image = image.resize((rule.size, rule.size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def load(source: bytes | str | Path, rule: ResizeRule, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode and resize: uint8 (size, size, 3). Raises what `decode` raises."""
    return resize(decode(source, at_least=rule.least_side, max_pixels=max_pixels).image, rule)


def from_pil(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as decoding its file would give it: upright, RGB. Raises UnreadableImage when it cannot be loaded."""
    try:
        image.load()
        return _upright_rgb(image)
    except Exception as error:  # a lazily opened file fails as its decoder likes
        raise UnreadableImage(f"the image is truncated or damaged: {error}") from None


def from_array(array: npt.ArrayLike) -> Image.Image:
    """An array as an RGB picture: uint8 (H, W, 3) RGB, (H, W, 4) RGBA over white, or (H, W) grey.

    Raises UnsupportedImage for any other shape or dtype.
    """
    values = np.asarray(array)
    shape_ok = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if values.dtype != np.uint8 or not shape_ok or 0 in values.shape:
        raise UnsupportedImage(
            f"an array of shape {values.shape} and type {values.dtype} is not a picture; "
            "give uint8 of shape (height, width, 3), RGB, values 0 to 255"
        )
    return _as_rgb(Image.fromarray(values))


_MOST: Final = {"zoom": 0.9, "rotation": 180, "shear": 60, "shift": 0.9, "brightness": 0.9}
"""Beyond these a photo may be black, empty or turned over more than once."""


@dataclass(frozen=True)
class Augmentation:
    """The range each augmented view is drawn from; every number is the largest change either way.

    zoom: scale factor 1 - zoom to 1 + zoom, 0 to 0.9. rotation: degrees, 0 to 180. shear: degrees, 0 to 60. shift: fraction of
    the side, 0 to 0.9. brightness: factor 1 - brightness to 1 + brightness, 0 to 0.9. flip: mirrored left to right with
    probability one half. Raises SettingsError.
    """

    flip: bool = True
    zoom: float = 0.15
    rotation: float = 10.0
    shear: float = 8.0
    shift: float = 0.06
    brightness: float = 0.15

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every range that cannot be."""
        problems = [
            f"{name} is {value!r}, but must be 0 to {most:g}"
            for name, most in _MOST.items()
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value <= most
        ]
        if problems:
            raise SettingsError("photos cannot be augmented so: " + "; ".join(problems))

    @property
    def key(self) -> str:
        """A short name that changes with any of the ranges."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def view_random(digest: bytes, view: int) -> np.random.Generator:
    """The random numbers of one view of one photo: they depend on its content and the view's number, on nothing else."""
    seed = hashlib.sha256(digest + b"view" + str(view).encode()).digest()[:16]
    return np.random.default_rng(int.from_bytes(seed, "big"))


def warp(
    image: Image.Image, rule: ResizeRule, augmentation: Augmentation, random: np.random.Generator
) -> Pixels:
    """One augmented view, uint8 (size, size, 3): flip, zoom, rotation, shear and shift as a single affine map, then brightness.

    The picture is first shrunk to the sharpness the view can show, because an affine map samples points and would alias.
    Corners that would lie outside the picture repeat its border colours.
    """
    size = rule.size
    a = augmentation
    side = math.ceil(size * (1 + a.zoom))
    source = image.resize((side, side), Image.Resampling.BILINEAR)

    flip = -1.0 if a.flip and random.random() < 0.5 else 1.0
    scale = math.exp(random.uniform(math.log(1 - a.zoom), math.log(1 + a.zoom)))
    angle, shear = (math.radians(random.uniform(-limit, limit)) for limit in (a.rotation, a.shear))
    shift_x, shift_y = (random.uniform(-a.shift, a.shift) * side for _ in range(2))
    brightness = random.uniform(1 - a.brightness, 1 + a.brightness)

    # Pillow wants the map from output to input: input = M (output - centre) + centre + shift.
    to_input = side / size / scale
    cos, sin = math.cos(angle), math.sin(angle)
    rotate = np.array([[cos, -sin], [sin, cos]])
    skew = np.array([[1.0, math.tan(shear)], [0.0, 1.0]])
    matrix = rotate @ skew @ np.diag([flip, 1.0]) * to_input
    reach = np.abs(matrix).sum(axis=1) * size / 2 + np.abs([shift_x, shift_y]) - side / 2
    margin = max(
        side * 3 // 8, math.ceil(reach.max()) + 1
    )  # the first is further than the default ranges can reach
    padded = Image.fromarray(
        np.pad(np.asarray(source), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    )
    centre_in = np.array([side / 2 + margin + shift_x, side / 2 + margin + shift_y])
    offset = centre_in - matrix @ np.array([size / 2, size / 2])
    coefficients = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    warped = padded.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(
        warped.point([min(255, round(value * brightness)) for value in range(256)] * 3)
    )
