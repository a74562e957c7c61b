"""Measure what a killed worker costs in the middle of fine-tuning on a Ray cluster.

    python benchmarks/ray_training.py [--network resnet18] [--size 96] [--count 160] [--epochs 6]

Three runs of the same task, in the same batches, after a first short one that is not counted:

    here      one process
    cluster   `train --finetune --ray --workers N` on a cluster of this machine
    killed    the same, with kill -9 of its last worker after half of the epochs

Printed are the seconds of each, with the start of the workers; the seconds that the kill costs; and
the largest differences of losses over the epochs and of logits of the validation photos. Photos
are drawn unless --photos names some. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
from finetune_gpu import draw, opened, task_on

from tailorbird.cluster import finetuning
from tailorbird.cluster.connection import connected
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask, Host
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.progress import NoProgress

SAME = 1e-3
"""Largest difference of losses, relative, and of logits that counts as rounding."""


class Killer(NoProgress):
    """Kills the youngest of the workers after an epoch; keeps the seconds of notes."""

    def __init__(self, epoch: int) -> None:
        self._sign = f"epoch {epoch}/"
        self.killed = False

    def note(self, text: str) -> None:
        """Kill once."""
        if self._sign in text and not self.killed:
            self.killed = True
            os.kill(max(workers()), signal.SIGKILL)


def workers() -> list[int]:
    """Return the process ids of Ray Train's workers that this process has started."""
    parents: dict[int, int] = {}
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            parents[int(place.name)] = int(
                (place / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
        if b"TrainWorker" in name:
            found.append(int(place.name))

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return [process for process in found if ours(process)]


def run(
    task: FinetuneTask, folder: Path, host: Host, killer: Killer | None = None
) -> tuple[float, FinetuneResult]:
    """Return the seconds and the result of a run."""
    start = time.perf_counter()
    network = TorchNetwork(task.network._proto)  # type: ignore[attr-defined]
    done = finetune(replace(task, network=network, folder=folder, host=host), progress=killer)
    return time.perf_counter() - start, done


def difference(one: FinetuneResult, two: FinetuneResult) -> tuple[float, float]:
    """Return the largest difference of losses, relative, and that of logits."""
    losses = max(
        abs(a.validation_log_loss - b.validation_log_loss) / a.validation_log_loss
        for a, b in zip(one.history, two.history, strict=True)
    )
    return losses, float(np.abs(one.best.logits - two.best.logits).max())


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--photos", type=Path, help="class folders; by default drawn")
    options.add_argument("--count", type=int, default=160, help="number of photos to draw")
    options.add_argument("--network", default="resnet18", help="name in timm")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        photos = given.photos or draw(place / "photos", given.count)
        network = opened(given.network, given.size)
        settings = FinetuneSettings(
            sizes=(given.size,),
            unfreeze="all",
            epochs=given.epochs,
            batch_size=given.batch,
            devices=given.workers,
        ).for_network(network)
        task = task_on(photos, network, settings, size=given.size, folder=place / "task")
        print(common.machine())
        seconds, here = run(task, place / "here", Host(launch=lambda task, progress: None))
        print(f"here      {seconds:7.1f} s", flush=True)
        with connected() as ray:
            host = finetuning.host(ray, given.workers)
            short = replace(task, settings=replace(settings, epochs=1))
            run(short, place / "first", host)
            seconds, cluster = run(task, place / "cluster", host)
            print(f"cluster   {seconds:7.1f} s", flush=True)
            killer = Killer(max(1, given.epochs // 2))
            longer, killed = run(task, place / "killed", host, killer)
            print(f"killed    {longer:7.1f} s", flush=True)
        if not killer.killed:
            sys.exit("the run ended before a worker was killed: give more --epochs")
        print(f"the kill costs {longer - seconds:.1f} s, of {given.epochs} epochs")
        for name, one in (("cluster and here", here), ("killed and cluster", cluster)):
            other = cluster if one is here else killed
            losses, logits = difference(one, other)
            verdict = "the same" if max(losses, logits) < SAME else "NOT THE SAME"
            print(f"{name}: losses differ by {losses:.2g}, logits by {logits:.2g}: {verdict}")


if __name__ == "__main__":
    main()
