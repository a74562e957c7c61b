"""Memory of `tailorbird serve` after 1,000 requests and after 100,000.

    python benchmarks/serving/memory.py [--requests 100000] [--backbone pocket]

wrk sends the photos of the test split over and over; the resident memory is read when the counter
of answered photos passes each mark.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import folder, machine, parser, photos_in, report, train_model
from soak import resident

from run import Server, load, running


def answered(port: int) -> int:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return int(
        sum(
            float(value)
            for value in re.findall(r"^tailorbird_photos_total\{.*\} (\S+)$", text, re.M)
        )
    )


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(backbone="pocket")
    options.add_argument("--requests", type=int, default=100_000)
    given = options.parse_args()
    print(machine(), flush=True)
    with folder() as place:
        model = place / "model.onnx"
        train_model(given.photos, model, given.backbone)
        files = photos_in(
            given.photos / "test" if (given.photos / "test").is_dir() else given.photos
        )[:200]
        listing = place / "photos.txt"
        listing.write_text("\n".join(str(file.resolve()) for file in files) + "\n")
        server = Server(
            "tailorbird",
            [
                sys.executable,
                "-m",
                "tailorbird",
                "serve",
                str(model),
                "--port",
                "{port}",
                "--corrections",
                "off",
                "-q",
            ],
        )
        marks: dict[int, int] = {}
        with running(server, model, place / "log") as port:
            found = subprocess.run(
                ["pgrep", "-f", f"tailorbird serve {model}"],
                capture_output=True,
                text=True,
                check=True,
            )
            pid = int(found.stdout.split()[0])
            start = time.monotonic()
            step = 2.0
            while (done := answered(port)) < given.requests:
                if done >= 1000 and not any(mark >= 1000 for mark in marks):
                    marks[done] = resident(pid)
                    print(f"{done:7,} requests {marks[done] / 1e6:8.1f} MB", flush=True)
                if done >= 1000:
                    step = min(
                        20.0,
                        max(1.0, (given.requests - done) / (done / (time.monotonic() - start))),
                    )
                load(port, listing, connections=16, seconds=step)
                if done >= 1000:
                    marks[answered(port)] = resident(pid)
                    print(
                        f"{list(marks)[-1]:7,} requests {list(marks.values())[-1] / 1e6:8.1f} MB",
                        flush=True,
                    )
        sizes = list(marks.values())
        first, last = sizes[0], sizes[-1]
        report(
            "serving_memory",
            last / first,
            "0.95 to 1.05",
            requests=list(marks)[-1],
            first_mb=first / 1e6,
            last_mb=last / 1e6,
        )


if __name__ == "__main__":
    main()
