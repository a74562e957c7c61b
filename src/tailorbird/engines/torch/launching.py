"""Fine-tune in several processes on one machine: PyTorch's launcher (`torchrun`) starts them.

    parent    writes the task into the run's folder, starts the launcher, passes on notes and Ctrl-C
    children  run the same training loop (`finetune.loop`) together, up to its last checkpoint
    parent    opens the finished run and has its result, as after any other resumed run

A child ends at once when the parent is gone, so that the folder's lock is free again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird import errors, parallel
from tailorbird.dataset import Sample
from tailorbird.engines.finetune.interrupts import StopRequested, deferred_interrupt
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.task import PARTS, FinetuneTask
from tailorbird.engines.protocol import Regularisation, TrainableNetwork
from tailorbird.errors import TailorbirdError, TrainingError
from tailorbird.files import write_bytes, write_text
from tailorbird.head import Dense, Head
from tailorbird.images import Augmentation, ResizeRule
from tailorbird.progress import Progress

FOLDER = "processes"
"""Folder in that of the run, for the task and what the children report."""
TASK, ARRAYS, BACKBONE, STOP, OUTCOME = (
    "task.json", "task.npz", "backbone.onnx", "stop", "outcome.json"
)  # fmt: skip
STOPPED = "stopped"
"""Name of the error of a child that Ctrl-C stopped."""
MARK = "tailorbird:"
"""Begins the lines on a child's standard output that are for the parent."""
POLL_SECONDS = 0.2
LAST_LINES = 5


