"""Fine-tuning on Ray Train: the result of one process, also where a worker is killed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.cli import run
from support.timm_networks import SIDE
from support.timm_tasks import Notes, timm_task
from tailorbird.cluster import finetuning
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.engines.finetune.task import FinetuneTask, Host
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.errors import ImageError, SettingsError

EPOCHS = 12
"""Of runs in which something happens between two epochs."""


@pytest.fixture(scope="module")
def task(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneTask:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_THREADS", "1")
        return timm_task(shapes, tmp_path_factory.mktemp("task"))


def shared(task: FinetuneTask, folder: Path, host: Host, epochs: int = 2) -> FinetuneTask:
    """Return the task in batches for two workers, with a network that has not trained."""
    return replace(
        task,
        network=TorchNetwork(task.network._proto),  # type: ignore[attr-defined]
        settings=replace(task.settings, devices=2, epochs=epochs),
        folder=folder,
        host=host,
    )


HERE = Host(launch=lambda task, progress: None)
"""Trains in this process alone."""


def compare(one: FinetuneResult, two: FinetuneResult) -> None:
    assert len(one.history) == len(two.history) and two.stopped == "finished"
    for first, second in zip(one.history, two.history, strict=True):
        assert second.loss == pytest.approx(first.loss, rel=1e-3)
        assert second.validation_log_loss == pytest.approx(first.validation_log_loss, rel=1e-3)
    assert one.best.epoch == two.best.epoch


@pytest.mark.slow
def test_two_workers_give_the_result_of_one_process(
    task: FinetuneTask, cluster: Any, tmp_path: Path
) -> None:
    one = finetune(shared(task, tmp_path / "one", HERE))
    progress = Notes()
    given = shared(task, tmp_path / "two", finetuning.host(cluster, 2))
    two = finetune(given, progress=progress)
    compare(one, two)
    assert two.best.size == SIDE
    assert any("2 workers on the Ray cluster" in line for line in progress.lines)
    assert sum("epoch 2/2" in line for line in progress.lines) == 1, "said once, not by each"
    assert list(given.folder.glob("state-*.json")) and not (given.folder / "ray").exists()


class Killer(Notes):
    """Kills a worker once, after its second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[int] = []

    def note(self, text: str) -> None:
        super().note(text)
        if "epoch 2/" in text and not self.killed:
            self.killed.append(train_workers()[-1])
            os.kill(self.killed[0], signal.SIGKILL)


def train_workers() -> list[int]:
    """Return the process ids of Ray Train's workers, which are descendants of this process."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            names[int(place.name)] = (place / "cmdline").read_bytes().decode(errors="replace")
            stat = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(place.name)] = int(stat[1])

    def ours(process: int) -> bool:
        while process in parents:
            if process == os.getpid():
                return True
            process = parents[process]
        return False

    return sorted(n for n, name in names.items() if "TrainWorker" in name and ours(n))


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(task: FinetuneTask, cluster: Any, tmp_path: Path) -> None:
    one = finetune(shared(task, tmp_path / "one", HERE, EPOCHS))
    killer = Killer()
    two = finetune(
        shared(task, tmp_path / "two", finetuning.host(cluster, 2), EPOCHS), progress=killer
    )
    assert killer.killed and not Path(f"/proc/{killer.killed[0]}").exists()
    assert any("resuming at stage 1, epoch" in line for line in killer.lines)
    compare(one, two)


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised_here_at_once(
    task: FinetuneTask, cluster: Any, tmp_path: Path
) -> None:
    given = shared(task, tmp_path / "run", finetuning.host(cluster, 2))
    broken = [replace(one, digest="0" * 64) for one in task.parts["train"]]
    progress = Notes()
    with pytest.raises(ImageError, match="the file has changed since"):
        finetune(replace(given, parts={**task.parts, "train": broken}), progress=progress)
    assert sum("stage 1/1" in line for line in progress.lines) == 1, "not tried again"


def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster: Any) -> None:
    with pytest.raises(SettingsError, match="workers is 3, but the Ray cluster has 2 processor"):
        finetuning.host(cluster, 3)
    with pytest.raises(SettingsError, match="workers is 0"):
        finetuning.host(cluster, 0)


@pytest.mark.slow
def test_a_stopped_run_is_resumed(task: FinetuneTask, cluster: Any, tmp_path: Path) -> None:
    one = finetune(shared(task, tmp_path / "one", HERE, EPOCHS))
    given = shared(task, tmp_path / "two", finetuning.host(cluster, 2), EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        finetune(given, progress=Stopper())
    assert list(given.folder.glob("state-*.json"))
    progress = Notes()
    network = TorchNetwork(task.network._proto)  # type: ignore[attr-defined]
    two = finetune(replace(given, network=network), progress=progress)
    assert any("resuming at stage 1, epoch" in line for line in progress.lines)
    compare(one, two)


class Stopper(Notes):
    """Presses Ctrl-C once, after the second epoch."""

    def note(self, text: str) -> None:
        super().note(text)
        if "epoch 2/" in text:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_the_command_fine_tunes_on_a_cluster(
    task: FinetuneTask, shapes: Path, tmp_path: Path
) -> None:
    backbone = tmp_path / "small.onnx"
    backbone.write_bytes(task.network.backbone(SIDE).SerializeToString())
    options = ("train", shapes, "--backbone", backbone, "--finetune", "--epochs", "3", "--json")
    here = json.loads(run(*options, "-o", tmp_path / "one.onnx").stdout)
    there = json.loads(run(*options, "-o", tmp_path / "two.onnx", "--ray", "--workers", "1").stdout)
    one, two = (found["finetune"]["best"]["score"]["log_loss"] for found in (here, there))
    assert two == pytest.approx(one, rel=1e-3)
    assert not (tmp_path / "two.onnx.finetune").exists()
    both = run(*options, "-o", tmp_path / "x.onnx", "--ray", "--devices", "2", code=2)
    assert "give --workers instead of --devices" in both.stderr
