"""One fine-tuning run: what it is about, where it stands, how it is saved, taken up and moved to the next stage."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.dataset import Sample
from tailorbird.engines.finetune import activation_cache
from tailorbird.engines.finetune.checkpoints import ArraysFile, Checkpoints, Saved, differences
from tailorbird.engines.finetune.ema import PERIOD, Average
from tailorbird.engines.finetune.plan import DISK_BYTES, Stage, plan
from tailorbird.engines.finetune.results import Best, Epoch, Score, Stopped
from tailorbird.engines.finetune.schedules import Plateau
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.views import Inputs
from tailorbird.engines.finite import listed, non_finite
from tailorbird.engines.protocol import Arrays, TrainableNetwork
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head import Head
from tailorbird.progress import Progress

Labels = NDArray[np.int64]

STATE = "the weights or the optimiser's state"
"""What `check_finite` is told of arrays that `TrainableNetwork.state` returned."""


@dataclass(frozen=True)
class Task:
    """What a run is about; see `finetune.finetune` for the meaning of each."""

    network: TrainableNetwork
    parts: Mapping[str, Sequence[Sample]]
    labels: Mapping[str, Labels]
    head: Head
    settings: FinetuneSettings
    size: int
    folder: Path
    seed: int
    features: NDArray[np.float32] | None
    classes: int
    identity: Mapping[str, Any]
    progress: Progress

    @property
    def photos(self) -> dict[str, int]:
        """How many there are of `train` and `validation`."""
        return {name: len(self.parts[name]) for name in ("train", "validation")}

    def check(self) -> None:
        """Raise one SettingsError that names everything that does not fit."""
        problems = []
        for name, count in self.photos.items():
            labels = self.labels[name]
            if not count:
                problems.append(f"there are no photos for {name}")
            elif labels.shape != (count,):
                problems.append(f"{count} photos for {name} have labels of shape {labels.shape}")
            elif not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                problems.append(
                    f"{name} labels must be 0 to {self.classes - 1}, not {labels.min()} to {labels.max()}"
                )
        width = self.head.layers[0].weight.shape[0]
        if self.features is not None and (
            self.features.shape[1:] != (width,) or not len(self.features)
        ):
            problems.append(
                f"features must be (N, {width}), as the head takes them, not {self.features.shape}"
            )
        if self.head.layers[-1].bias.shape != (self.classes,):
            problems.append(
                f"the head has {len(self.head.layers[-1].bias)} outputs for {self.classes} classes"
            )
        weights = {f"layer {n}": layer.weight for n, layer in enumerate(self.head.layers)}
        weights |= {f"bias {n}": layer.bias for n, layer in enumerate(self.head.layers)}
        if damaged := non_finite(weights):
            problems.append(f"the head holds NaN or infinity in {listed(damaged)}")
        if self.features is not None and not np.isfinite(self.features).all():
            problems.append("the features hold NaN or infinity")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}, but must be at least 0")
        if problems:
            raise SettingsError("; ".join(problems))

    def stages(self) -> tuple[Stage, ...]:
        """The plan, with the disk as it is now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free + activation_cache.kept_bytes(self.folder)
        return plan(
            self.network,
            self.settings,
            self.photos,
            size=self.size,
            disk=min(DISK_BYTES, free // 2),
        )

    def fingerprint(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What makes this run this one: JSON-able, by names that a person can be told."""
        photos = hashlib.sha256()
        for name in ("train", "validation"):
            photos.update("".join(sample.digest for sample in self.parts[name]).encode())
            photos.update(np.ascontiguousarray(self.labels[name], "<i8").tobytes())
        head = hashlib.sha256()
        for layer in self.head.layers:
            head.update(layer.weight.tobytes() + layer.bias.tobytes())
        settings = self.settings.as_dict()
        del settings["checkpoint_seconds"]  # how often it is saved changes nothing
        # Whether activations are kept follows from the disk of the day and changes nothing either.
        planned = [
            (stage.size, stage.cut, stage.epochs, stage.views, stage.learning_rate)
            for stage in stages
        ]
        said = {
            **settings,
            "network": self.network.name,
            "photos": photos.hexdigest(),
            "head": head.hexdigest(),
            "plan": planned,
            "own size": self.size,
            "seed": self.seed,
            "classes": self.classes,
            **self.identity,
        }
        plain: dict[str, Any] = json.loads(json.dumps(said))  # as it will be read back
        return plain

    def class_weights(self) -> tuple[float, ...] | None:
        """`balanced`: N / (classes present * count), 0 for a class without photos."""
        if self.settings.class_weight is None:
            return None
        counts = np.bincount(self.labels["train"], minlength=self.classes)
        weights = len(self.labels["train"]) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return tuple(float(value) for value in np.where(counts, weights, 0))


@dataclass(frozen=True)
class Kept:
    """Weights worth keeping, where they come from, and the file that holds them."""

    best: Best
    weights: Arrays
    file: ArraysFile


@dataclass
class Position:
    """Where a run is. stage, epoch and step count what is over; loss (summed over photos), correct and seen are the epoch's.

    seconds by their scope, of all processes; stage_budget: what the stage may take. stale: epochs since the stage was last at its
    best. ends: how stages ended other than at their last epoch.
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
    looks: int = 0
    ends: list[str] = field(default_factory=list)
    over: bool = False

    def spend(self, seconds: float) -> None:
        """Count seconds."""
        self.seconds += seconds
        self.stage_seconds += seconds
        self.epoch_seconds += seconds

    def next_epoch(self) -> None:
        """The epoch is over."""
        self.epoch += 1
        self.step = self.correct = self.seen = 0
        self.loss = self.epoch_seconds = 0.0

    def next_stage(self, number: int, budget: float | None) -> None:
        """A stage begins, of which nothing is over."""
        self.stage, self.epoch = number, -1
        self.next_epoch()
        self.stage_seconds, self.stage_budget = 0.0, budget
        self.stale, self.plateau, self.looks = 0, Plateau(), 0

    def stopped(self) -> Stopped:
        """How the run ended."""
        if "budget" in self.ends:
            return "budget"
        return "early" if "early" in self.ends else "finished"

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Position:
        """Read `asdict` back."""
        return cls(**{**value, "plateau": Plateau(**value["plateau"])})


class Run:
    """A run under way."""

    def __init__(self, task: Task, stages: tuple[Stage, ...], fingerprint: dict[str, Any]) -> None:
        self.task = task
        self.stages = stages
        self.position = Position()
        self.history: list[Epoch] = []
        self.start = Score(math.inf, 0.0, 1.0)
        self.best: Kept
        """The best of the whole run."""
        self.leader: Kept
        """The best of the stage under way, scored at its size; the next stage starts from it."""
        self.resumed_from: tuple[int, int, int] | None = None
        self.whole = False
        """Whether what is in memory makes a checkpoint: not while a stage is being entered."""
        self.kept = False
        """Whether there is a checkpoint of this run."""
        self.inputs: Inputs
        self.average = Average(0.0)
        self._fingerprint = fingerprint
        self._checkpoints = Checkpoints(task.folder)
        self._saved_at = self._spent_at = time.perf_counter()

    @property
    def stage(self) -> Stage:
        """The stage under way."""
        return self.stages[self.position.stage]

    @property
    def period(self) -> int:
        """Steps between two looks of the average: fewer where an epoch has fewer."""
        return min(PERIOD, self.inputs.steps)

    def spend(self) -> float:
        """Count the time since this was last called, or since the run was opened; these seconds."""
        before, self._spent_at = self._spent_at, time.perf_counter()
        self.position.spend(self._spent_at - before)
        return self._spent_at - before

    def previous(self) -> Saved | None:
        """The checkpoint to go on from; None, after a word about why and with the folder empty, when there is none for this run.

        Raises SettingsError, and leaves the folder as it is, for a run of another framework: that is seldom meant.
        """
        saved = self._checkpoints.newest()
        note = self.task.progress.note
        changed = differences(saved.about["fingerprint"], self._fingerprint) if saved else []
        if saved is not None and saved.damaged:
            note(
                f"damaged, and left aside: {', '.join(saved.damaged)}; the checkpoint before is used"
            )
        if saved is not None and not changed:
            return saved
        began, now = (
            about.get("framework")
            for about in (saved.about["fingerprint"] if saved else {}, self._fingerprint)
        )
        if saved is not None and began != now:
            raise SettingsError(
                f"{self.task.folder} holds a run that was begun with {began}, and {now} cannot go on with it: choose that again "
                "(KERAS_BACKEND chooses Keras' backend), or delete the folder, and the run starts anew"
            )
        if saved is not None:
            note(
                f"{self.task.folder} held another run ({'; '.join(changed)}); this one starts anew"
            )
        elif any(self.task.folder.glob("state-*.json")):
            note(f"the checkpoints in {self.task.folder} are damaged; the run starts anew")
        self._checkpoints.clear()
        return None

    def take_up(self, saved: Saved) -> None:
        """Go on from a checkpoint: the network, the average, the best so far."""
        about, task = saved.about, self.task
        self.position = Position.from_dict(about["position"])
        self.history = [Epoch(**value) for value in about["history"]]
        self.start = Score(**about["start"])
        self.best, self.leader = (
            Kept(
                Best.from_dict(about[what], saved.kept[what]["logits"]),
                {
                    name[7:]: value
                    for name, value in saved.kept[what].items()
                    if name.startswith("weight/")
                },
                saved.files[what],
            )
            for what in ("best", "leader")
        )
        position = self.position
        self.resumed_from = (position.stage + 1, position.epoch, position.step)
        task.network.attach(task.head, task.settings.regularisation, task.features)
        self._begin()
        state = {
            name[8:]: value for name, value in saved.state.items() if name.startswith("network/")
        }
        task.network.restore(state)
        average = {
            name[8:]: value for name, value in saved.state.items() if name.startswith("average/")
        }
        self.average.restore(position.looks, average)
        self.whole = self.kept = True

    def enter(self, number: int, budget: float | None, start: Best | None = None) -> None:
        """Make ready for a stage, from the best weights of the one before; the first one's are the network's, scored as `start`."""
        self.whole = False
        network = self.task.network
        if start is None:
            network.load_weights(self.leader.weights)
        one = start is not None or self.leader.file == self.best.file
        self.position.next_stage(number, budget)
        self._begin()
        # Taken anew, because more layers train now: what the stage changes, these weights must be able to put back.
        self.leader = self.keep(start or self.leader.best, network.weights())
        if one:
            self.best = self.leader
            return
        network.load_weights(self.best.weights)
        self.best = self.keep(self.best.best, network.weights())
        network.load_weights(self.leader.weights)

    def _begin(self) -> None:
        task, number = self.task, self.position.stage
        seed = int(np.random.SeedSequence([task.seed, number]).generate_state(1)[0] >> 1)
        task.network.begin(self.stage.training(task.settings, seed, task.class_weights()))
        self.close()
        self.inputs = Inputs(
            task.network,
            self.stage,
            number,
            task.parts,
            folder=task.folder,
            seed=task.seed,
            augmentation=task.settings.augmentation if self.stage.augmented else None,
            batch_size=task.settings.batch_size,
            devices=task.settings.devices,
        )
        self.average = Average(
            task.settings.ema ** (self.period / PERIOD) if task.settings.ema else 0.0
        )

    def close(self) -> None:
        """Close the files of the stage under way."""
        if hasattr(self, "inputs"):
            self.inputs.close()

    def keep(self, best: Best, weights: Arrays) -> Kept:
        """Write weights worth keeping; the next checkpoint names their file. Raises StorageError."""
        copied = {name: value.copy() for name, value in weights.items()}
        arrays = {
            **{f"weight/{name}": value for name, value in copied.items()},
            "logits": best.logits,
        }
        return Kept(best, copied, self._checkpoints.write_best(arrays))

    def breakdown(self, what: str) -> TrainingError:
        """Return the error that says what happened, where in the run, and what to do."""
        position, settings = self.position, self.task.settings
        rate = settings.learning_rate
        cure = f"try a learning rate of {rate / 5:.2g} instead of {rate:.2g}"
        if settings.mixed_precision:
            cure += ", or no mixed precision"
        return TrainingError(
            f"{what} in stage {position.stage + 1} of {len(self.stages)} ({self.stage.size} px), "
            f"epoch {position.epoch + 1}, step {position.step}: {cure}; the state before it stays "
            f"in {self.task.folder}"
        )

    def check_finite(self, arrays: Mapping[str, NDArray[Any]], what: str) -> None:
        """Raise TrainingError when weights or optimiser state hold NaN or infinity."""
        damaged = non_finite(arrays)
        if damaged:
            raise self.breakdown(f"{what} became NaN or infinite ({listed(damaged)})")

    def save(self) -> None:
        """Write a checkpoint. Raises StorageError, TrainingError when the state is not finite."""
        self.position.looks = self.average.looks
        network = self.task.network.state()
        self.check_finite(network, STATE)
        about = {
            "fingerprint": self._fingerprint,
            "position": asdict(self.position),
            "history": [epoch.as_dict() for epoch in self.history],
            "start": asdict(self.start),
            "best": self.best.best.as_dict(),
            "leader": self.leader.best.as_dict(),
        }
        state = {f"network/{name}": value for name, value in network.items()}
        state |= {f"average/{name}": value for name, value in self.average.weights().items()}
        self._checkpoints.save(about, state, {"best": self.best.file, "leader": self.leader.file})
        self.kept, self._saved_at = True, time.perf_counter()

    def save_when_due(self) -> None:
        """Within a long epoch, now and then."""
        if time.perf_counter() - self._saved_at >= self.task.settings.checkpoint_seconds:
            self.save()
