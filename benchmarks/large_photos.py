"""Photos of 12 megapixels: what tailorbird needs for one beyond decoding and the model alone.

    python benchmarks/large_photos.py [--count 1000] [--backbone lite]

Eight photos are enlarged to 3024 x 4032 pixels, given the noise of a sensor and saved as JPEG of
about 3 MB, a quarter of them progressive; copies with different comments make `count` different
files. `Classifier.stream` reads, checks, decodes, resizes and classifies them. The floor does the
least that gives the same answers, on as many threads as cores: Pillow decodes at an eighth of the
size (`draft`) and resizes, and the model runs. Both take turns, three times each. Two minutes and
3 GB of temporary files for 1,000 photos on two cores.
"""

from __future__ import annotations

import io
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import cores, folder, parser, photos_in, report, train_model
from PIL import Image

from tailorbird.model import Classifier, Prediction

SIZE = (3024, 4032)


def large(photo: Path, seed: int, progressive: bool) -> bytes:
    """Return a photo enlarged to 12 megapixels, with noise, as JPEG."""
    noise = np.random.default_rng(seed).normal(0, 6, (SIZE[1], SIZE[0], 1)).astype(np.int16)
    picture = Image.open(photo).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    values = (np.asarray(picture).astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=88, progressive=progressive)
    return buffer.getvalue()


def write(place: Path, photos: list[Path], count: int) -> list[Path]:
    """Write `count` different files of the photos."""
    made = [large(photo, number, number % 4 == 3) for number, photo in enumerate(photos)]
    files = []
    for number in range(count):
        data = made[number % len(made)]
        comment = b"\xff\xfe\x00\x0a%08d" % number  # a comment segment behind the start marker
        files.append(place / f"{number:05d}.jpg")
        files[-1].write_bytes(data[:2] + comment + data[2:])
    return files


def least(classifier: Classifier, files: list[Path]) -> float:
    """Return the seconds of decoding with `draft`, resizing and running the model alone."""
    rule = classifier.info.resize

    def one(path: Path) -> None:
        image = Image.open(path)
        image.draft("RGB", (rule.least_side, rule.least_side))
        small = image.convert("RGB").resize((rule.size, rule.size), Image.Resampling.BILINEAR)
        classifier.run(np.asarray(small)[None])

    start = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, files))
    return time.perf_counter() - start


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(backbone="lite")
    options.add_argument("--count", type=int, default=1000)
    given = options.parse_args()
    with folder() as place:
        model = place / "model.onnx"
        train_model(given.photos, model, given.backbone, "--no-report")
        classifier = Classifier(model)
        photos = photos_in(given.photos)
        files = write(place, photos[:: len(photos) // 8][:8], given.count)
        whole, bare = [], []
        for _ in range(3):
            start = time.perf_counter()
            found = sum(isinstance(one, Prediction) for one in classifier.stream(files))
            whole.append(time.perf_counter() - start)
            assert found == len(files)
            bare.append(least(classifier, files))
            print(f"{whole[-1]:.1f} s, decoding and model alone {bare[-1]:.1f} s", flush=True)
        ratio = statistics.median(a / b for a, b in zip(whole, bare, strict=True))
        report(
            "large_photos",
            ratio,
            "<= 1.15",
            photos=len(files),
            megabytes=sum(file.stat().st_size for file in files) / 1e6,
            photos_per_second=len(files) / statistics.median(whole),
            alone_per_second=len(files) / statistics.median(bare),
        )


if __name__ == "__main__":
    main()
