"""Run the command line as a program does: a process, its exit code and its streams."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def run(
    *arguments: object, stdin: bytes | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=120,
    )
    text = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
    if code is not None:
        assert text.returncode == code, f"{text.stdout}\n{text.stderr}"
    assert "Traceback" not in text.stderr
    return text


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]
