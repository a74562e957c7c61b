"""Scale: a Ray cluster beside one process, workers, lost workers, and features beyond memory.

    python benchmarks/ray_scale.py overhead --count 20000     # over the plain command
    python benchmarks/ray_scale.py workers --count 4000       # two workers over one
    python benchmarks/ray_scale.py nodes --count 2000         # two nodes of one core over one
    python benchmarks/ray_scale.py killed --count 4000        # kill -9 in mid-predict and mid-train
    python benchmarks/ray_scale.py head --rows 1000000 --width 1408
    python benchmarks/ray_scale.py photos --counts 50000,100000,200000
    python benchmarks/ray_scale.py start --rows 1000000       # opening a cache of so many rows

Photos are drawn, 96 x 96 pixels. Each part prints one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import folder, report
from PIL import Image

ROUNDS = 2


def draw(root: Path, count: int, side: int = 96, seed: int = 0) -> Path:
    """Draw distinct JPEG files in ten classes: smooth blobs, brighter in later classes."""
    random = np.random.default_rng(seed)
    for label in range(10):
        (root / f"class {label}").mkdir(parents=True)
    for number in range(count):
        low = 14 * (number % 10)
        pixels = Image.fromarray(random.integers(low, low + 120, (5, 5, 3), np.uint8))
        picture = pixels.resize((side, side), Image.Resampling.BICUBIC)
        picture.save(root / f"class {number % 10}" / f"{number:07}.jpg", quality=80)
    return root


def command(*words: object, cache: Path, out: Path | None = None) -> dict[str, float]:
    """Run tailorbird; return wall and processor seconds and the peak memory in MB."""
    start = time.perf_counter()
    environment = {**os.environ, "TAILORBIRD_CACHE": str(cache)}
    with (out or Path(os.devnull)).open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tailorbird", *map(str, words), "-q"],
            env=environment,
            stdout=stream,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tailorbird {words[0]} ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
    }


@contextmanager
def work(backbone: str = "lite") -> Iterator[tuple[Path, Path]]:
    """Yield a folder and a model in it, trained on 600 drawn photos."""
    with folder() as place:
        os.environ["TAILORBIRD_CACHE"] = str(place / "cache")
        draw(place / "few", 600)
        model = place / "model.onnx"
        train = ["train", place / "few", "-o", model, "--backbone", backbone, "--no-report"]
        command(*train, cache=place / "cache")
        yield place, model


def overhead(options: argparse.Namespace) -> None:
    """--ray on one machine over the plain command."""
    with work() as (place, model):
        photos = draw(place / "photos", options.count)
        plain, ray = [], []
        for turn in range(ROUNDS):
            plain.append(
                command("predict", model, photos, "--json", cache=place, out=place / "out.jsonl")
            )
            ray.append(
                command("predict", model, photos, "-o", place / f"r{turn}", "--ray", cache=place)
            )
        best = [min(one["seconds"] for one in side) for side in (plain, ray)]
        report(
            "ray_overhead",
            best[1] / best[0],
            "<= 1.10 with 20,000 photos",
            photos=options.count,
            plain_seconds=[round(one["seconds"], 1) for one in plain],
            ray_seconds=[round(one["seconds"], 1) for one in ray],
            plain_cpu_seconds=[round(one["cpu_seconds"], 1) for one in plain],
        )


def workers(options: argparse.Namespace) -> None:
    """One worker of one thread against two, without the start of the cluster.

    Beside it, what the machine allows: two plain commands of one thread each, that answer half the
    photos, at the same time, against the first of them alone.
    """
    from tailorbird.cluster.connection import connected
    from tailorbird.cluster.partitions import Job
    from tailorbird.cluster.running import RaySettings, run
    from tailorbird.cluster.work import Predict

    rows = max(1, min(500, options.count // 20))
    with work() as (place, model):
        halves = [draw(place / f"half-{n}", options.count // 2, seed=n) for n in range(2)]
        task = Predict.of(model)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        with connected(cores=2):
            for turn in range(ROUNDS):
                for count, found in seconds.items():
                    job = Job(list(map(str, halves)), str(place / f"{turn}-{count}"), rows=rows)
                    found.append(run(job, task, RaySettings("local", count)).seconds)
        bare: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(ROUNDS):
            for count, found in bare.items():
                found.append(side_by_side(model, halves[:count], place / f"bare-{turn}-{count}"))
        best = {count: min(found) for count, found in seconds.items()}
        report(
            "ray_workers",
            best[1] / best[2],
            ">= 1.8",
            photos=options.count,
            seconds={count: [round(one, 1) for one in found] for count, found in seconds.items()},
            photos_per_second={n: round(options.count / one, 1) for n, one in best.items()},
            two_processes_without_ray=round(2 * min(bare[1]) / min(bare[2]), 3),
        )


def side_by_side(model: Path, halves: list[Path], output: Path) -> float:
    """Answer folders in as many plain commands of one thread at once; return the seconds."""
    environment = {**os.environ, "TAILORBIRD_THREADS": "1"}
    start = time.perf_counter()
    tailorbird = [sys.executable, "-m", "tailorbird", "predict", str(model)]
    commands = [
        subprocess.Popen([*tailorbird, half, "-q", "-o", f"{output}-{n}"], env=environment)
        for n, half in enumerate(halves)
    ]
    if any(one.wait() for one in commands):
        raise SystemExit("tailorbird predict failed")
    return time.perf_counter() - start


def nodes(options: argparse.Namespace) -> None:
    """One node of one core against two, on this machine."""
    import secrets

    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
    from tailorbird.cluster.connection import connected, load
    from tailorbird.cluster.partitions import Job
    from tailorbird.cluster.running import RaySettings, run
    from tailorbird.cluster.work import Predict

    load()
    from ray.cluster_utils import Cluster

    with work() as (place, model):
        photos, task = draw(place / "photos", options.count), Predict.of(model)
        small = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=small)
        seconds = {}
        try:
            with connected(cluster.address):
                for count in (1, 2):
                    if count > 1:
                        cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
                        cluster.wait_for_nodes()
                    job = Job([str(photos)], str(place / f"nodes-{count}"), rows=100)
                    seconds[count] = run(job, task, RaySettings(cluster.address)).seconds
        finally:
            cluster.shutdown()
        report(
            "ray_nodes",
            seconds[1] / seconds[2],
            "none",
            photos=options.count,
            seconds={count: round(one, 1) for count, one in seconds.items()},
        )


class Killing:
    """A progress that kills the first worker that reports, once, if asked to."""

    def __init__(self, ray: Any, *, kill: bool) -> None:
        self.ray, self.kill = ray, kill
        self.killed: list[int] = []
        self.made: Any = None

    def elsewhere(self, backbone: Any) -> Any:
        from tailorbird.cluster.embedding import ClusterEmbedding

        self.made = ClusterEmbedding(self.ray, backbone, workers=2)
        return self.made

    def stage(self, name: str, total: int | None = None) -> None: ...

    def note(self, text: str) -> None: ...

    def metrics(self, **values: float) -> None: ...

    def advance(self, done: int, total: int) -> None:
        if self.kill and not self.killed and self.made and self.made.processes and done < total:
            self.killed.append(min(self.made.processes))
            os.kill(self.killed[0], signal.SIGKILL)


def killed(options: argparse.Namespace) -> None:
    """kill -9 of a worker in mid-predict and mid-train: the same output, and the extra time."""
    from pyarrow import concat_tables, parquet

    from tailorbird.cluster.connection import connected
    from tailorbird.cluster.partitions import Job
    from tailorbird.cluster.running import RaySettings, run
    from tailorbird.cluster.work import Predict
    from tailorbird.training import TrainSettings, train

    def answers(place: Path) -> Any:
        return concat_tables([parquet.read_table(one) for one in sorted(place.glob("part-*"))])

    with work() as (place, model), connected(cores=2) as ray:
        photos = draw(place / "photos", options.count)
        task, mark = Predict.of(model), place / "worker-was-killed"

        class Killed(Predict):
            """Its first worker is killed at its third partition."""

            def open(self, output: str) -> Any:
                worker, calls = super().open(output), [0]
                before = worker.table

                def table(some: Any) -> Any:
                    calls[0] += 1
                    found = before(some)
                    if calls[0] == 3 and not mark.exists():
                        mark.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    return found

                worker.table = table  # type: ignore[method-assign]
                return worker

        two = RaySettings("local", 2)
        whole = run(Job([str(photos)], str(place / "whole"), rows=200), task, two)
        broken = run(Job([str(photos)], str(place / "broken"), rows=200), Killed(task.model), two)
        assert mark.exists()
        same = answers(place / "whole").equals(answers(place / "broken"))
        times, weights = {}, {}
        for name in ("whole", "killed"):
            os.environ["TAILORBIRD_CACHE"] = str(place / name)
            watching = Killing(ray, kill=name == "killed")
            start = time.perf_counter()
            result = train(
                photos,
                place / f"{name}.onnx",
                TrainSettings(report=False),
                elsewhere=watching.elsewhere,
                progress=watching,
            )
            times[name] = time.perf_counter() - start
            assert result.fit is not None and bool(watching.killed) == watching.kill
            weights[name] = [layer.weight for layer in result.fit.head.layers]
        equal = all(
            np.array_equal(one, other)
            for one, other in zip(weights["whole"], weights["killed"], strict=True)
        )
        report(
            "ray_killed",
            broken.seconds / whole.seconds,
            "the same output",
            photos=options.count,
            predict_same=same,
            predict_seconds=[round(whole.seconds, 1), round(broken.seconds, 1)],
            train_same=equal,
            train_seconds=[round(times["whole"], 1), round(times["killed"], 1)],
        )


def head(options: argparse.Namespace) -> None:
    """A head trained on Parquet shards; peak memory of the process that trains."""
    with folder() as place:
        shards = place / "features"
        shards.mkdir()
        write_shards(shards, options.rows, options.width)
        done = subprocess.run(
            [sys.executable, __file__, "train-head", str(shards), "--fixed", options.fixed],
            env={**os.environ, "TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        report(
            "head_on_shards",
            found["peak_mb"] / 2000,
            "<= 1: below 2 GB",
            rows=options.rows,
            width=options.width,
            features_gb=round(4e-9 * options.rows * options.width, 2),
            **found,
        )


def write_shards(place: Path, rows: int, width: int, classes: int = 20) -> None:
    """Write synthetic features with labels as `tailorbird features` does; a tenth validates."""
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    centres = random.normal(0, 0.15, (classes, width)).astype(np.float32)
    size = 20_000
    for number, start in enumerate(range(0, rows, size)):
        count = min(size, rows - start)
        labels = random.integers(0, classes, count)
        features = random.standard_normal((count, width), np.float32) + centres[labels]
        split = np.where(random.random(count) < 0.1, "validation", "train")
        columns = {
            "path": [f"{start + i}.jpg" for i in range(count)],
            "label": [f"class {label}" for label in labels],
            "split": split.tolist(),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), width),
            "error": pa.nulls(count, pa.string()),
        }
        parquet.write_table(
            pa.table(columns), place / f"part-{number:05d}.parquet", compression="none"
        )


def train_head(options: argparse.Namespace) -> None:
    """Train on shards in this process; print time, memory and accuracy."""
    from tailorbird.cluster.shards import train_on_shards

    start = time.perf_counter()
    fixed = json.loads(options.fixed)
    if "inner" in fixed:
        fixed["inner"] = tuple(fixed["inner"])
    found = train_on_shards(options.shards, fixed=fixed)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
                "validation_accuracy": found.found.best.validation_accuracy,
                "epochs": len(found.found.best.history),
            }
        )
    )


def photos(options: argparse.Namespace) -> None:
    """Plain predict and train with so many generated photos and `pocket`: memory and time."""
    counts = [int(part) for part in options.counts.split(",")]
    results: dict[str, list[dict[str, float]]] = {"predict": [], "train": []}
    with work("pocket") as (place, model):
        for count in counts:
            drawn = draw(place / f"photos-{count}", count, side=40)
            results["predict"].append(
                command("predict", model, drawn, "--json", cache=place / "none")
            )
            trained = command(
                "train", drawn, "-o", place / "m.onnx", "--backbone", "pocket", "--no-report",
                "--near-duplicates", "keep", cache=place / f"cache-{count}",
            )  # fmt: skip
            results["train"].append(trained)
            for name, found in results.items():
                print(f"{name} {count:,}: {found[-1]}", file=sys.stderr, flush=True)
    first, last = results["predict"][0], results["predict"][-1]
    report(
        "many_photos",
        last["peak_mb"] / first["peak_mb"],
        "flat: about 1",
        counts=counts,
        **{
            f"{name}_{key}": [round(one[key], 1) for one in found]
            for name, found in results.items()
            for key in ("seconds", "cpu_seconds", "peak_mb")
        },
    )


def start(options: argparse.Namespace) -> None:
    """Open a cache of so many rows, and an empty one."""
    from tailorbird.files import RowStore

    with folder() as place:
        width, chunk = 1408, 256
        rows = np.zeros((chunk, width), np.float32)
        kept = RowStore(place / "full", dtype=np.float32, width=width)
        for number in range(0, options.rows, chunk):
            keys = [hashlib.sha256(str(number + i).encode()).digest() for i in range(chunk)]
            rows[:, 0] = number
            kept.put(keys, rows)
        times = {}
        for name in ("empty", "first", "second", "third"):
            begun = time.perf_counter()
            store = RowStore(
                place / ("empty" if name == "empty" else "full"), dtype=np.float32, width=width
            )
            assert (keys[-1] in store) == (name != "empty")
            times[name] = round(time.perf_counter() - begun, 3)
        report(
            "cache_start",
            times["third"],
            "seconds; does not grow with the rows",
            rows=options.rows,
            seconds=times,
        )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = options.add_subparsers(required=True)
    for part, count in ((overhead, 20_000), (workers, 4000), (nodes, 2000), (killed, 4000)):
        one = parts.add_parser(part.__name__)
        one.add_argument("--count", type=int, default=count)
        one.set_defaults(part=part)
    for part in (head, start):
        one = parts.add_parser(part.__name__)
        one.add_argument("--rows", type=int, default=1_000_000)
        one.add_argument("--width", type=int, default=1408)
        one.add_argument("--fixed", default="{}", help="fields of HeadSettings as JSON")
        one.set_defaults(part=part)
    one = parts.add_parser("train-head")
    one.add_argument("shards")
    one.add_argument("--fixed", default="{}")
    one.set_defaults(part=train_head)
    one = parts.add_parser("photos")
    one.add_argument("--counts", default="50000,100000,200000")
    one.set_defaults(part=photos)
    given = options.parse_args()
    given.part(given)


if __name__ == "__main__":
    main()
