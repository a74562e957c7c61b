"""float32 against int8: images per second, measured in turns on one thread, and how close features
are.

Backbones are quantised as `tailorbird backbones quantize` does, without its cross-validation.

    python benchmarks/int8_speed.py [--backbone NAME|FILE ...] [--photos PHOTOS]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import MOBILENET, SHARED, machine, parser, photos_in, report

from tailorbird.backbone import Backbone, find
from tailorbird.images import Pixels, ResizeRule, decode, resize
from tailorbird.inference import speeds
from tailorbird.quantization import quantise

LITE = SHARED / "weights" / "efficientnet_lite2_imagenet.backbone.onnx"
CALIBRATED, COMPARED = 128, 64


def spread(photos: list[Path], count: int, offset: int) -> list[Path]:
    """Return photos at even distances; other offsets give other photos."""
    step = max(1, len(photos) // count)
    return photos[offset::step][:count]


def measure(name: str, photos: list[Path]) -> None:
    exact = Backbone(find(name))
    rule: ResizeRule = exact.info.rule

    def load(path: Path) -> Pixels:
        return resize(decode(path, at_least=rule.least_side).image, rule)

    graph = quantise(exact.proto, spread(photos, CALIBRATED, 0), load, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        path.write_bytes(graph.SerializeToString())
        int8 = Backbone(path)
        images = np.stack([load(photo) for photo in spread(photos, COMPARED, 1)])
        before, after = speeds((exact.runner, int8.runner), images, ["features"], seconds=20)
        first, second = exact.features(images), int8.features(images)
        cosines = (first * second).sum(1) / (
            np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        )
        size = path.stat().st_size
    print(
        f"{exact.info.name}: {before:.1f} images/s in float32, {after:.1f} in int8: "
        f"{after / before:.2f} times as fast; {exact.info.file_bytes / 1e6:.1f} MB and "
        f"{size / 1e6:.1f} MB; cosine of features {cosines.mean():.4f} (lowest "
        f"{cosines.min():.4f}) over {len(images)} photos"
    )
    report(
        "int8_speed",
        after / before,
        "none",
        backbone=exact.info.name,
        float32_images_per_second=before,
        int8_images_per_second=after,
        cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
    )


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(backbone=None)
    given = options.parse_args()
    photos = photos_in(given.photos)
    print(machine())
    for name in [given.backbone] if given.backbone else [str(MOBILENET), str(LITE), "pocket"]:
        measure(name, photos)


if __name__ == "__main__":
    main()
