"""A fine-tuning run learns, keeps the best weights, stops early and detects invalid values."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.finetune_runs import (  # noqa: F401 (fixtures)
    STEPS,
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
    CLASSES,
    INPUTS,
    SETTINGS,
    SIZE,
    WIDTH,
    NumpyNetwork,
    Task,
    weights_of,
)
from tailorbird.cli.output import ProgressBar, metrics_text, reset_verbosity
from tailorbird.dataset import Sample
from tailorbird.engines.finetune import loop as finetune
from tailorbird.engines.finetune import views
from tailorbird.engines.finetune.interrupts import Interrupt
from tailorbird.engines.finetune.loop import discard
from tailorbird.engines.finetune.results import Best, FinetuneResult
from tailorbird.engines.finetune.run import Run
from tailorbird.engines.finetune.views import Inputs
from tailorbird.engines.protocol import Training
from tailorbird.errors import BackboneError, SettingsError, TrainingError
from tailorbird.head import Dense, Head
from tailorbird.images import Pixels


def test_a_run_learns_and_reports_progress(task: Task, tmp_path: Path) -> None:
    network, progress = NumpyNetwork(), Listener()
    tuned = task.run(network, replace(SETTINGS, epochs=12), tmp_path / "run", progress=progress)
    assert tuned.best.score.accuracy >= 0.9 > 0.7 > tuned.start.accuracy
    assert tuned.best.score.log_loss < tuned.start.log_loss / 2
    assert tuned.stopped == "finished" and tuned.resumed_from is None and tuned.seconds > 0
    assert [(epoch.stage, epoch.size, epoch.epoch) for epoch in tuned.history] == [
        *((1, 16, number) for number in range(7)),
        *((2, 32, number) for number in range(7)),
    ]
    assert [(told.size, told.cut) for told in network.begun] == [(16, 1), (32, 1)]
    assert network.begun[0].seed != network.begun[1].seed
    # The best epoch is the first with the lowest log loss, and the network has its weights.
    lowest = min(tuned.history, key=lambda epoch: epoch.validation_log_loss)
    assert (tuned.best.stage, tuned.best.epoch, tuned.best.size) == (
        lowest.stage,
        lowest.epoch,
        lowest.size,
    )
    assert lowest.best and tuned.best.score.log_loss == lowest.validation_log_loss
    assert (
        json.loads(json.dumps(tuned.as_dict()))["best"]["score"]["accuracy"]
        == tuned.best.score.accuracy
    )
    assert tuned.best.logits.shape == (24, CLASSES) and tuned.best.logits.dtype == np.float32
    # Reported during the run.
    assert len(progress.told) == 12 * 4 and set(progress.told[0]) == {
        "loss",
        "accuracy",
        "images_per_second",
        "seconds_left",
    }
    assert (
        progress.advanced[-1] == (360, 360)
        and progress.told[0]["seconds_left"] > progress.told[-1]["seconds_left"] >= 0
    )
    assert progress.notes[0].startswith(
        "stage 1/2: 16 px, the top 1 of 2 layers (above tint) and the head, 6 epochs"
    )
    assert "stage 2/2, epoch 6/6: loss " in "".join(progress.notes[-2:])
    discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_equal_seeds_give_equal_weights_and_different_seeds_do_not(
    task: Task,
    tmp_path: Path,
    whole: tuple[FinetuneResult, bytes],
) -> None:
    for seed in (0, 1):
        network = NumpyNetwork()
        tuned = task.run(network, SETTINGS, tmp_path / str(seed), seed=seed)
        assert same_result(tuned, whole[0]) == (seed == 0) == (weights_of(network) == whole[1])


def test_the_result_is_never_worse_than_the_frozen_base(task: Task, tmp_path: Path) -> None:
    network = Spoiling(after=0)
    tuned = task.run(network, replace(SETTINGS, sizes=(SIZE,)), tmp_path)
    assert (tuned.best.stage, tuned.best.epoch, tuned.best.size) == (
        0,
        0,
        SIZE,
    ) and tuned.best.score == tuned.start
    assert not any(epoch.best for epoch in tuned.history)
    assert all(np.array_equal(network.values[name], value) for name, value in network.first.items())
    assert np.array_equal(network.head().layers[0].weight, task.head.layers[0].weight)


@pytest.mark.parametrize(
    ("after", "budget", "said"),
    [(None, None, "--epochs 4 may help"), (None, 60.0, "--epochs 4 may help"), (1, None, None)],
)
def test_a_run_whose_last_epoch_is_the_best_says_so(
    task: Task, tmp_path: Path, after: int | None, budget: float | None, said: str | None
) -> None:
    network = NumpyNetwork() if after is None else Spoiling(after=after)
    settings = replace(SETTINGS, sizes=(SIZE,), epochs=2, ema=0.0, budget=budget)
    progress = Listener()
    tuned = task.run(network, settings, tmp_path, progress=progress)
    assert tuned.history[-1].best == (said is not None)
    expected = f"the last epoch was the best: {said}" if said else "stage 1/1, epoch 2/2"
    assert progress.notes[-1].startswith(expected)


def test_the_kept_weights_are_described(task: Task, tmp_path: Path) -> None:
    """Also when the initial weights are scored again before a stage of another size."""
    spoilt = task.run(Spoiling(after=0), SETTINGS, tmp_path / "spoilt").best
    assert spoilt.trained == (0, 0)
    assert spoilt.sentence() == (
        f"kept the initial weights at {spoilt.size} px: training improved nothing"
    )
    best = task.run(Spoiling(after=8), replace(SETTINGS, ema=0.0), tmp_path / "stage").best
    assert best.trained[0] == 1 and best.trained[1] in (1, 2)
    assert (
        best.sentence()
        == f"kept the weights of stage 1, epoch {best.trained[1]}, at {best.size} px"
    )
    assert Best.from_dict(best.as_dict(), best.logits) == best


def test_a_stage_starts_from_the_best_weights_of_all_layers(task: Task, tmp_path: Path) -> None:
    class Noting(Spoiling):
        entered: list[bytes]

        def begin(self, training: Training) -> None:
            self.entered = [*getattr(self, "entered", []), weights_of(self)]
            super().begin(training)

    network = Noting(after=8)
    settings = replace(SETTINGS, sizes=(16, 32), unfreeze="all", epochs=6, ema=0.0)
    tuned = task.run(network, settings, tmp_path)
    assert (tuned.best.stage, tuned.best.epoch) in [(1, 1), (1, 2), (2, 0)]
    assert weights_of(network) == network.entered[1], (
        "the second stage began where the first was best"
    )
    assert not np.array_equal(network.values["tint"], network.first["tint"])


def test_a_stage_of_small_images_is_kept_although_it_scores_worse(
    task: Task, tmp_path: Path
) -> None:
    network = PoorAtSmallImages()
    tuned = task.run(network, SETTINGS, tmp_path)
    assert not any(epoch.best for epoch in tuned.history if epoch.stage == 1)
    assert network.entered[16] != network.entered[32], (
        "the second stage goes on from the first one's best"
    )
    assert tuned.best.stage == 2 and tuned.history[4].epoch == 0 and tuned.history[4].best
    again = PoorAtSmallImages()
    with pytest.raises(KeyboardInterrupt):
        task.run(PoorAtSmallImages(), SETTINGS, tmp_path / "again", progress=Listener(STEPS - 2))
    assert same_result(task.run(again, SETTINGS, tmp_path / "again"), tuned) and weights_of(
        again
    ) == weights_of(network)


def test_the_command_line_shows_the_metrics(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    reset_verbosity()  # another test of this process may have been run with --quiet
    values = {"loss": 0.61234, "accuracy": 0.875, "images_per_second": 61.2, "seconds_left": 130.0}
    assert (
        metrics_text(values) == "loss 0.612, 87.5% right, 61 images/s, 2:10 left"
        and metrics_text({}) == ""
    )
    with ProgressBar() as progress:
        progress.stage("finetune", 100)
        progress.advance(50, 100)
        progress.metrics(**values)
    shown = capsys.readouterr().err
    assert "fine-tune" in shown and "87.5% right" in shown


def test_early_stopping_ends_a_stage(task: Task, tmp_path: Path) -> None:
    progress = Listener()
    settings = replace(SETTINGS, sizes=(32,), epochs=30, patience=3, ema=0.0)
    tuned = task.run(Spoiling(after=12), settings, tmp_path, progress=progress)
    assert tuned.stopped == "early" and tuned.best.epoch <= 3
    best = max(tuned.best.epoch, 0)
    assert tuned.history[-1].epoch == best + 3
    assert "stage 1 ends early: 3 epochs without a lower validation log-loss" in progress.text


def test_the_learning_rate_falls_on_a_plateau(task: Task, tmp_path: Path) -> None:
    settings = replace(SETTINGS, sizes=(32,), epochs=8, schedule="plateau", ema=0.0, warm_up=0.0)
    rates = [
        epoch.learning_rate for epoch in task.run(Spoiling(after=0), settings, tmp_path).history
    ]
    assert rates == pytest.approx([0.05, 0.05, 0.015, 0.015, 0.0045, 0.0045, 0.00135, 0.00135])


def test_a_time_budget_ends_the_run_with_the_best_weights(task: Task, tmp_path: Path) -> None:
    progress = Listener()
    settings = replace(SETTINGS, epochs=9_000, budget=3.0)
    tuned = task.run(NumpyNetwork(), settings, tmp_path, progress=progress)
    assert tuned.stopped == "budget" and 1.5 < tuned.seconds < 60
    assert {epoch.stage for epoch in tuned.history} == {1, 2}, "each stage has its share"
    assert tuned.best.score.log_loss < tuned.start.log_loss
    assert all(values["seconds_left"] <= 3 for values in progress.told)
    rates = [epoch.learning_rate for epoch in tuned.history if epoch.stage == 1 and epoch.epoch]
    assert rates[-1] < rates[0] / 4, "the schedule runs with the time"
    last = tuned.history[-1]
    longer = "a longer --budget may help" in progress.notes[-1]
    assert longer == (tuned.best.trained == (last.stage, last.epoch))


def test_a_time_budget_too_short_for_one_step(task: Task, tmp_path: Path) -> None:
    network = NumpyNetwork()
    tuned = task.run(network, replace(SETTINGS, sizes=(32,), budget=1e-6), tmp_path)
    assert tuned.stopped == "budget" and network.steps == 0 and tuned.best.score == tuned.start


@pytest.mark.parametrize("mixed", [False, True])
def test_a_non_finite_loss_is_reported(task: Task, tmp_path: Path, mixed: bool) -> None:
    settings = replace(SETTINGS, mixed_precision=mixed)
    with pytest.raises(TrainingError) as raised:
        task.run(NumpyNetwork(break_at=6), settings, tmp_path)
    said = (
        "the training loss became nan in stage 1 of 2 (16 px), epoch 2, step 2: "
        "try a learning rate of 0.01 instead of 0.05"
    )
    assert str(raised.value).startswith(said)
    assert (", or no mixed precision" in str(raised.value)) == mixed
    assert list(tmp_path.glob("state-*.json")) and str(tmp_path) in str(raised.value)


class NonFinite(NumpyNetwork):
    """Put NaN or an overflowing value into weights, gradient or optimiser state at step 6."""

    def __init__(self, what: str, relu: Callable[..., Any]) -> None:
        super().__init__(relu=relu)
        self.what = what

    def _adam(self, gradients: Mapping[str, npt.NDArray[Any]], rate: float) -> None:
        if self.steps != 6:
            return super()._adam(gradients, rate)
        if self.what == "gradient":
            # Where its square overflows, the update is 0 and the weights stay finite.
            gradients = {**gradients, "kernel": np.full((INPUTS, WIDTH), 1e30, np.float32)}
        super()._adam(gradients, rate)
        if self.what == "weight":
            self.values["kernel"][0, 0] = np.nan
        if self.what == "state":
            self.moments["kernel"][0][0, 0] = np.nan
        return None


@pytest.mark.parametrize("relu", [np.maximum, np.fmax], ids=["keeps NaN", "hides NaN"])
@pytest.mark.parametrize("what", ["weight", "gradient", "state"])
@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_non_finite_values_are_detected_on_every_processor(
    task: Task, tmp_path: Path, what: str, relu: Callable[..., Any], ema: float
) -> None:
    """numpy.fmax(NaN, 0) is 0, as ReLU is on some processors: the loss stays finite."""
    with (
        pytest.raises(
            TrainingError,
            match=r"NaN|nan.* in stage 1 of 2 \(16 px\), epoch 2, step \d: try a learning",
        ),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        task.run(NonFinite(what, relu), replace(SETTINGS, ema=ema), tmp_path)
    network = NumpyNetwork()
    resumed = task.run(network, replace(SETTINGS, ema=ema), tmp_path)
    assert resumed.resumed_from == (1, 1, 0), "the last checkpoint was written before the damage"
    assert np.isfinite(np.frombuffer(weights_of(network), np.float32)).all()


def test_non_finite_activations_are_reported_with_the_photo(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = views.FrozenPart._run, itertools.count(1)

    def overflowing(frozen: Any, pixels: Pixels) -> npt.NDArray[np.float32]:
        call = next(calls)  # of one thread: another's may come between two looks at a list
        values = run(frozen, pixels)
        return np.full_like(values, np.inf) if call == 60 else values

    monkeypatch.setattr(views.FrozenPart, "_run", overflowing)
    with pytest.raises(
        TrainingError,
        match=r"the activations of .*\.png hold NaN or infinity, computed by grid below tint",
    ):
        task.run(NumpyNetwork(), SETTINGS, tmp_path)


def test_non_finite_weights_are_detected_before_training(task: Task, tmp_path: Path) -> None:
    network = NumpyNetwork()
    network.values["kernel"][3, 4] = np.nan
    with pytest.raises(BackboneError, match=r"the weights of grid below .* in 'kernel'; the file"):
        task.run(network, SETTINGS, tmp_path)
    bad = Dense(np.full((WIDTH, CLASSES), np.inf, np.float32), np.zeros(CLASSES, np.float32))
    with pytest.raises(SettingsError, match="the head holds NaN or infinity in 'layer 0'"):
        task.run(NumpyNetwork(), SETTINGS, tmp_path, head=Head((bad,)))


def test_non_finite_outputs_are_reported(task: Task, tmp_path: Path) -> None:
    class Broken(NumpyNetwork):
        def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            return super().logits(inputs) * np.float32(np.nan if self.steps else 1)

    with pytest.raises(
        TrainingError,
        match=r"the logits of the validation photos became NaN or infinite in stage 1 of 2",
    ):
        task.run(Broken(), SETTINGS, tmp_path)


def test_validation_time_excludes_filling_the_cache(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a budget would reserve the time of the first validation for every one."""
    real, train_stage = Inputs._pixels, finetune._train_stage
    one_at_a_time, told = threading.Lock(), []

    def slow(self: Inputs, sample: Sample, view: int) -> Pixels:
        if view == 0:
            with one_at_a_time:
                time.sleep(0.05)
        return real(self, sample, view)

    def spy(run: Run, interrupt: Interrupt) -> None:
        told.append(run.position.validation_seconds)
        train_stage(run, interrupt)

    monkeypatch.setattr(Inputs, "_pixels", slow)
    monkeypatch.setattr(finetune, "_train_stage", spy)
    task.run(NumpyNetwork(), replace(SETTINGS, budget=600.0), tmp_path)
    assert len(told) == 2 and all(0 < seconds < 24 * 0.05 for seconds in told)


def test_invalid_tasks_are_refused_with_every_problem(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        task.run(
            NumpyNetwork(),
            SETTINGS,
            tmp_path,
            classes=2,
            seed=-1,
            features=np.zeros((3, 5), np.float32),
        )
    for part in (
        "labels must be 0 to 1, not 0 to 2",
        "features must be (N, 16), as the head takes them, not (3, 5)",
        "3 outputs for 2 classes",
        "seed is -1",
    ):
        assert part in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_notes_of_the_network_are_reported(task: Task, tmp_path: Path) -> None:
    for mixed in (False, True):
        progress = Listener()
        settings = replace(SETTINGS, epochs=1, mixed_precision=mixed)
        task.run(NumpyNetwork(), settings, tmp_path / str(mixed), progress=progress)
        assert ("rough numbers" in progress.notes) == mixed


def test_balanced_classes(task: Task, tmp_path: Path) -> None:
    network = NumpyNetwork()
    task.run(network, replace(SETTINGS, epochs=1, class_weight="balanced"), tmp_path)
    assert network.begun[0].class_weights == (1.0, 1.0, 1.0)
