"""Throughput and latency of `tailorbird serve` against the floor, a bare handler, LitServe and
BentoML.

    python benchmarks/serving/run.py [--photos FOLDER] [--rounds 3] [--seconds 10] [--only NAME ...]

All get the same model file and the same requests (multipart, one photo each) from wrk, on this
machine's loopback, one server at a time, in rounds; a figure is the median of its rounds. The floor
decodes the same photos and runs the same session in threads of one process, without HTTP, and is
measured in each round too. Latency is measured at half of the slowest server's saturation, the same
load for all. The peers' settings are the best of those in SERVERS, each chosen by its own
documentation for CPU models.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cores, folder, machine, parser, photos_in, report, train_model

from tailorbird import images
from tailorbird.model import Classifier

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-serving"


@dataclass(frozen=True)
class Server:
    """One way to serve: a command with {port} and {model}, and its environment."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    peer: str | None = None


def servers(python: str, peers: str) -> list[Server]:
    lit = [peers, str(HERE / "with_litserve.py"), "{port}"]
    bento = [
        str(Path(peers).parent / "bentoml"),
        "serve",
        "with_bentoml:Photos",
        "--port",
        "{port}",
        "--host",
        "127.0.0.1",
        "--working-dir",
        str(HERE),
    ]
    one = {"SESSION_THREADS": "1", "WORKERS": str(cores())}
    return [
        Server(
            "tailorbird",
            [
                python,
                "-m",
                "tailorbird",
                "serve",
                "{model}",
                "--port",
                "{port}",
                "--corrections",
                "off",
                "-q",
            ],
        ),
        Server("bare", [python, str(HERE / "bare.py"), "{port}"]),
        Server("litserve", lit, one, "litserve"),
        Server(
            "litserve-batched", lit, {**one, "BATCH": "8", "BATCH_TIMEOUT": "0.005"}, "litserve"
        ),
        Server(
            "litserve-one-worker",
            lit,
            {"SESSION_THREADS": str(cores()), "WORKERS": "1", "BATCH": "8"},
            "litserve",
        ),
        Server("bentoml", bento, one, "bentoml"),
        Server("bentoml-batched", bento, {**one, "BATCH": "8"}, "bentoml"),
        Server(
            "bentoml-one-worker",
            bento,
            {"SESSION_THREADS": str(cores()), "WORKERS": "1"},
            "bentoml",
        ),
    ]


