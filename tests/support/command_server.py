"""Run tailorbird commands in forks of one process that has imported everything.

Each request is a line of JSON on standard input: `arguments`, `environment`, `folder`, `stdin`,
`stdout` and `stderr` (paths). The answer is the exit code, a line on standard output. A fork starts
in milliseconds, where a new interpreter takes half a second to import what most commands need.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

IMPORTED = (
    "tailorbird.cli.app",
    "tailorbird.comparison",
    "tailorbird.evaluation",
    "tailorbird.experiments",
    "tailorbird.explanation",
    "tailorbird.importing",
    "tailorbird.model",
    "tailorbird.report",
    "tailorbird.training",
    "onnx",
    "onnxruntime",
    "rich.progress",
    "rich.table",
)
SECONDS = 300
"""A command that takes longer is ended, exit code -14."""


def start(request: dict[str, Any]) -> None:
    """Make this process what the request asks for."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY
        opened = os.open(request[name], flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["tailorbird", *request["arguments"]]
    signal.alarm(SECONDS)


def main() -> None:
    """Answer requests until standard input ends."""
    from tailorbird.cli import main as tailorbird

    for name in IMPORTED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            start(json.loads(line))
            tailorbird()
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
