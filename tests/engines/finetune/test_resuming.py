"""An interrupted or killed fine-tuning run resumes to the same weights."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from support import numpy_network
from support.finetune_runs import (  # noqa: F401 (fixtures)
    STEPS,
    interrupted,
    same_result,
    whole,
)
from support.finetuning import (  # noqa: F401 (fixtures)
    Listener,
    PoorAtSmallImages,
    Spoiling,
    photos,
    task,
)
from support.numpy_network import (
    SETTINGS,
    NumpyNetwork,
    Task,
    weights_of,
)
from tailorbird.engines.finetune.interrupts import deferred_interrupt
from tailorbird.engines.finetune.loop import discard
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.errors import SettingsError, StorageError, StorageFull


def test_resuming_before_any_epoch_improved_on_the_start(task: Task, tmp_path: Path) -> None:
    networks = [PoorAtSmallImages(), PoorAtSmallImages()]
    with pytest.raises(KeyboardInterrupt):
        task.run(PoorAtSmallImages(), SETTINGS, tmp_path / "1", progress=Listener(10))
    whole, resumed = (
        task.run(network, SETTINGS, tmp_path / str(n)) for n, network in enumerate(networks)
    )
    assert resumed.resumed_from == (1, 2, 2) and same_result(whole, resumed)
    assert weights_of(networks[0]) == weights_of(networks[1])


def test_a_run_killed_at_several_points_reaches_the_same_weights(
    task: Task,
    photos: Path,
    tmp_path: Path,
    whole: tuple[FinetuneResult, bytes],
) -> None:
    folder = tmp_path / "run"
    program = [
        sys.executable,
        str(Path(numpy_network.__file__)),
        str(photos),
        str(folder),
    ]

    def steps_then_kill(count: int, seconds: float) -> None:
        process = subprocess.Popen([*program, str(seconds)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while count:
            line = process.stdout.readline()
            assert line, "it ended before it was killed"
            count -= line == "step\n"
        if seconds == 0.001:
            with pytest.raises(
                StorageError,
                match=f"another process is fine-tuning in .*{folder.name}; wait for it",
            ):
                task.run(NumpyNetwork(), SETTINGS, folder)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    steps_then_kill(3, 0.001)  # in the first epoch, with a checkpoint after every step
    steps_then_kill(6, 1e9)  # in the second epoch, with checkpoints at the ends of epochs only
    steps_then_kill(11, 0.05)
    done = subprocess.run([*program, "1e9"], stdout=subprocess.PIPE, text=True, check=True)
    assert "resuming at stage " in done.stdout
    assert done.stdout.split("weights ")[1].strip() == whole[1].hex()


@pytest.mark.parametrize("step", [1, 4, 7, STEPS - 1, STEPS])
def test_ctrl_c_saves_and_the_same_command_resumes(
    task: Task,
    tmp_path: Path,
    whole: tuple[FinetuneResult, bytes],
    step: int,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    progress = interrupted(task, tmp_path, step)
    assert progress.notes[-1] == "fine-tuning was stopped; run the same command to resume"
    assert len(progress.told) == step and signal.getsignal(signal.SIGINT) is before
    network, second = NumpyNetwork(), Listener()
    tuned = task.run(network, SETTINGS, tmp_path, progress=second)
    stage, epoch, within = (
        (1, (step - 1) // 4, (step - 1) % 4 + 1)
        if step <= 12
        else (2, (step - 13) // 4, (step - 13) % 4 + 1)
    )
    assert tuned.resumed_from == (stage, epoch, within)
    assert len(second.told) == STEPS - step, "no step is repeated"
    assert same_result(tuned, whole[0]) and weights_of(network) == whole[1]


def test_ctrl_c_after_the_last_step_interrupts(
    task: Task, tmp_path: Path, whole: tuple[FinetuneResult, bytes]
) -> None:
    class Late(Listener):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith("stage 2/2, epoch 3/3"):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        task.run(NumpyNetwork(), SETTINGS, tmp_path, progress=Late())
    network = NumpyNetwork()
    assert same_result(task.run(network, SETTINGS, tmp_path), whole[0]) and network.steps == 0


def test_repeated_interrupts_reach_the_same_weights(
    task: Task, tmp_path: Path, whole: tuple[FinetuneResult, bytes]
) -> None:
    for _ in range(6):
        interrupted(task, tmp_path, 3)
    network = NumpyNetwork()
    assert (
        same_result(task.run(network, SETTINGS, tmp_path), whole[0])
        and weights_of(network) == whole[1]
    )


def test_a_finished_run_is_not_repeated(
    task: Task, tmp_path: Path, whole: tuple[FinetuneResult, bytes]
) -> None:
    task.run(NumpyNetwork(), SETTINGS, tmp_path)
    assert not list(tmp_path.glob("*.f16"))
    network = NumpyNetwork()
    assert same_result(task.run(network, SETTINGS, tmp_path), whole[0])
    assert network.steps == 0 and weights_of(network) == whole[1]


def test_the_second_ctrl_c_stops_immediately() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.wanted
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")


def test_signals_are_unchanged_outside_the_main_thread(task: Task, tmp_path: Path) -> None:
    results: list[FinetuneResult] = []
    thread = threading.Thread(
        target=lambda: results.append(
            task.run(NumpyNetwork(), replace(SETTINGS, epochs=1), tmp_path)
        )
    )
    thread.start()
    thread.join()
    assert results[0].stopped == "finished"


def test_after_a_resume_the_best_weights_are_not_overwritten_by_worse_ones(
    task: Task, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, sizes=(32,), epochs=10, ema=0.0)
    first = interrupted(task, tmp_path, 22, settings)
    said = [line for line in first.notes if "the best so far" in line]
    assert said
    network, progress = Spoiling(after=0), Listener()
    tuned = task.run(network, settings, tmp_path, progress=progress)
    assert tuned.resumed_from == (1, 5, 2)
    after = [epoch for epoch in tuned.history if epoch.epoch > 5]
    assert len(after) == 5 and not any(epoch.best for epoch in after)
    assert f"epoch {tuned.best.epoch}/10" in said[-1] and tuned.best.epoch <= 5
    scored = tuned.history[tuned.best.epoch - 1]
    assert (
        tuned.best.score.log_loss
        == scored.validation_log_loss
        < min(epoch.validation_log_loss for epoch in after)
    )
    assert network.steps > 0 and (network.values["head"] > 0).any(), (
        "the network holds the best, not the last"
    )


@pytest.mark.parametrize("what", ["json", "npz", "best"])
def test_a_damaged_checkpoint_is_detected(
    task: Task,
    tmp_path: Path,
    whole: tuple[FinetuneResult, bytes],
    what: str,
) -> None:
    interrupted(task, tmp_path, 6)
    newest = max(tmp_path.glob("state-*.json"))
    target = {
        "json": newest,
        "npz": newest.with_suffix(".npz"),
        "best": max(tmp_path.glob("best-*.npz")),
    }[what]
    data = bytearray(target.read_bytes())
    place = data.index(b'"step": 2') + 8 if what == "json" else len(data) // 2
    data[place] ^= 1
    target.write_bytes(data)
    network, progress = NumpyNetwork(), Listener()
    tuned = task.run(network, SETTINGS, tmp_path, progress=progress)
    if what == "best":  # both checkpoints need it
        assert "are damaged; starting a new run" in progress.text and tuned.resumed_from is None
    else:
        assert f"ignored damaged checkpoints: {newest.name}; using the one before" in progress.text
        assert tuned.resumed_from == (1, 1, 0)
    assert same_result(tuned, whole[0]) and weights_of(network) == whole[1]


def test_a_changed_command_starts_a_new_run_and_reports_the_reason(
    task: Task, tmp_path: Path
) -> None:
    interrupted(task, tmp_path, 6)
    progress = Listener()
    tuned = task.run(
        NumpyNetwork(),
        replace(SETTINGS, learning_rate=0.04, checkpoint_seconds=5),
        tmp_path,
        progress=progress,
        identity={"backbone": "x"},
    )
    assert tuned.resumed_from is None
    assert (
        "held another run (backbone was None, is x; learning_rate was 0.05, is 0.04; plan); "
        "starting a new one" in progress.text
    )


def test_a_run_of_another_framework_is_kept(task: Task, tmp_path: Path) -> None:
    """The same command without KERAS_BACKEND must not delete a run of many hours."""
    interrupted(task, tmp_path, 6, identity={"framework": "keras on torch"})
    files = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(
        SettingsError,
        match=r"a run of keras on torch, which keras on tensorflow cannot resume.*KERAS_BACKEND",
    ):
        task.run(NumpyNetwork(), SETTINGS, tmp_path, identity={"framework": "keras on tensorflow"})
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert (
        task.run(
            NumpyNetwork(), SETTINGS, tmp_path, identity={"framework": "keras on torch"}
        ).resumed_from
        is not None
    )


def test_a_full_disk_leaves_the_last_checkpoint(
    task: Task,
    tmp_path: Path,
    whole: tuple[FinetuneResult, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted(task, tmp_path, 6)
    files = sorted(path.name for path in tmp_path.glob("state-*"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            StorageFull,
            match=r"the disk is full: .* could not be written; free some space and run again",
        ):
            task.run(NumpyNetwork(), SETTINGS, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == files and not list(
        tmp_path.glob(".*.tmp")
    )
    network = NumpyNetwork()
    assert (
        same_result(task.run(network, SETTINGS, tmp_path), whole[0])
        and weights_of(network) == whole[1]
    )


def test_discarding_a_run_keeps_other_files(task: Task, tmp_path: Path) -> None:
    discard(tmp_path / "nothing")
    task.run(NumpyNetwork(), replace(SETTINGS, epochs=1), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
