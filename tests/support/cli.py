"""Run the command line as a program does: a process, its exit code and its streams."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

POCKET = ("--backbone", "pocket")
"""Options of tests that need some backbone: the fastest."""


def run(
    *arguments: object,
    stdin: bytes | None = None,
    code: int | None = 0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `tailorbird ARGUMENTS` in a process of its own.

    Args:
        arguments: Of the command.
        stdin: Standard input; empty by default.
        code: The exit code that is expected; None for any.
        environment: Variables in addition to those of this process.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as name:
        paths = {stream: Path(name, stream) for stream in ("stdin", "stdout", "stderr")}
        for stream, path in paths.items():
            path.write_bytes(stdin or b"" if stream == "stdin" else b"")
        request = {
            "arguments": words,
            "environment": {**os.environ, **environment},
            "folder": str(Path.cwd()),
            **{stream: str(path) for stream, path in paths.items()},
        }
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        ended = int(server.stdout.readline())
        said, complained = (paths[stream].read_text("utf-8") for stream in ("stdout", "stderr"))
    done = subprocess.CompletedProcess(["tailorbird", *words], ended, said, complained)
    if code is not None:
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("command_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(10)

    atexit.register(stop)
    return server


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON objects that a command printed, one per line."""
    return [json.loads(line) for line in done.stdout.splitlines()]
