"""How long a person waits in `tailorbird label` on a folder of 100,000 photos.

python benchmarks/labelling_scale.py [--photos 100000]

Features and small pictures are generated, so that only the labelling itself is measured: opening,
surveying the photos, a screen, an answer, the manifest, a small picture. No photo is read.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tailorbird.labelling import Answer, Given, Labelling, LabelSettings, open_labelling

CLASSES = 10


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the seconds of a block, and its seconds of processor time."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    seconds, used = time.perf_counter() - start, time.process_time() - busy
    print(f"{what:<50} {seconds:7.2f} s {used:7.2f} s CPU", flush=True)


def fill(labelling: Labelling, random: np.random.Generator) -> None:
    """Give every photo features of one of CLASSES clusters, a digest and a small picture."""
    gallery = labelling.gallery
    total, width = gallery.features.shape
    middles = random.normal(size=(CLASSES, width)).astype(np.float32)
    true = np.arange(total) % CLASSES
    for start in range(0, total, 4096):
        part = slice(start, start + 4096)
        noise = random.normal(size=(len(true[part]), width)).astype(np.float32)
        gallery.features[part] = middles[true[part]] + 2.5 * noise
    gallery.digests[:] = [f"{i:064x}" for i in range(total)]
    picture = random.bytes(12_000)
    for start in range(0, total, 10_000):
        stop = min(start + 10_000, total)
        gallery.thumbnails.put([(i.to_bytes(32, "big"), picture) for i in range(start, stop)])
    gallery.usable[:] = True
    gallery.version += 1


def main() -> None:
    """Generate, label, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["TAILORBIRD_CACHE"] = str(Path(name, "cache"))
        folder = Path(name, "photos")
        folder.mkdir()
        for i in range(options.photos):
            (folder / f"{i:06}.jpg").touch()
        settings = LabelSettings(classes=tuple(f"class {c}" for c in range(CLASSES)))
        with timed(f"open a folder of {options.photos:,} photos"):
            labelling = open_labelling(folder, settings=settings)
        fill(labelling, np.random.default_rng(0))
        measure(labelling, options.photos)
        with timed("close, which writes the manifest"):
            labelling.close()
        with timed("open again"):
            again = open_labelling(folder, settings=settings)
        again.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'largest memory':<50} {peak:7.2f} GiB")


def measure(labelling: Labelling, photos: int) -> None:
    """Time each thing that a person waits for."""
    chooser = labelling._chooser
    with timed("survey of 20,000 of them (in the background)"):
        chooser.survey(labelling.history.answers)
    screens, busy, answers = [], [], []
    while len(labelling.history.answers.by_name) < 1000:
        start, used = time.perf_counter(), time.process_time()
        screen = labelling.next_screen("one")
        middle = time.perf_counter()
        labelling.answer(
            [
                Given(asked.photo, Answer("label", f"class {asked.photo % CLASSES}"), asked.now)
                for asked in screen.photos
            ]
        )
        answers.append(time.perf_counter() - middle)
        if screen.kind == "sheet":
            screens.append(middle - start)
            busy.append(time.process_time() - used)
    print(f"{'a sheet, with its answer, median':<50} {np.median(screens):7.2f} s"
          f" {np.median(busy):7.2f} s CPU")  # fmt: skip
    print(f"{'an answer on the disk, median and largest':<50} {np.median(answers):7.3f} s"
          f" {max(answers):.3f} s")  # fmt: skip
    with timed("outlook with 1,000 labels (in the background)"):
        labelling.look()
    with timed("manifest (in the background)"):
        labelling.flush()
    with timed("1,000 small pictures"):
        for i in range(0, photos, photos // 1000):
            assert labelling.gallery.thumbnails.get(i.to_bytes(32, "big")) is not None


if __name__ == "__main__":
    main()
