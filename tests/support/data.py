"""Pictures the tests draw themselves, and the data beside the checkout where it is there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageDraw

from tailorbird.images import FORMATS

SHARED = Path(__file__).resolve().parents[3] / "shared"
MOBILENET = SHARED / "weights" / "mobilenetv2_imagenet.backbone.onnx"
CLOTHING = SHARED / "data" / "clothing-dataset-small"
TRASHNET = SHARED / "data" / "trashnet"

needs_shared = pytest.mark.skipif(
    not CLOTHING.is_dir(), reason="needs the photos of shared/data beside the checkout"
)

MakeDataset = Callable[..., Path]


def picture(label: str, seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A drawn picture: its shape is the label (disc, box, cross), all else is chance."""
    random = np.random.default_rng([seed, *label.encode()])
    width, height = size
    image = Image.new("RGB", size, tuple(int(v) for v in random.integers(150, 250, 3)))
    draw = ImageDraw.Draw(image)
    colour = tuple(int(v) for v in random.integers(0, 120, 3))
    side = min(size) * random.uniform(0.35, 0.6)
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    frame = (left, top, left + side, top + side)
    if label.endswith("disc"):
        draw.ellipse(frame, fill=colour)
    elif label.endswith("box"):
        draw.rectangle(frame, fill=colour)
    else:
        draw.line(frame, fill=colour, width=8)
        draw.line((left, top + side, left + side, top), fill=colour, width=8)
    noise = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a picture in a format of `images.FORMATS`, or one that only Pillow knows."""
    buffer = io.BytesIO()
    if kind == "HEIC":  # the extra only reads
        pillow_heif.from_pillow(image).save(buffer, **options)
        return buffer.getvalue()
    row = next((row for row in FORMATS if row.name == kind), None)
    image.save(buffer, row.pillow if row is not None and row.pillow else kind, **options)
    return buffer.getvalue()


def busy_picture(seed: int, size: tuple[int, int] = (360, 270)) -> Image.Image:
    """A drawing with as many corners as a photo has."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in random.integers(120, 240, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(45):
        x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
        w, h = random.uniform(10, 90, 2)
        colour = tuple(int(v) for v in random.integers(10, 245, 3))
        shape = draw.ellipse if random.random() < 0.3 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    return image


def draw_dataset(
    folder: Path, labels: tuple[str, ...] = ("disc", "box", "cross"), count: int = 24, seed: int = 0
) -> Path:
    """Class folders of `count` drawn JPEG files each."""
    for label in labels:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(label, seed * 10_000 + number).save(
                folder / label / f"{label.rpartition('/')[2]}-{number:03}.jpg", quality=92
            )
    return folder
