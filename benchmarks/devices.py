"""Every device at hand beside the CPU, in turns: images per second, processor time, agreement.

"run" is what a device can do: images in memory through `Runner.run`. "photos" is what a user gets:
JPEGs decoded on all cores and run, as `predict` and `train` do. Needs no network and no data:
photos are drawn where there are none. On a machine with a GPU:

    python benchmarks/devices.py --seconds 20 --half
    python benchmarks/devices.py --device cuda --device cuda:1 --backbone lite

The first run on a device, which compiles or loads kernels, is reported apart.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from common import SHARED, machine, parser, photos_in, report
from PIL import Image

from tailorbird.backbone import Backbone, find
from tailorbird.errors import BackboneError
from tailorbird.images import Pixels, ResizeRule, decode, resize
from tailorbird.inference import CPU, Runner, devices
from tailorbird.inference.choosing import difference
from tailorbird.inference.precision import is_quantised

FLOAT = SHARED / "weights" / "efficientnet_lite2_imagenet.backbone.onnx"
DRAWN = 64


def drawn() -> list[bytes]:
    """Return JPEGs of smooth noise, 500 x 375."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(DRAWN):
        small = random.integers(0, 256, (12, 16, 3), np.uint8)
        buffer = io.BytesIO()
        picture = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def opened(backbone: Backbone, wanted: list[devices.Device]) -> dict[str, Runner]:
    """Open a backbone on every device; say which cannot be used, and how long it takes."""
    runners = {}
    for device in wanted:
        name = device.name + "/half" * device.half
        start = time.perf_counter()
        try:
            runner = Runner(backbone.proto, backbone.info.name, BackboneError, device=device)
            images = np.zeros((device.batch, *(backbone.info.size,) * 2, 3), np.uint8)
            runner.run_batch(images, ["features"])
        except BackboneError as error:
            print(f"  {name}: cannot be used: {error}")
            continue
        if runner.lost:
            print(f"  {name}: failed in its first run")
            continue
        print(f"  {name}: opened, with the first run, in {time.perf_counter() - start:.2f} s")
        runners[name] = runner
    return runners


def in_turns(work: dict[str, Callable[[], int]], seconds: float) -> dict[str, tuple[float, float]]:
    """Return images per second and images per processor second, medians over turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    end = time.perf_counter() + seconds * len(work)
    while time.perf_counter() < end or len(next(iter(found.values()))) < 3:
        for name, one in work.items():
            wall, used = time.perf_counter(), time.process_time()
            count = one()
            wall, used = time.perf_counter() - wall, time.process_time() - used
            found[name].append((count / wall, count / max(used, 1e-9)))
    return {
        name: (float(np.median(rates)), float(np.median(per)))
        for name, (rates, per) in ((name, zip(*rows, strict=True)) for name, rows in found.items())
    }


def running(runner: Runner, images: npt.NDArray[np.uint8]) -> Callable[[], int]:
    def one() -> int:
        return len(runner.run(images, ["features"])[0])

    return one


def photographing(runner: Runner, photos: list[bytes], rule: ResizeRule) -> Callable[[], int]:
    def load(data: bytes) -> tuple[None, Pixels]:
        return None, resize(decode(data, at_least=rule.least_side).image, rule)

    def one() -> int:
        return sum(1 for _ in runner.map(photos, load, ["features"]))

    return one


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(backbone=None)
    options.add_argument("--device", action="append", help="only these; by default all")
    options.add_argument("--half", action="store_true", help="also in float16")
    options.add_argument("--images", type=int, default=0, help="images a turn; 0: 2 batches")
    options.add_argument("--seconds", type=float, default=8.0, help="for each device and kind")
    given = options.parse_args()
    names = [given.backbone] if given.backbone else [*([FLOAT] if FLOAT.exists() else []), "lite"]
    wanted = [CPU, *(one for one in devices.at_hand() if not one.is_cpu)]
    if given.device:
        wanted = [CPU, *(devices.named(name) for name in given.device if name != "cpu")]
    if given.half:
        wanted += [replace(device, half=True) for device in wanted if not device.is_cpu]
    some = list(photos_in(given.photos))[:DRAWN] if given.photos.exists() else []
    photos = [path.read_bytes() for path in some] or drawn()
    print(machine())
    for name in names:
        backbone = Backbone(find(name))
        print(f"{backbone.info.name}: {name}")
        runners = opened(backbone, wanted)
        for text, changed in (("int8 in float", {"int8": False}), ("in float16", {"half": True})):
            other = Runner(
                backbone.proto, name, BackboneError, device=replace(CPU, name=text, **changed)
            )
            if other.converted:
                gap = difference(backbone.runner, other, "features")
                print(f"  {text}, computed by the CPU: features differ by {gap:.2g}")
        batch = max(runner.device.batch for runner in runners.values())
        count = given.images or 2 * max(batch, 8)
        images = np.random.default_rng(0).integers(
            0, 256, (count, backbone.info.size, backbone.info.size, 3), np.uint8
        )
        work = {key: running(one, images) for key, one in runners.items()}
        run = in_turns(work, given.seconds)
        rule = backbone.info.rule
        work = {key: photographing(one, photos, rule) for key, one in runners.items()}
        seen = in_turns(work, given.seconds)
        for key, runner in runners.items():
            gap = difference(backbone.runner, runner, "features")
            as_it_is = "int8" if is_quantised(backbone.proto) else "float32"
            computes = runner.arithmetic if runner.converted else as_it_is
            print(
                f"  {key} ({computes}): run {run[key][0]:,.1f} images/s "
                f"({run[key][1]:,.1f} per processor second), photos {seen[key][0]:,.1f} "
                f"({seen[key][1]:,.1f}); {run[key][0] / run['cpu'][0]:.2f} and "
                f"{seen[key][0] / seen['cpu'][0]:.2f} times the CPU, per processor second "
                f"{run[key][1] / run['cpu'][1]:.2f}; features differ by {gap:.2g}"
            )
            if key != "cpu":
                report(
                    "devices",
                    run[key][0] / run["cpu"][0],
                    "none",
                    backbone=backbone.info.name,
                    device=key,
                    photos=round(seen[key][0] / seen["cpu"][0], 3),
                    difference=f"{gap:.2g}",
                )


if __name__ == "__main__":
    main()
