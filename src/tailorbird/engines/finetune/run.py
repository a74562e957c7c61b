"""A fine-tuning run: its position, how it is saved, resumed and moved to the next stage."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.engines.finetune import mixing
from tailorbird.engines.finetune.checkpoints import ArraysFile, Checkpoints, Saved, differences
from tailorbird.engines.finetune.ema import EMA, PERIOD
from tailorbird.engines.finetune.plan import Stage
from tailorbird.engines.finetune.results import Best, Epoch, Score, Stopped
from tailorbird.engines.finetune.schedules import Plateau
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.finetune.views import Inputs
from tailorbird.engines.finite import listed, non_finite
from tailorbird.engines.protocol import Arrays, Mix, Step
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.progress import Progress

STATE = "the weights or the optimiser's state"
"""Describes arrays that `TrainableNetwork.state` returned, in messages."""


@dataclass(frozen=True)
class Kept:
    """Weights that are kept, where they come from, and the file that holds them."""

    best: Best
    weights: Arrays
    file: ArraysFile


@dataclass
class Position:
    """Position of a run.

    Attributes:
        stage: number of finished stages.
        epoch: finished epochs of the stage.
        step: finished steps of the epoch.
        loss: sum over the epoch's photos.
        correct: correct answers in the epoch.
        seen: photos seen in the epoch.
        seconds: duration of the run so far, summed over all processes.
        stage_seconds: duration of the stage so far.
        epoch_seconds: duration of the epoch so far.
        validation_seconds: duration of the last validation.
        stage_budget: maximum duration of the stage.
        stale: epochs since the stage's best.
        plateau: state of the plateau schedule.
        updates: number of updates of the EMA.
        mixing: whether the network's `mixing` has begun.
        ends: why stages ended before their last epoch.
        over: whether the run is finished.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    stage_seconds: float = 0.0
    epoch_seconds: float = 0.0
    validation_seconds: float = 0.0
    stage_budget: float | None = None
    stale: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    updates: int = 0
    mixing: bool = False
    ends: list[str] = field(default_factory=list)
    over: bool = False

    def spend(self, seconds: float) -> None:
        """Count seconds."""
        self.seconds += seconds
        self.stage_seconds += seconds
        self.epoch_seconds += seconds

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.step = self.correct = self.seen = 0
        self.loss = self.epoch_seconds = 0.0

    def next_stage(self, number: int, budget: float | None) -> None:
        """Begin a stage."""
        self.stage, self.epoch = number, -1
        self.next_epoch()
        self.stage_seconds, self.stage_budget = 0.0, budget
        self.stale, self.plateau, self.updates = 0, Plateau(), 0

    def stopped(self) -> Stopped:
        """Return how the run ended."""
        if "budget" in self.ends:
            return "budget"
        return "early" if "early" in self.ends else "finished"

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Position:
        """Return the position from what `dataclasses.asdict` made of it."""
        return cls(**{**value, "plateau": Plateau(**value["plateau"])})