@contextmanager
def running(server: Server, model: Path, log: Path) -> Iterator[int]:
    """The server's port, once it answers; the whole process group is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(port=port, model=model) for part in server.command]
    environment = {
        **os.environ,
        **server.environment,
        "MODEL": str(model),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=model.parent,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        wait_for(port, process, log)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.5)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"the server did not answer within a minute:\n{log.read_text()[-2000:]}")


def load(
    port: int, listing: Path, *, connections: int, seconds: float, pause_ms: float = 0.0
) -> dict[str, Any]:
    """One run of wrk. Exits when any request fails: a server that refuses is not compared."""
    done = subprocess.run(
        [
            "wrk",
            "-t",
            "1",
            "-c",
            str(connections),
            "-d",
            f"{max(1, round(seconds))}s",
            "--timeout",
            "30s",
            "-s",
            str(HERE / "post.lua"),
            f"http://127.0.0.1:{port}",
        ],
        env={**os.environ, "PHOTOS": str(listing), "PAUSE_MS": f"{pause_ms:.3f}"},
        capture_output=True,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])
    if said["failed"] or said["status"]:
        sys.exit(f"requests failed: {said}\n{done.stdout}")
    return {**said, "rate": said["requests"] / said["seconds"]}


def floor(model: Path, photos: list[bytes], seconds: float) -> float:
    """Photos a second, decoded and classified in as many threads as cores."""
    classifier = Classifier(model)
    until = time.perf_counter() + seconds

    def work(offset: int) -> int:
        count = 0
        while time.perf_counter() < until:
            data = photos[(offset + count) % len(photos)]
            classifier.probabilities(images.load(data, classifier.info.resize)[None])
            count += 1
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        total = sum(pool.map(work, range(0, len(photos), max(1, len(photos) // cores()))))
    return total / (time.perf_counter() - start)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--connections", type=int, default=16)
    options.add_argument(
        "--model", type=Path, help="a model file; trained on --photos when not given"
    )
    options.add_argument("--only", nargs="*", help="names of servers, as in SERVERS")
    given = options.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    peers = PEERS / "bin" / "python"
    chosen = [
        s
        for s in servers(sys.executable, str(peers))
        if (peers.exists() or not s.peer) and (not given.only or s.name in given.only)
    ]
    print(machine(), flush=True)
    with folder() as place:
        model = given.model.resolve() if given.model else place / "model.onnx"
        if not given.model:
            train_model(given.photos, model, given.backbone)
        test = given.photos / "test"
        files = photos_in(test if test.is_dir() else given.photos)[:200]
        listing = place / "photos.txt"
        listing.write_text("\n".join(str(file.resolve()) for file in files) + "\n")
        photos = [file.read_bytes() for file in files]
        saturated: dict[str, list[dict[str, Any]]] = {server.name: [] for server in chosen}
        floors = []
        for _ in range(given.rounds):
            floors.append(floor(model, photos, given.seconds))
            print(f"{'floor':22} {floors[-1]:.1f}", flush=True)
            for server in chosen:
                with running(server, model, place / f"{server.name}.log") as port:
                    load(port, listing, connections=given.connections, seconds=2)
                    saturated[server.name].append(
                        load(port, listing, connections=given.connections, seconds=given.seconds)
                    )
                    print(f"{server.name:22} {saturated[server.name][-1]}", flush=True)
        rates = {
            name: statistics.median(run["rate"] for run in runs) for name, runs in saturated.items()
        }
        bottom = statistics.median(floors)
        half = min(rates.values()) / 2
        quiet: dict[str, list[dict[str, Any]]] = {server.name: [] for server in chosen}
        for _ in range(given.rounds):
            for server in chosen:
                with running(server, model, place / f"{server.name}.log") as port:
                    load(port, listing, connections=given.connections, seconds=2)
                    # Sixteen independent clients that pause between photos; the pause makes up for
                    # the time an answer takes.
                    pause = 1000 * given.connections / half - quiet_guess(
                        quiet[server.name], saturated[server.name], given.connections
                    )
                    quiet[server.name].append(
                        load(
                            port,
                            listing,
                            connections=given.connections,
                            seconds=given.seconds,
                            pause_ms=pause,
                        )
                    )
                    print(f"{server.name:22} {quiet[server.name][-1]}", flush=True)

        def middle(runs: list[dict[str, Any]], key: str) -> float:
            return statistics.median(run[key] for run in runs)

        print(f"\nfloor {bottom:.1f} photos/s; half load {half:.1f} requests/s")
        print(
            f"{'server':22} {'req/s':>7} {'of floor':>8} {'p99 sat':>8} | {'rate':>6} {'p50':>7} "
            f"{'p99':>7}   (milliseconds)"
        )
        for name in rates:
            s, q = saturated[name], quiet[name]
            print(
                f"{name:22} {rates[name]:7.1f} {rates[name] / bottom:8.3f} "
                f"{middle(s, 'p99_ms'):8.1f} | "
                f"{middle(q, 'rate'):6.1f} {middle(q, 'p50_ms'):7.1f} {middle(q, 'p99_ms'):7.1f}"
            )
        figures: dict[str, Any] = {
            "floor": bottom,
            "floors": [round(f, 1) for f in floors],
            "half_load": half,
        }
        for name in rates:
            figures[name] = {
                "rate": rates[name],
                "p50_ms": middle(quiet[name], "p50_ms"),
                "p99_ms": middle(quiet[name], "p99_ms"),
                "p99_saturated_ms": middle(saturated[name], "p99_ms"),
            }
        report(
            "serving",
            rates.get("tailorbird", 0.0) / bottom,
            ">= 0.85 of the floor; >= 1.1 times each peer",
            **figures,
        )


def quiet_guess(
    before: list[dict[str, Any]], saturated: list[dict[str, Any]], connections: int
) -> float:
    """Milliseconds an answer takes at half load: as seen before, else a third of what it takes at
    saturation.
    """
    if before:
        return float(before[-1]["p50_ms"])
    return statistics.median(run["p50_ms"] for run in saturated) / connections * 2


if __name__ == "__main__":
    main()