def launch(task: FinetuneTask, progress: Progress) -> None:
    """Train with `task.settings.devices` processes, up to the run's last checkpoint.

    Raises what the training loop raises in a child, TrainingError for a child that crashed, and
    KeyboardInterrupt after Ctrl-C, with the state saved.
    """
    folder = task.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_task(task, folder)
    count = task.settings.devices
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
        "-m", "tailorbird.engines.torch.worker", str(folder), str(os.getpid()),
    ]  # fmt: skip
    threads = str(max(1, parallel.cores() // count))
    environment = {
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "",
        **os.environ,
        "TAILORBIRD_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    }
    with deferred_interrupt() as interrupt:
        process = subprocess.Popen(
            command,
            env={name: value for name, value in environment.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the children by the file STOP
        )
        try:
            lines = _listen(process, progress, lambda: interrupt.wanted, folder / STOP)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    _check(folder, process.returncode, lines)
    shutil.rmtree(folder, ignore_errors=True)


def _listen(process: Any, progress: Progress, wanted: Any, stop: Path) -> list[str]:
    """Pass on what children report until they end; return the last lines of other output."""
    others: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if wanted():
                stop.touch()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for line in process.stdout:
            if not line.startswith(MARK):
                others = [*others, line.rstrip()][-LAST_LINES:]
                continue
            name, args, values = json.loads(line.removeprefix(MARK))
            getattr(progress, name)(*args, **values)
        process.wait()
    finally:
        done.set()
        watcher.join()
    return others


def _check(folder: Path, code: int, lines: list[str]) -> None:
    """Raise what a child reported, or TrainingError for one that ended without a word."""
    outcomes = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*-{OUTCOME}"))
    ]
    for found in outcomes:
        if found["error"] is not None:
            raise error_of(found["error"], found["message"])
    if code or not outcomes:
        raise TrainingError(
            f"a training process ended with code {code}: {' / '.join(lines) or 'it said nothing'}; "
            "the last checkpoint stays"
        )


def write_task(task: FinetuneTask, folder: Path) -> None:
    """Write a task as files that `read_task` reads: JSON, plain arrays and the backbone."""
    facts = {
        "parts": {
            name: [{**asdict(one), "path": str(one.path.absolute())} for one in task.parts[name]]
            for name in PARTS
        },
        "settings": asdict(task.settings),
        "size": task.size,
        "folder": str(task.folder.absolute()),
        "seed": task.seed,
        "classes": task.classes,
        "identity": dict(task.identity),
        "rule": None if task.rule is None else task.rule.as_dict(),
    }
    write_text(folder / TASK, json.dumps(facts))
    arrays: dict[str, Any] = {f"labels/{name}": task.labels[name] for name in PARTS}
    for number, layer in enumerate(task.head.layers):
        arrays |= {f"weight/{number}": layer.weight, f"bias/{number}": layer.bias}
    if task.features is not None:
        arrays["features"] = task.features
    with (folder / ARRAYS).open("wb") as file:
        np.savez(file, **arrays)
    write_bytes(folder / BACKBONE, task.network.backbone(task.size).SerializeToString())


def read_task(folder: Path, network: TrainableNetwork) -> FinetuneTask:
    """Read what `write_task` wrote, for a network opened from the backbone there."""
    facts = json.loads((folder / TASK).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    layers = sum(name.startswith("weight/") for name in arrays)
    return FinetuneTask(
        network,
        {
            name: [Sample(**{**one, "path": Path(one["path"])}) for one in samples]
            for name, samples in facts["parts"].items()
        },
        {name: arrays[f"labels/{name}"] for name in PARTS},
        Head(tuple(Dense(arrays[f"weight/{n}"], arrays[f"bias/{n}"]) for n in range(layers))),
        _settings(facts["settings"]),
        size=facts["size"],
        folder=Path(facts["folder"]),
        seed=facts["seed"],
        classes=facts["classes"],
        features=arrays.get("features"),
        identity=facts["identity"],
        rule=None if facts["rule"] is None else ResizeRule.from_dict(facts["rule"]),
    )


def _settings(values: dict[str, Any]) -> FinetuneSettings:
    sizes, augmentation = values["sizes"], values["augmentation"]
    return replace(
        FinetuneSettings(),
        **{
            **values,
            "sizes": None if sizes is None else tuple(sizes),
            "augmentation": None if augmentation is None else Augmentation(**augmentation),
            "regularisation": Regularisation(**values["regularisation"]),
        },
    )


Call = tuple[str, tuple[Any, ...], dict[str, float]]
"""A call of a Progress: the method's name and its arguments."""


def _print(call: Call) -> None:
    print(MARK + json.dumps(call), flush=True)


class Reporter:
    """A Progress that sends each call to the parent, by default as a line."""

    def __init__(self, send: Callable[[Call], object] = _print) -> None:
        self._send = send

    def stage(self, name: str, total: int | None = None) -> None:
        """Report the stage."""
        self._send(("stage", (name, total), {}))

    def advance(self, done: int, total: int) -> None:
        """Report the steps."""
        self._send(("advance", (done, total), {}))

    def note(self, text: str) -> None:
        """Report the sentence."""
        self._send(("note", (text,), {}))

    def metrics(self, **values: float) -> None:
        """Report the values."""
        self._send(("metrics", (), {name: float(value) for name, value in values.items()}))


def report_outcome(folder: Path, process: int, error: BaseException | None) -> None:
    """Write how a child ended."""
    name = None if error is None else name_of(error)
    text = json.dumps({"error": name, "message": "" if error is None else str(error)})
    write_text(folder / f"{process}-{OUTCOME}", text)


def name_of(error: BaseException) -> str:
    """Return the name under which an error is sent to another process."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    return (type(error) if isinstance(error, TailorbirdError) else TrainingError).__name__


def error_of(name: str, message: str) -> BaseException:
    """Return the error that another process sent."""
    if name == STOPPED:
        return StopRequested()
    kind: type[TailorbirdError] = getattr(errors, name, TrainingError)
    return kind(message)


@contextlib.contextmanager
def watched(folder: Path, parent: int) -> Iterator[None]:
    """End this process when the parent is gone; interrupt it when the parent asks to stop."""
    done = threading.Event()

    def watch() -> None:
        asked = False
        while not done.wait(POLL_SECONDS):
            if not _lives(parent):
                os._exit(1)
            if not asked and (folder / STOP).exists():
                asked = True
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
