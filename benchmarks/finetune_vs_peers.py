"""Compare `tailorbird train --finetune` with timm, fastai, LightlyTrain and Keras: same photos and
weights, each with its own recommended settings.

    python benchmarks/finetune_vs_peers.py [--minutes 10] [--only tailorbird,timm,...] [--python
        fastai=/path/to/python]

Each side runs alone, one after the other, for --minutes: MobileNetV2 with the weights of Keras
(shared/weights), at most 224 px. Measured are the seconds and processor seconds (of all its
processes) from the start of the process until the validation accuracy of the best epoch so far
reached each level, and the test accuracy of that epoch's weights. tailorbird's include pulling the
backbone, scanning, embedding, the head search, and writing and verifying the model file. A side
that fails or takes more than twice its time is reported, and the others go on. Each line is printed
when it is known; the table is printed again after each side.

Then: images/s of one training step of the whole network at 224 px, batches of 32, tailorbird
beside timm's default (channels first, float32), in turns, in this environment.

The peers train batch normalisation on the statistics of each batch. In the files of shared/weights
it is folded into the convolutions (mean 0, variance 0.999), and in training mode all features would
become zero; so timm, fastai and LightlyTrain get the same network with the means and variances of
256 training photos, which gives the same answers.

The scripts of the peers are in peers/; fastai, LightlyTrain and Keras are installed into
environments of their own, benchmarks/.venv-NAME, if --python does not name one. timm runs in this
environment (extra `torch`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from common import CLOTHING, HERE, KERAS_WEIGHTS, SHARED, machine, report
from finetuning import BEGUN, SAID

TIMM_WEIGHTS = SHARED / "weights" / "mobilenetv2_imagenet.timm.safetensors"
MODEL_ARGS = "pad_type=same,bn_eps=0.001,mean=0.5,std=0.5"
SIDES = ("tailorbird", "timm", "fastai", "lightly", "keras")
INSTALLED = ("fastai", "lightly", "keras")
LEVELS = (0.80, 0.84, 0.86, 0.88, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95)
RESERVE = 60.0
"""Seconds of tailorbird's time that are left for what comes before and after the fine-tuning."""

LIGHTLY = re.compile(r"val_metric/top1_acc_micro\s*\|\s*[\d.]+\s*\|\s*([\d.]+)")
TARGET_STEP = 1.5


