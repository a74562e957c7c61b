"""A process that writes corrections until it ends or is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

WRITER = """
import hashlib, sys
from pathlib import Path
from tailorbird.corrections import open_store
url, folder, name, most = sys.argv[1:]
store = open_store(url, photos=Path(folder))
for number in range(int(most)):
    data = b"\\xff\\xd8\\xff" + f"{name} {number}".encode()
    digest = hashlib.sha256(data).hexdigest()
    row = store.add(sha256=digest, predicted="box", probability=0.5, top=[("box", 0.5)],
                    answer="disc", model="m", model_sha256="0" * 64,
                    receipt=f"{name} {number}", photo=data)
    print(row, digest, flush=True)
"""


def writer(url: str, folder: Path, name: str, most: int = 1_000_000) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(folder), name, str(most)], stdout=subprocess.PIPE
    )


def acknowledged(
    process: subprocess.Popen[bytes], killed_after: int | None = None
) -> dict[int, str]:
    """Return the ids and photo digests that a writer printed; kill it after `killed_after`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.decode())
        if len(lines) == killed_after:
            process.send_signal(signal.SIGKILL)
    process.wait(60)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {int(number): digest for number, digest in whole}
