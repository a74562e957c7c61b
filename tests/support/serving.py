"""Starts `tailorbird serve` as a process of its own, for tests that talk to it as its users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Server:
    """A running server: `address` without a slash at the end, and the folder of its database."""

    address: str
    folder: Path
    token: str | None = None

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with urllib.request.urlopen(
            urllib.request.Request(self.address + path, headers=headers), timeout=20
        ) as answer:
            return json.load(answer)


@contextmanager
def serving(model: Path, folder: Path, *options: str, token: str | None = None) -> Iterator[Server]:
    """Serve `model` on a free port, with a database of corrections in `folder`."""
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "serve",
        str(model),
        "--port",
        "0",
        "--corrections",
        str(folder / "shop.db"),
    ]
    environment = {
        **os.environ,
        "TAILORBIRD_CACHE": str(folder / "cache"),
        **({"TAILORBIRD_TOKEN": token} if token else {}),
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), (folder / "log.txt").read_text()
            yield Server(address, folder, token)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
