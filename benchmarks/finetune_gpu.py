"""Measure how busy fine-tuning in PyTorch keeps a device: the whole loop over the bare step.

    python benchmarks/finetune_gpu.py [--network NAME] [--size 224] [--batch 256] [--epochs 3]
        [--peers timm,keras] [--keras-python PATH] [--pillow]

Two rates of images/s on the same network (timm, random weights), size, batch and arithmetic:

    step    the optimiser step alone, on one batch that is on the device already
    loop    `train --finetune`: decoding, augmentation, copies, EMA, notes; validation not counted

The first epoch decodes the photos, later ones find them in memory: both are printed, and the ratio
is that of the later ones. It needs no network connection and no data: photos are drawn unless
--photos names some. On a CPU the defaults are small; --pillow makes the views there one by one with
Pillow, from the files in every epoch, as networks do that take no views.
--peers also runs the training loops of timm's train.py and of Keras on JAX on the same photos
(peers/epochs_timm.py, peers/epochs_keras.py), in bfloat16 on a GPU; Keras, JAX and TensorFlow,
which reads the photos, are looked for in this environment, or --keras-python names another.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from PIL import Image

from tailorbird.dataset import Sample, scan, split
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.protocol import Training
from tailorbird.engines.torch import backend, devices, exporting, networks
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.head import Dense, Head

TARGET = 0.9
IN_KERAS = {"mobilenetv2_100": "MobileNetV2", "resnetv2_50": "ResNet50V2"}
"""Names in Keras Applications of networks that both have."""


def peer_rate(python: str, name: str, photos: Path, *values: object) -> float:
    """Return images/s of the epochs after the first of a peer's training loop.

    values: network, size, batch, epochs.
    """
    script = common.HERE / "peers" / f"epochs_{name}.py"
    command = [python, str(script), str(photos), *map(str, values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not said:
        sys.exit(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    rates = [float(one["images_per_second"]) for one in said]
    print(f"{name}: {', '.join(f'{rate:,.1f}' for rate in rates)} images/s", flush=True)
    return statistics.median(rates[1:] or rates)


def draw(folder: Path, count: int) -> Path:
    """Draw JPEGs of 400 x 500 pixels in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("ab"[number % 2])
        place.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(coarse).resize((500, 400), Image.Resampling.BICUBIC).save(
            place / f"{number}.jpg", quality=90
        )
    return folder


def opened(name: str, size: int) -> TorchNetwork:
    """Return a network with random weights."""
    torch, _ = backend.load()
    torch.manual_seed(0)
    architecture = networks.find(name)
    net = networks.build(architecture, size)
    return TorchNetwork(exporting.export(net, architecture, size, {"name": name}))


def step_rate(network: TorchNetwork, task: FinetuneTask, steps: int) -> float:
    """Return images/s of the optimiser step on a batch that stays on the device."""
    torch, _ = backend.load()
    settings = task.settings
    network.attach(task.head, settings.regularisation, None)
    network.begin(
        Training(task.size, 0, mixed_precision=bool(settings.mixed_precision), optimizer="adamw")
    )
    device = network._device
    values = torch.rand(settings.batch_size, 3, task.size, task.size, device=device) * 255
    values = values.to(memory_format=torch.channels_last)
    targets = torch.zeros(settings.batch_size, task.classes, device=device)
    targets[:, 0] = 1

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            seen = network.update(values, targets, 1e-4)
        float(seen.loss)  # waits for the device
        return time.perf_counter() - start

    run(max(3, steps // 4))
    return settings.batch_size * steps / min(run(steps) for _ in range(3))


def loop_rates(task: FinetuneTask) -> list[float]:
    """Return images/s of each epoch of the whole loop."""
    found = finetune(task)
    return [one.images_per_second for one in found.history if one.images_per_second]


def task_on(
    photos: Path, network: TorchNetwork, settings: FinetuneSettings, *, size: int, folder: Path
) -> FinetuneTask:
    """Return the task of fine-tuning a network, with a head of zeros, on class folders."""
    dataset = split(scan(photos), seed=0)
    parts: dict[str, list[Sample]] = {
        part: [one for one in dataset.samples if one.split == part]
        for part in ("train", "validation")
    }
    classes = sorted({one.label for one in dataset.samples})
    width = network.cuts(size)[-1].values
    head = Dense(np.zeros((width, len(classes)), np.float32), np.zeros(len(classes), np.float32))
    return FinetuneTask(
        network,
        parts,
        {key: np.array([classes.index(one.label) for one in part]) for key, part in parts.items()},
        Head((head,)),
        settings,
        size=size,
        folder=folder,
        seed=0,
        classes=len(classes),
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--photos", type=Path, help="class folders; by default drawn")
    options.add_argument("--count", type=int, help="number of photos to draw")
    options.add_argument("--network", help="name in timm")
    options.add_argument("--size", type=int)
    options.add_argument("--batch", type=int)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--peers", default="", help="timm, keras, or both, with a comma")
    options.add_argument("--keras-python", default=sys.executable, help="has Keras and JAX")
    options.add_argument("--pillow", action="store_true", help="views one by one")
    given = options.parse_args()
    on_gpu = devices.device().type != "cpu"
    name = given.network or ("mobilenetv2_100" if on_gpu else "resnet18")
    size, batch = given.size or (224 if on_gpu else 96), given.batch or (256 if on_gpu else 16)
    count = given.count or (8192 if on_gpu else 160)
    peers = [one for one in given.peers.split(",") if one]
    if unknown := sorted(set(peers) - {"timm", "keras"}):
        options.error(f"unknown peers {unknown}; valid: timm, keras")
    if "keras" in peers and name not in IN_KERAS:
        options.error(f"Keras has no {name}; --network may be {', '.join(IN_KERAS)}")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        network = opened(name, size)
        if given.pillow:
            network.takes_views = False
        settings = FinetuneSettings(
            sizes=(size,), unfreeze="all", epochs=given.epochs, batch_size=batch
        ).for_network(network)
        photos = given.photos or draw(place / "photos", count)
        task = task_on(photos, network, settings, size=size, folder=place / "run")
        parts = task.parts
        print(
            f"{name}, {size} px, batches of {batch}, {len(parts['train'])} photos; "
            f"{common.machine()}"
        )
        print(
            f"device: {devices.name(network._device)}, mixed precision {settings.mixed_precision}"
        )
        before = step_rate(network, task, 20 if on_gpu else 6)
        first, *later = loop_rates(task)
        after = step_rate(network, task, 20 if on_gpu else 6)
        rates = {}
        for one in peers:
            python, network_name = sys.executable, name
            if one == "keras":
                python, network_name = given.keras_python, IN_KERAS[name]
            rates[one] = peer_rate(python, one, photos, network_name, size, batch, given.epochs)
    # The step is measured on both sides of the loop, as other work on the machine comes and goes.
    step, loop = statistics.mean([before, after]), statistics.median(later or [first])
    print(f"step {before:,.1f} and {after:,.1f} images/s, mean {step:,.1f}")
    print(f"loop, first epoch {first:,.1f} images/s, later ones {loop:,.1f}")
    common.report(
        "finetune_gpu",
        loop / step,
        f">= {TARGET}",
        device=devices.name(devices.device()),
        step=round(step, 1),
        first_epoch=round(first, 1),
        loop=round(loop, 1),
        **{one: round(rate, 1) for one, rate in rates.items()},
    )


if __name__ == "__main__":
    main()
