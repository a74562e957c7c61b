"""`--devices 2` without a GPU: two processes give the result of one, within noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.timm_networks import SIDE
from support.timm_tasks import Notes, timm_task
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.task import FinetuneTask, Host
from tailorbird.engines.torch import launching
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.errors import ImageError, SettingsError, TrainingError
from tailorbird.images import ResizeRule


@pytest.fixture(scope="module")
def task(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneTask:
    return timm_task(shapes, tmp_path_factory.mktemp("task"))


def test_two_processes_give_the_result_of_one(
    task: FinetuneTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "2")
    both = replace(task, folder=tmp_path / "two", settings=replace(task.settings, devices=2))
    here = Host(launch=lambda task, progress: None)  # in the same batches, in this process
    one = finetune(replace(both, folder=tmp_path / "one", host=here))
    progress = Notes()
    untrained = TorchNetwork(task.network._proto)  # type: ignore[attr-defined]
    two = finetune(replace(both, network=untrained), progress=progress)
    assert len(two.history) == len(one.history) == 2 and two.stopped == "finished"
    assert any("2 of them" in line for line in progress.lines)
    assert sum("epoch 2/2" in line for line in progress.lines) == 1, "said once, not by each"
    assert two.resumed_from is None, "reading what the children trained is no resuming"
    improving = sum("the last epoch was the best" in line for line in progress.lines)
    assert improving == (two.best.trained == (1, 2))
    for first, second in zip(one.history, two.history, strict=True):
        assert second.loss == pytest.approx(first.loss, rel=1e-3)
        assert second.validation_log_loss == pytest.approx(first.validation_log_loss, rel=1e-3)
    assert not (tmp_path / "two" / launching.FOLDER).exists()
    assert two.best.size == SIDE


def test_an_error_in_a_child_is_raised_here(
    task: FinetuneTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "2")
    settings = replace(task.settings, devices=2)
    broken = [replace(one, digest="0" * 64) for one in task.parts["train"]]
    parts = {**task.parts, "train": broken}
    with pytest.raises(ImageError, match="the file has changed since"):
        finetune(replace(task, parts=parts, folder=tmp_path / "run", settings=settings))


def test_more_processes_than_cores_are_refused(
    task: FinetuneTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "2")
    many = replace(task, folder=tmp_path, settings=replace(task.settings, devices=3))
    with pytest.raises(SettingsError, match="there is no GPU and 2 processor cores; use at most 2"):
        finetune(many)


def test_a_child_that_crashes_is_an_error(
    task: FinetuneTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "2")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    many = replace(task, folder=tmp_path, settings=replace(task.settings, devices=2))
    with pytest.raises(TrainingError, match="a training process ended with code 1"):
        finetune(many)


def test_a_task_is_read_as_it_was_written(task: FinetuneTask, tmp_path: Path) -> None:
    features = np.ones((4, task.head.layers[0].weight.shape[0]), np.float32)
    rule = ResizeRule(SIDE, keep_aspect=True, share=0.9, filter="bicubic")
    given = replace(task, features=features, folder=tmp_path / "run", rule=rule)
    launching.write_task(given, tmp_path)
    found = launching.read_task(tmp_path, task.network)
    assert found.settings == given.settings and found.parts == given.parts
    assert found.rule == rule and found.rule_at(2 * SIDE) == rule.at(2 * SIDE)
    assert found.fingerprint(found.stages()) == given.fingerprint(given.stages())
    assert found.features is not None and np.array_equal(found.features, features)


KILLED = """
import sys
from pathlib import Path
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.torch.launching import read_task
from tailorbird.engines.torch.worker import opened_network
if __name__ == "__main__":
    place = Path(sys.argv[1])
    finetune(read_task(place, opened_network(place)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_parent_leaves_no_children_and_the_run_is_resumed(
    task: FinetuneTask, tmp_path: Path, number: int
) -> None:
    settings = replace(task.settings, devices=2, epochs=40)
    given = replace(task, folder=tmp_path / "run", settings=settings)
    (tmp_path / "task").mkdir()
    launching.write_task(given, tmp_path / "task")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "TAILORBIRD_THREADS": "2"}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "task")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + 240
        while len(list(given.folder.glob("state-*.json"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode in (-number, 130, 1, -signal.SIGINT), said
    assert list(given.folder.glob("state-*.json"))
    end = time.monotonic() + 20
    while children(str(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not children(str(tmp_path))


def children(word: str) -> list[str]:
    """Return the command lines of running processes that hold a word."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line and "torch" in line:
            found.append(line)
    return found
