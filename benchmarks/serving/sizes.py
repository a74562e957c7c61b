"""Memory and rate of `tailorbird serve` with the backbones in the package, to size a machine.

    python benchmarks/serving/sizes.py [--photos FOLDER] [--seconds 15]

Four clients send photos of the test split over and over. Memory is the proportional set size of the
process and its decoders: memory that they share is counted once. Needs /proc, so Linux.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import folder, machine, parser, photos_in, train_model

BACKBONES = ("pocket", "lite")
CLIENTS = 4


def memory(pid: int) -> float:
    """Return the MB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for each in (str(pid), *children):
        found = re.search(r"Pss: +(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text())
        total += int(found[1]) if found else 0
    return total * 1024 / 1e6


def load(url: str, photos: list[bytes], seconds: float, pid: int) -> tuple[float, float]:
    """Return photos a second, and the largest memory seen."""
    end, answered, most = time.monotonic() + seconds, [0] * CLIENTS, 0.0

    def client(number: int) -> None:
        for photo in itertools.cycle(photos[number:] + photos[:number]):
            if time.monotonic() > end:
                return
            kind = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"{url}/v1/predict", photo, kind)
            urllib.request.urlopen(request, timeout=60).read()
            answered[number] += 1

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for each in clients:
        each.start()
    while any(each.is_alive() for each in clients):
        most = max(most, memory(pid))
        time.sleep(0.2)
    return sum(answered) / seconds, most


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=float, default=15)
    given = options.parse_args()
    print(machine(), flush=True)
    held = given.photos / "test" if (given.photos / "test").is_dir() else given.photos
    photos = [file.read_bytes() for file in photos_in(held)[:60]]
    print(f"{len(photos)} photos of {sum(map(len, photos)) / len(photos) / 1000:.0f} KB")
    with folder() as place:
        for backbone in BACKBONES:
            model = place / f"{backbone}.onnx"
            train_model(given.photos, model, backbone)
            command = [sys.executable, "-m", "tailorbird", "serve", str(model), "--port", "0", "-q"]
            server = subprocess.Popen(
                [*command, "--corrections", "off"], stdout=subprocess.PIPE, text=True
            )
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            time.sleep(2)
            idle = memory(server.pid)
            rate, most = load(url, photos, given.seconds, server.pid)
            server.terminate()
            server.wait()
            print(f"{backbone}: {idle:.0f} MB idle, {most:.0f} MB, {rate:.0f} photos/s", flush=True)


if __name__ == "__main__":
    main()