def weights_for_peers(photos: Path, place: Path) -> Path:
    """Write MobileNetV2 for timm with means and variances of photos in batch normalisation.

    y = x + b becomes y = s (x - m) / sqrt(v + e) + m + b with s = sqrt(v + e).
    """
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    network = timm.create_model("mobilenetv2_100", pad_type="same", bn_eps=1e-3).eval()
    network.load_state_dict(load_file(TIMM_WEIGHTS))
    files = sorted((photos / "train").rglob("*.jpg"))
    squashed = [
        np.asarray(Image.open(file).convert("RGB").resize((224, 224)), np.float32) / 127.5 - 1
        for file in files[:: max(1, len(files) // 256)][:256]
    ]
    images = torch.from_numpy(np.stack(squashed)).permute(0, 3, 1, 2)
    norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    sums = {one: torch.zeros(2, one.num_features, dtype=torch.float64) for one in norms}

    def count(norm: Any, inputs: Any, _: object) -> None:
        values = inputs[0].double()
        sums[norm] += torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])

    hooks = [one.register_forward_hook(count) for one in norms]
    with torch.no_grad():
        parts = images.split(32)
        before = network(parts[0])
        for part in parts[1:]:
            network(part)
        for norm in norms:
            mean, square = sums[norm] / len(parts)
            variance = (square - mean.square()).clamp(min=0)
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias += factor * (mean - norm.running_mean)
            norm.weight.copy_(factor * (variance + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
        for hook in hooks:
            hook.remove()
        difference = (network(parts[0]) - before).abs().max() / before.abs().max()
    if not difference < 1e-3:
        raise SystemExit(f"the answers changed by {difference}")
    weights = place / "weights.safetensors"
    save_file(network.state_dict(), weights)
    return weights


@dataclass
class Side:
    """What is known of a side so far; points: seconds, processor seconds, validation accuracy."""

    name: str
    seconds: float = 0.0
    cpu: float = 0.0
    test: float | None = None
    step: float | None = None
    problem: str = ""
    points: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def best(self) -> float:
        return max((point[2] for point in self.points), default=0.0)

    def reached(self, level: float) -> tuple[float, float] | None:
        """Return the seconds and processor seconds until the best epoch had this accuracy."""
        return next((point[:2] for point in self.points if point[2] >= level), None)


def cpu_seconds(session: int) -> float:
    """Return the processor seconds of all processes of a session, ended children included."""
    ticks = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(
    command: list[str], cwd: Path, environment: dict[str, str], limit: float
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a session of its own, which ends with the block or after `limit` seconds."""
    process = subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        end()
        process.wait()


def follow(
    side: Side,
    command: list[str],
    place: Path,
    read: Callable[[str], float | None],
    *,
    limit: float,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command of a side, add its points and times, and return its last lines.

    read: the validation accuracy that a line states, if it does.
    """
    begun, before, last = time.perf_counter(), side.cpu, []
    with running(command, place, environment or {}, limit) as process:
        stream: IO[str] = process.stdout  # type: ignore[assignment]
        for line in stream:
            last = [*last[-20:], line.rstrip()]
            accuracy = read(line)
            with contextlib.suppress(OSError):
                side.cpu = max(side.cpu, before + cpu_seconds(process.pid))
            if accuracy is not None:
                seconds = side.seconds + time.perf_counter() - begun
                side.points.append((seconds, side.cpu, accuracy))
                print(
                    f"  {side.name}: {seconds:7.1f} s, {side.cpu:7.1f} s of processor time, "
                    f"validation {accuracy:.4f}",
                    flush=True,
                )
        code = process.wait()
    side.seconds += time.perf_counter() - begun
    if code not in (0, 3):
        side.problem = f"exit code {code}: {' / '.join(last[-3:])[-300:]}"
    return "\n".join(last)


def tailorbird(side: Side, photos: Path, minutes: float, place: Path) -> None:
    """`backbones pull`, then `train --finetune` with its defaults, from an empty cache."""
    own = {"TAILORBIRD_CACHE": str(place / "cache")}
    run, limit = [sys.executable, "-m", "tailorbird"], 120 * minutes + 300
    pull = [
        *run, "backbones", "pull", "timm:mobilenetv2_100", "--weights", str(TIMM_WEIGHTS),
        "--model-args", MODEL_ARGS,
    ]  # fmt: skip
    follow(side, pull, place, lambda line: None, limit=limit, environment=own)
    if side.problem:
        return
    budget = max(30, 60 * minutes - side.seconds - RESERVE)
    train = [
        *run, "train", str(photos), "-o", "m.onnx", "--backbone", "mobilenetv2_100", "--finetune",
        "--budget", f"{budget:.0f}s", "--json",
    ]  # fmt: skip

    frozen: list[tuple[float, float]] = []  # when the frozen network with its head was there
    begun, before = time.perf_counter(), side.seconds

    def read(line: str) -> float | None:
        if BEGUN.search(line) and not frozen:
            frozen.append((before + time.perf_counter() - begun, side.cpu))
        said = SAID.search(line)
        return float(said[1]) / 100 if said and said[2] else None

    out = follow(side, train, place, read, limit=limit, environment=own)
    answers = [json.loads(line) for line in out.splitlines() if line.startswith('{"')]
    if answers:
        side.test = answers[-1]["scores"]["test"]["accuracy"]
        start = answers[-1]["finetune"]["start"]["accuracy"]
        side.points[:0] = [(*moment, start) for moment in frozen]
        side.points.append(
            (side.seconds, side.cpu, answers[-1]["scores"]["validation"]["accuracy"])
        )
    elif not side.problem:
        side.problem = "no JSON object was printed"


def peer(side: Side, python: str, photos: Path, minutes: float, place: Path) -> None:
    """Run the script of a peer."""
    weights = KERAS_WEIGHTS if side.name == "keras" else weights_for_peers(photos, place)
    script = HERE / "peers" / f"with_{side.name}.py"

    def read(line: str) -> float | None:
        if side.name == "lightly" and (found := LIGHTLY.search(line)):
            return float(found[1])
        if not line.startswith("{"):
            return None
        with contextlib.suppress(ValueError):
            said: dict[str, Any] = json.loads(line)
            side.test = said.get("test", side.test)
            side.step = said.get("step_images_per_second", side.step)
            return said.get("validation")
        return None

    command = [python, str(script), str(photos), str(weights), f"{60 * minutes:.0f}"]
    own = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "HF_HUB_OFFLINE": "1"}
    follow(side, command, place, read, limit=120 * minutes + 300, environment=own)
    if side.test is None and not side.problem:
        side.problem = "no test accuracy was printed"


def python_of(name: str, given: dict[str, str]) -> str:
    """Return the interpreter of a peer, creating its environment if needed."""
    if name in given:
        return given[name]
    if name not in INSTALLED:
        return sys.executable
    place = HERE / f".venv-{name}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        requirements = HERE / f"requirements-{name}.txt"
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(install, check=True)
        (place / "complete").touch()
    return str(python)


def table(sides: list[Side]) -> None:
    """Print all sides: seconds (processor seconds) to each level, and the test accuracy."""
    print("\nvalidation accuracy: seconds, processor seconds in brackets")
    print(f"{'':8}" + "".join(f"{side.name:>20}" for side in sides))
    for level in LEVELS:
        cells = []
        for side in sides:
            found = side.reached(level)
            cells.append(f"{found[0]:.0f} ({found[1]:.0f})" if found else "-")
        if set(cells) != {"-"}:
            print(f"{level:<8.2f}" + "".join(f"{cell:>20}" for cell in cells))
    for name, cell in (
        ("best", lambda side: f"{side.best:.4f}"),
        ("test", lambda side: f"{side.test:.4f}" if side.test is not None else "-"),
        ("whole", lambda side: f"{side.seconds:.0f} ({side.cpu:.0f})"),
        ("images/s", lambda side: f"{side.step:.1f}" if side.step is not None else "-"),
    ):
        print(f"{name:8}" + "".join(f"{cell(side):>20}" for side in sides))
    for side in sides:
        if side.problem:
            print(f"{side.name} failed: {side.problem}")
    print(flush=True)


def steps(rounds: int, batch: int = 32, size: int = 224) -> None:
    """Compare one training step of the whole network with timm's default, in turns."""
    import numpy as np
    import torch

    from tailorbird.engines.protocol import Regularisation, Training
    from tailorbird.engines.torch import exporting, networks
    from tailorbird.engines.torch.network import TorchNetwork
    from tailorbird.head import Dense, Head

    architecture = networks.find("mobilenetv2_100", {"pad_type": "same", "bn_eps": 0.001})
    network = TorchNetwork(
        exporting.export(networks.build(architecture), architecture, size, {"name": "n"})
    )
    head = Head((Dense(np.zeros((1280, 10), np.float32), np.zeros(10, np.float32)),))
    network.attach(head, Regularisation(), None)
    network.begin(Training(size, 0))
    images = np.zeros((batch, size, size, 3), np.uint8)
    labels = np.zeros(batch, np.int64)
    theirs = networks.build(architecture, classes=10).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-9, momentum=0.9, nesterov=True)
    pixels, wanted = torch.zeros(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)

    def ours() -> None:
        float(network.step(images, labels, 1e-9).loss)

    def default() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(pixels), wanted, label_smoothing=0.1).backward()
        optimizer.step()

    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "timm": []}
    for number in range(rounds + 1):
        for name, run in (("ours", ours), ("timm", default)):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if number:  # the first of each is not counted
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (
        {name: statistics.median(pair[kind] for pair in pairs) for name, pairs in taken.items()}
        for kind in (0, 1)
    )
    report(
        "a training step, tailorbird over timm's default",
        wall["timm"] / wall["ours"],
        f">= {TARGET_STEP}",
        images_per_second=batch / wall["ours"],
        timm_images_per_second=batch / wall["timm"],
        ratio_of_processor_time=cpu["timm"] / cpu["ours"],
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--photos", type=Path, default=CLOTHING)
    options.add_argument("--minutes", type=float, default=10.0, help="of each side")
    options.add_argument("--only", default=",".join(SIDES), help="sides, in their order")
    options.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    options.add_argument("--rounds", type=int, default=8, help="steps of each; 0: none")
    chosen = options.parse_args()
    names = [name for name in chosen.only.split(",") if name]
    if unknown := sorted(set(names) - set(SIDES)):
        options.error(f"unknown sides {unknown}; valid: {', '.join(SIDES)}")
    pythons = dict(one.split("=", 1) for one in chosen.python)
    print(f"{chosen.photos.name}, {chosen.minutes:g} minutes for each; {machine()}", flush=True)
    sides: list[Side] = []
    for name in names:
        side = Side(name)
        sides.append(side)
        place = Path(tempfile.mkdtemp(prefix=f"tailorbird-{name}-"))
        try:
            if name == "tailorbird":
                tailorbird(side, chosen.photos.resolve(), chosen.minutes, place)
            else:
                python = python_of(name, pythons)
                peer(side, python, chosen.photos.resolve(), chosen.minutes, place)
        except Exception as problem:  # the other sides go on
            side.problem = f"{type(problem).__name__}: {problem}"
        finally:
            shutil.rmtree(place, ignore_errors=True)
        table(sides)
    if chosen.rounds:
        steps(chosen.rounds)


if __name__ == "__main__":
    main()
