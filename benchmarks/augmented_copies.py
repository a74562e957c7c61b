"""Share of augmented copies that the search for copies finds among all photos of a data set.

    python benchmarks/augmented_copies.py PHOTOS [--count 50] [--price 20000]

Of `count` photos, drawn at random, one copy of every kind is made: turned, cropped, mirrored and
turned, brighter or darker, compressed; at most 256 pixels a side, JPEG. A copy is found if it and
its original are candidates (among each other's nearest neighbours in the whole data set) and
confirmed by corners and pixels. `--price` then measures the search for candidates among so many
random summaries; it grows with the square.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import report
from PIL import Image, ImageEnhance, ImageOps

from tailorbird import images
from tailorbird.dataset import scan
from tailorbird.dataset.duplicates.altered_copies import confirmed, moves, neighbours
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.local_features import VECTOR, local_features, thumbnail

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def cropped(share: float) -> Change:
    def change(image: Image.Image, random: np.random.Generator) -> Image.Image:
        width, height = image.size
        x, y = (int(random.uniform(0, share) * side) for side in image.size)
        return image.crop((x, y, x + int(width * (1 - share)), y + int(height * (1 - share))))

    return change


def turned(angle: float, *, mirror: bool = False, light: float = 1.0, **options: object) -> Change:
    def change(image: Image.Image, random: np.random.Generator) -> Image.Image:
        image = ImageOps.mirror(image) if mirror else image
        image = image.rotate(angle, Image.Resampling.BICUBIC, **options)  # type: ignore[arg-type]
        return ImageEnhance.Brightness(image).enhance(light)

    return change


CHANGES: dict[str, Change] = {
    **{f"turned by {angle}": turned(angle) for angle in (3, -7, 12, 20, 30)},
    "turned by 12, darker": turned(12, light=0.75),
    "turned by 20, white": turned(20, fillcolor=(255, 255, 255)),
    "turned by 30, enlarged frame": turned(30, expand=True),
    "turned by 102": turned(102, expand=True),
    "mirrored, turned by 10": turned(10, mirror=True),
    "mirrored, turned by 25": turned(25, mirror=True),
    **{f"cropped by {share}%": cropped(share / 100) for share in (5, 10, 15, 20, 30)},
    "cropped by 15%, quality 30": cropped(0.15),
    "mirrored, cropped by 20%": lambda image, random: cropped(0.2)(ImageOps.mirror(image), random),
    "brighter, cropped by 10%": lambda image, random: ImageEnhance.Brightness(
        cropped(0.1)(image, random)
    ).enhance(1.2),
    "cropped by 30%, made square": lambda image, random: cropped(0.3)(image, random).resize(
        (224, 224)
    ),
}


def found(
    name: str, originals: list[Path], chosen: list[int], corners: np.ndarray, vectors: np.ndarray
) -> tuple[float, float]:
    """Return which share of the copies are candidates, and which are found."""
    random = np.random.default_rng(1)
    quality = 30 if name.endswith("quality 30") else 88
    copies = []
    for number in chosen:
        image = images.decode(originals[number]).image
        image.thumbnail((256, 256))
        path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / "augmented-copy.jpg"
        CHANGES[name](image, random).save(path, quality=quality)
        copies.append(images.decode(path).image)
        path.unlink()
    own_corners, own_vectors = local_features([thumbnail(copy) for copy in copies])
    left, right = neighbours(np.concatenate([vectors, own_vectors]))
    pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    near = [(number, len(originals) + k) in pairs for k, number in enumerate(chosen)]
    found = moves(corners[chosen], own_corners)
    same = [
        near[k]
        and found.likely[k]
        and confirmed(
            images.decode(originals[number]).image,
            copies[k],
            found.matrix[k],
            int(found.agreeing[k]),
        )
        for k, number in enumerate(chosen)
    ]
    return float(np.mean(near)), float(np.mean(same))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("photos")
    options.add_argument("--count", type=int, default=50)
    options.add_argument("--price", type=int, default=0)
    chosen = options.parse_args()
    dataset = scan(chosen.photos)
    samples = list({sample.digest: sample for sample in dataset.samples}.values())
    store = CornerStore(True)
    digests = [bytes.fromhex(sample.digest) for sample in samples]
    corners, vectors = store.corners(digests), store.vectors(digests)
    picked = np.random.default_rng(0).permutation(len(samples))[: chosen.count].tolist()
    paths = [sample.path for sample in samples]
    shares = {}
    for name in CHANGES:
        near, same = found(name, paths, picked, corners, vectors)
        shares[name] = same
        print(f"{name:<30} candidates {near:.2f}, found {same:.2f}", flush=True)
    seconds = 0.0
    if chosen.price:
        random = np.random.default_rng(2)
        many = random.integers(-127, 128, (chosen.price, VECTOR), np.int8)
        start, cpu = time.perf_counter(), time.process_time()
        neighbours(many)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"candidates among {chosen.price:,} summaries: {seconds:.1f} s, "
            f"{time.process_time() - cpu:.1f} s on the cores; peak {peak:.0f} MB"
        )
    report("augmented_copies", min(shares.values()), "> 0", shares=shares, price_seconds=seconds)


if __name__ == "__main__":
    main()
