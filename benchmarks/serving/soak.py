"""Ten minutes of load with 5% bad inputs while the model is replaced again and again: every answer
must be right.

    python benchmarks/serving/soak.py [--seconds 600] [--workers 1]

Two models of the same classes take turns (a new file is renamed into place, then SIGHUP); each
answer names its model's hash and must be that model's answer to that photo. Bad inputs must get
their own refusal. Any other status is counted and fails the soak.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import folder, machine, parser, photos_in, report, train_model
from PIL import Image

from run import PEERS, Server, running
from tailorbird.files import sha256_file
from tailorbird.model import Classifier

HERE = Path(__file__).resolve().parent


def bad_inputs(place: Path, good: bytes) -> list[dict[str, Any]]:
    """Files that must be refused, each with its status."""
    bomb = place / "bomb.png"
    Image.new("1", (12000, 12000)).save(bomb)
    made = {
        "empty": (b"", 422),
        "text": (b"this is no photo at all" * 20, 422),
        "truncated": (good[: len(good) // 2], 422),
        "noise": (os.urandom(20_000), 422),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
        "pdf": (b"%PDF-1.7\n" + bytes(2000), 415),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(2000), 415),
        "bomb": (bomb.read_bytes(), 413),
        "large": (bytes(21 * 2**20), 413),
    }
    plan = []
    for name, (data, status) in made.items():
        path = place / f"bad-{name}"
        path.write_bytes(data)
        plan.append({"path": str(path), "status": status})
    return plan


def resident(pid: int) -> int:
    """Bytes of memory of a process and its children."""
    total = 0
    children = {
        int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal() and _parent(p) == pid
    }
    for number in {pid, *children}:
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                total += int(line.split()[1]) * 1024
    return total


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return -1


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=int, default=600)
    options.add_argument("--users", type=int, default=8)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--every", type=float, default=20, help="seconds between two reloads")
    given = options.parse_args()
    locust = PEERS / "bin" / "locust"
    if not locust.exists():
        sys.exit(
            f"locust is not installed: python -m venv {PEERS}, then its pip install -r "
            f"{HERE / 'requirements.txt'}"
        )
    print(machine(), flush=True)
    with folder() as place:
        models = [place / "first.onnx", place / "second.onnx"]
        for seed, model in enumerate(models):
            train_model(given.photos, model, given.backbone, "--seed", seed)
        files = photos_in(
            given.photos / "test" if (given.photos / "test").is_dir() else given.photos
        )[:200]
        expected = {}
        for model in models:
            answers = Classifier(model).predict(files)
            expected[sha256_file(model)] = {
                str(file): (p.label, p.probability) for file, p in zip(files, answers, strict=True)
            }
        plan = {
            "photos": {str(file): str(file.resolve()) for file in files}, "expected": expected,
            "bad": bad_inputs(place, files[0].read_bytes()), "bad_share": 0.05,
        }  # fmt: skip
        (place / "plan.json").write_text(json.dumps(plan))
        served = place / "served.onnx"
        shutil.copy(models[0], served)
        server = Server(
            "tailorbird",
            [
                sys.executable,
                "-m",
                "tailorbird",
                "serve",
                str(served),
                "--port",
                "{port}",
                "--corrections",
                "off",
                "--workers",
                str(given.workers),
            ],
        )
        log = place / "server.log"
        pid_of: list[int] = []
        reloads, memory, stop = 0, [], threading.Event()

        def turns() -> None:
            nonlocal reloads
            while not stop.wait(given.every):
                reloads += 1
                shutil.copy(models[reloads % 2], place / "next.onnx")
                (place / "next.onnx").replace(served)
                os.kill(pid_of[0], signal.SIGHUP)
                memory.append(resident(pid_of[0]))

        with running(server, served, log) as port:
            pid_of.append(
                int(
                    subprocess.run(
                        ["pgrep", "-f", f"tailorbird serve {served}"],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.split()[0]
                )
            )
            thread = threading.Thread(target=turns)
            thread.start()
            start = time.monotonic()
            subprocess.run(
                [
                    str(locust),
                    "-f",
                    str(HERE / "soak_user.py"),
                    "--headless",
                    "-u",
                    str(given.users),
                    "-r",
                    str(given.users),
                    "-t",
                    f"{given.seconds}s",
                    "--host",
                    f"http://127.0.0.1:{port}",
                    "--only-summary",
                    "--loglevel",
                    "WARNING",
                ],
                env={
                    **os.environ,
                    "SOAK_PLAN": str(place / "plan.json"),
                    "SOAK_RESULT": str(place / "result.json"),
                },
                stdout=subprocess.DEVNULL,
                check=False,
            )
            seconds = time.monotonic() - start
            stop.set()
            thread.join()
            memory.append(resident(pid_of[0]))
        said = json.loads((place / "result.json").read_text())
        changed = log.read_text().count('"changed": true')
        print(json.dumps(said["counts"], indent=1))
        print(
            f"{reloads} reloads asked for, {changed} took over; {said['requests']} requests in "
            f"{seconds:.0f} s; "
            f"memory {memory[0] / 1e6:.0f} -> {memory[-1] / 1e6:.0f} MB"
        )
        good = said["counts"].get("right", 0) + said["counts"].get("refused as it should be", 0)
        if said["wrong"]:
            print("NOT right:", json.dumps(said["wrong"], indent=1)[:4000])
        report(
            "soak",
            good / max(1, said["requests"]),
            "1.0: every request answered as it should be",
            **said["counts"],
            requests=said["requests"],
            failures=said["failures"],
            reloads=reloads,
            took_over=changed,
            seconds=seconds,
            p50_ms=said["p50_ms"],
            p99_ms=said["p99_ms"],
            memory_first=memory[0],
            memory_last=memory[-1],
        )
        sys.exit(0 if good == said["requests"] and not said["failures"] else 1)


if __name__ == "__main__":
    main()
