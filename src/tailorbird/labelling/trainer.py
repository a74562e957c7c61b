"""Train on the labels in the background, as `tailorbird train` would."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tailorbird.errors import SettingsError, TailorbirdError
from tailorbird.inference import chosen
from tailorbird.labelling.session import Labelling
from tailorbird.training import TrainResult, TrainSettings, train


@dataclass(frozen=True)
class TrainingState:
    """How far a training is.

    state: `idle` before the first one. stage, done, total: of the one that runs. message: its
    result in words, or why it failed.
    """

    state: Literal["idle", "running", "done", "failed"] = "idle"
    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""


class _Closed(Exception):
    """The page is being closed."""


class Trainer:
    """Runs one training at a time; a Progress that remembers how far it is."""

    def __init__(self, labelling: Labelling) -> None:
        self._labelling = labelling
        self._choice = chosen()  # a thread of its own does not see `use_device`
        self._state = TrainingState()
        self._result: TrainResult | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> TrainingState:
        """How far the training is."""
        return self._state

    @property
    def report(self) -> Path | None:
        """The report of the last finished training."""
        return self._result.report if self._result is not None else None

    def start(self) -> None:
        """Write the manifest and begin to train on it.

        Raises:
            SettingsError: a training runs already, or there are too few labels.
            StorageError: the manifest cannot be written.
        """
        with self._lock:
            if self._state.state == "running":
                raise SettingsError("a training is running already; wait until it has finished")
            if not self._labelling.can_train:
                raise SettingsError(
                    "there are too few labels to train on; label at least three photos of each of "
                    "two classes"
                )
            self._labelling.flush()
            self._state = TrainingState("running", "start")
            self._thread = threading.Thread(target=self._work, name="training", daemon=True)
            self._thread.start()

    def wait(self, seconds: float | None = None) -> TrainingState:
        """Wait for the end of the training and return its state."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._state

    def close(self) -> None:
        """Stop a training that runs; the model file is then as it was before."""
        self._closed = True
        self.wait()

    def _work(self) -> None:
        labelling = self._labelling
        settings = TrainSettings(
            backbone=labelling.settings.backbone,
            mirror=labelling.settings.mirror,
            seed=labelling.settings.seed,
            device=self._choice.name,
            half=self._choice.half,
        )
        try:
            result = train(labelling.manifest, labelling.model, settings, progress=self)
        except TailorbirdError as error:
            self._state = TrainingState("failed", message=str(error))
        except _Closed:
            self._state = TrainingState("failed", message="the page was closed")
        except Exception as error:  # the page says so, rather than waiting for ever
            self._state = TrainingState("failed", message=f"the training failed: {error!r}")
        else:
            self._result = result
            self._state = TrainingState("done", message=f"Test: {result.test.headline()}")

    def stage(self, name: str, total: int | None = None) -> None:
        """Remember the stage."""
        self._check()
        self._state = TrainingState("running", name, 0, total or 0)

    def advance(self, done: int, total: int) -> None:
        """Remember the step."""
        self._check()
        self._state = replace(self._state, done=done, total=total)

    def note(self, text: str) -> None:
        """Ignore the sentence."""
        self._check()

    def metrics(self, **values: float) -> None:
        """Ignore the values."""
        self._check()

    def _check(self) -> None:
        if self._closed:
            raise _Closed