class Run:
    """A run in progress.

    Attributes:
        task: inputs of the run.
        progress: receives notes and metrics.
        stages: the plan.
        position: position of the run.
        history: every epoch so far.
        start: score of the initial weights.
        best: the best weights of the whole run.
        leader: the best of the current stage, scored at its size; the next stage starts from it.
        resumed_from: (stage, epoch, step) at which the run was resumed.
        whole: whether the state in memory can be saved: not while a stage is being entered.
        saved: whether there is a checkpoint of this run.
        inputs: inputs of the current stage.
        ema: EMA of the current stage.
        unsettled: number in the epoch and result of steps whose results have not been read.
    """

    best: Kept
    leader: Kept
    inputs: Inputs

    def __init__(self, task: FinetuneTask, progress: Progress) -> None:
        """Plan the stages; creates the run's folder."""
        self.task = task
        self.progress = progress
        self.stages = task.stages()
        self.position = Position()
        self.history: list[Epoch] = []
        self.start = Score(math.inf, 0.0, 1.0)
        self.resumed_from: tuple[int, int, int] | None = None
        self.whole = False
        self.saved = False
        self.ema = EMA(0.0)
        self.unsettled: deque[tuple[int, Step]] = deque()
        self._fingerprint = task.fingerprint(self.stages)
        self._checkpoints = Checkpoints(task.folder, writes=not task.network.process)
        self._saved_at = 0.0
        self._spent_at = time.perf_counter()

    @property
    def stage(self) -> Stage:
        """Return the current stage."""
        return self.stages[self.position.stage]

    @property
    def period(self) -> int:
        """Return the number of steps between EMA updates: at least one update per epoch."""
        return min(PERIOD, self.inputs.steps)

    def spend(self) -> float:
        """Count the seconds since the last call, or since the run was opened, and return them."""
        before, self._spent_at = self._spent_at, time.perf_counter()
        seconds = self.task.network.agree(self._spent_at - before)
        self.position.spend(seconds)
        return seconds

    def previous(self) -> Saved | None:
        """Return the checkpoint to resume from; of several processes, the first one reads first."""
        network = self.task.network
        if network.process:
            network.agree(0)  # until the first one has read, or emptied the folder
        found = self._previous()
        if not network.process:
            network.agree(0)
        network.agree(0)  # until all have read, before the first one writes
        return found

    def _previous(self) -> Saved | None:
        """Return the checkpoint to resume from; None, with the folder emptied, if there is none.

        Raises SettingsError, and leaves the folder as it is, for a run of another framework.
        """
        saved, folder, note = self._checkpoints.newest(), self.task.folder, self.progress.note
        if saved is None:
            if any(folder.glob("state-*.json")):
                note(f"the checkpoints in {folder} are damaged; starting a new run")
            self._checkpoints.clear()
            return None
        if saved.damaged:
            note(f"ignored damaged checkpoints: {', '.join(saved.damaged)}; using the one before")
        changed = differences(saved.about["fingerprint"], self._fingerprint)
        # What was launched elsewhere is this run, even if other devices there planned its caches.
        if not changed or self.task.host.launch is not None:
            return saved
        began, now = saved.about["fingerprint"].get("framework"), self._fingerprint.get("framework")
        if began != now:
            raise SettingsError(
                f"{folder} holds a run of {began}, which {now} cannot resume; use the same again "
                "(KERAS_BACKEND chooses Keras' backend), or delete the folder to start a new run"
            )
        note(f"{folder} held another run ({'; '.join(changed)}); starting a new one")
        self._checkpoints.clear()
        return None

    def resume(self, saved: Saved) -> None:
        """Restore the network, the EMA and the best weights from a checkpoint."""
        about, task = saved.about, self.task
        self.position = Position.from_dict(about["position"])
        self.history = [Epoch(**value) for value in about["history"]]
        self.start = Score(**about["start"])
        self.best, self.leader = (
            Kept(
                Best.from_dict(about[what], saved.kept[what]["logits"]),
                _under("weight/", saved.kept[what]),
                saved.files[what],
            )
            for what in ("best", "leader")
        )
        position = self.position
        self.resumed_from = (position.stage + 1, position.epoch, position.step)
        task.network.attach(task.head, task.settings.regularisation, task.features)
        self._begin()
        self._saved_at = position.seconds
        if not position.over:  # a finished run has its best weights, and maybe another device
            task.network.restore(_under("network/", saved.state))
            task.network.load_averages(_under("ema/", saved.state))
        self.ema.updates = position.updates
        self.whole = self.saved = True

    def enter(self, number: int, budget: float | None, start: Best | None = None) -> None:
        """Begin a stage from the best weights of the one before.

        start: the score of the network's own weights, from which the first stage begins.
        """
        self.whole = False
        network = self.task.network
        if start is None:
            network.load_weights(self.leader.weights)
        same = start is not None or self.leader.file == self.best.file
        self.position.next_stage(number, budget)
        self._begin()
        # Copied again because more layers train now: loading them must undo what the stage changes.
        self.leader = self.keep(start or self.leader.best, network.weights())
        if same:
            self.best = self.leader
            return
        network.load_weights(self.best.weights)
        self.best = self.keep(self.best.best, network.weights())
        network.load_weights(self.leader.weights)

    def _begin(self) -> None:
        task, number = self.task, self.position.stage
        seed = int(np.random.SeedSequence([task.seed, number]).generate_state(1)[0] >> 1)
        task.network.begin(self.stage.training(task.settings, seed, task.class_weights()))
        task.network.load_averages({})
        self.close()
        self.inputs = Inputs(task, self.stage, number)
        self.ema = EMA(task.settings.ema ** (self.period / PERIOD) if task.settings.ema else 0.0)

    @property
    def settled(self) -> int:
        """Return the number of photos seen in the epoch whose loss has been read."""
        return self.position.seen - len(self.unsettled) * self.inputs.batch

    def settle(self, lag: int) -> None:
        """Read the results of all but the last `lag` steps.

        Raises TrainingError for a loss that is not finite.
        """
        while len(self.unsettled) > lag:
            step, seen = self.unsettled.popleft()
            loss = float(seen.loss)
            if not math.isfinite(loss):
                raise self.diverged(f"the training loss became {loss}", step + 1)
            self.position.loss += loss * self.inputs.batch
            self.position.correct += int(seen.correct)

    def mix(self, photos: int) -> Mix | None:
        """Return how the next batch is mixed; it follows from seed, stage, epoch and step."""
        task, position = self.task, self.position
        at = [task.seed, position.stage, position.epoch, position.step]
        mixup, cutmix = task.settings.mixup, task.settings.cutmix
        if self.chooses_mixing and position.mixing:
            mixup, cutmix = task.network.mixing
        return mixing.draw(
            photos, mixup=mixup or 0.0, cutmix=cutmix or 0.0, random=np.random.default_rng(at)
        )

    @property
    def chooses_mixing(self) -> bool:
        """Return whether validation decides when mixing begins: neither kind is set."""
        settings = self.task.settings
        return settings.mixup is None and settings.cutmix is None and any(self.task.network.mixing)

    def close(self) -> None:
        """Close the cache files of the current stage."""
        if hasattr(self, "inputs"):
            self.inputs.close()

    def keep(self, best: Best, weights: Arrays) -> Kept:
        """Write weights to keep; the next checkpoint names their file. Raises StorageError."""
        copied = {name: value.copy() for name, value in weights.items()}
        arrays = {f"weight/{name}": value for name, value in copied.items()}
        file = self._checkpoints.write_best({**arrays, "logits": best.logits})
        return Kept(best, copied, file)

    def diverged(self, what: str, step: int | None = None) -> TrainingError:
        """Return the error that says what happened, where in the run, and what to do.

        step: number of the step in the epoch, from 1; by default the last.
        """
        position, settings = self.position, self.task.settings
        rate = settings.learning_rate
        cure = f"try a learning rate of {rate / 5:.2g} instead of {rate:.2g}"
        if settings.mixed_precision:
            cure += ", or no mixed precision"
        return TrainingError(
            f"{what} in stage {position.stage + 1} of {len(self.stages)} ({self.stage.size} px), "
            f"epoch {position.epoch + 1}, step {step or position.step}: {cure}; the last "
            f"checkpoint stays in {self.task.folder}"
        )

    def check_finite(self, arrays: Mapping[str, NDArray[Any]], what: str) -> None:
        """Raise TrainingError when weights or optimiser state hold NaN or infinity."""
        damaged = non_finite(arrays)
        if damaged:
            raise self.diverged(f"{what} became NaN or infinite ({listed(damaged)})")

    def save(self) -> None:
        """Write a checkpoint. Raises StorageError, TrainingError when the state is not finite."""
        self.settle(0)
        self.position.updates = self.ema.updates
        network, averages = self.task.network.state(), self.task.network.averages()
        self.check_finite({**network, **averages}, STATE)
        about = {
            "fingerprint": self._fingerprint,
            "position": asdict(self.position),
            "history": [epoch.as_dict() for epoch in self.history],
            "start": asdict(self.start),
            "best": self.best.best.as_dict(),
            "leader": self.leader.best.as_dict(),
        }
        state = {f"network/{name}": value for name, value in network.items()}
        state |= {f"ema/{name}": value for name, value in averages.items()}
        self._checkpoints.save(about, state, {"best": self.best.file, "leader": self.leader.file})
        if self.task.host.saved is not None:
            first = not self.task.network.process
            self.task.host.saved(self._checkpoints.files() if first else [])
        self.saved, self._saved_at = True, self.position.seconds

    def save_when_due(self) -> None:
        """Write a checkpoint within an epoch when the last one is old enough.

        Measured in the run's own seconds, on which all its processes agree.
        """
        if self.position.seconds - self._saved_at >= self.task.settings.checkpoint_seconds:
            self.save()


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the arrays whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
