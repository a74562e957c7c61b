"""Run the fits of a sweep on a cluster: each is a trial of Ray Tune.

The sweep itself, which decides what is tried next, is `experiments.sweep`.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tailorbird import experiments
from tailorbird.cluster.connection import connected
from tailorbird.cluster.running import RaySettings
from tailorbird.errors import ClusterError
from tailorbird.experiments import SweepResult
from tailorbird.experiments.cross_validation import FitScore, Fitter, Job, Partition, recipe_score
from tailorbird.experiments.data import ExperimentData

PLAIN: Final = "plain"
"""In place of a job: score plain `train`."""

Trial = Job | tuple[str, int]

_OPENED: dict[str, Fitter] = {}
"""The fitter of the sweep that this worker works for, by the address of its data."""


def sweep(
    photos: str | Path | ExperimentData,
    alternatives: Mapping[str, Sequence[Any]] | None,
    where: RaySettings,
    **options: Any,
) -> SweepResult:
    """Compare settings as `experiments.sweep` does, with the fits on a cluster.

    Args:
        photos: as for `experiments.sweep`, read by this process.
        alternatives: as for `experiments.sweep`.
        where: the cluster and the number of fits at the same time; None: one for each core.
        options: as for `experiments.sweep`.

    Raises what `experiments.sweep` raises; ClusterError; MissingExtra.
    """
    assert where.address is not None
    with connected(where.address):
        return experiments.sweep(
            photos, alternatives, fitter=TuneFitter, workers=where.workers, **options
        )


class TuneFitter(Fitter):
    """Runs fits as trials of Ray Tune, each on one core; the scores are those of `Fitter`."""

    def __init__(
        self,
        data: ExperimentData,
        partitions: Sequence[Partition],
        *,
        workers: int | None = None,
    ) -> None:
        """Put the data in the object store of the cluster that this process is connected to.

        workers: trials at the same time; None: one per core of the cluster.
        """
        import ray

        super().__init__(data, partitions, workers=1)
        self._trials = workers
        self._stored = ray.put((data, list(partitions)))

    def run(self, jobs: Sequence[Job]) -> Generator[FitScore, None, None]:
        """Yield the score of each job, in order; leaving the loop ends the trials.

        Raises ClusterError when a trial fails for a reason that is not in the fit.
        """
        yield from self._tuned(list(jobs))

    def recipe(self) -> Iterator[FitScore]:
        """Yield the score of plain `train` on each partition, in order."""
        yield from self._tuned([(PLAIN, number) for number in range(len(self.partitions))])

    def _tuned(self, trials: list[Trial]) -> Generator[FitScore, None, None]:
        outcomes: queue.SimpleQueue[tuple[int, FitScore] | None] = queue.SimpleQueue()
        stop = _stopper()
        problems: list[BaseException] = []

        def tune() -> None:
            try:
                with tempfile.TemporaryDirectory(prefix="tailorbird-") as folder:
                    _tuner(self._stored, trials, self._trials, stop, outcomes, folder).fit()
            except BaseException as error:  # raised in the main thread
                problems.append(error)
            finally:
                outcomes.put(None)

        # In the main thread Ray would handle Ctrl-C itself.
        tuning = threading.Thread(target=tune, name="tailorbird-ray", daemon=True)
        tuning.start()
        early: dict[int, FitScore] = {}
        try:
            for number in range(len(trials)):
                while number not in early:
                    found = outcomes.get()
                    if found is None:
                        reason = problems[0] if problems else "see Ray's logs"
                        raise ClusterError(f"fits on the Ray cluster failed: {reason}")
                    early[found[0]] = found[1]
                yield early.pop(number)
        finally:
            stop.wanted = True
            tuning.join()


def _stopper() -> Any:
    """Return what ends the trials of Ray Tune once its `wanted` is set."""
    import ray.tune

    class Stop(ray.tune.Stopper):  # type: ignore[misc]
        wanted = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.wanted

    return Stop()


def _listener(outcomes: Any) -> Any:
    """Return what puts (number, score) of each finished trial of Ray Tune into a queue."""
    import ray.tune

    class Listener(ray.tune.Callback):  # type: ignore[misc]
        def __init__(self, outcomes: Any) -> None:
            self._outcomes = outcomes

        def __getstate__(self) -> dict[str, Any]:
            """Return nothing: Ray keeps a copy on disk, which is never read."""
            return {}

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            result = trial.last_result
            if "score" in result:
                self._outcomes.put((result["number"], FitScore(*result["score"])))

    return Listener(outcomes)


def _tuner(
    stored: Any, trials: list[Trial], most: int | None, stop: Any, outcomes: Any, folder: str
) -> Any:
    """Return Ray's tuner of some trials, which puts (number, score) into `outcomes`."""
    import ray.tune

    fit = ray.tune.with_parameters(fit_one, stored=[stored], trials=trials)
    return ray.tune.Tuner(
        ray.tune.with_resources(fit, {"cpu": 1}),
        param_space={"number": ray.tune.grid_search(list(range(len(trials))))},
        tune_config=ray.tune.TuneConfig(
            reuse_actors=True, max_concurrent_trials=most, trial_dirname_creator=str
        ),
        run_config=ray.tune.RunConfig(
            storage_path=folder, stop=stop, callbacks=[_listener(outcomes)], verbose=0
        ),
    )


def fit_one(config: dict[str, Any], stored: list[Any], trials: list[Trial]) -> dict[str, Any]:
    """Return the score of one trial, in a worker of Ray Tune."""
    import ray

    (reference,) = stored
    key = reference.hex()
    if key not in _OPENED:
        data, partitions = ray.get(reference)
        _OPENED.clear()
        _OPENED[key] = Fitter(data, partitions, workers=1)
    fitter, number = _OPENED[key], config["number"]
    trial = trials[number]
    if isinstance(trial, Job):
        score = fitter.one(trial)
    else:
        score = recipe_score(fitter.data, fitter.partitions, trial[1])
    plain = (
        score.setting,
        score.partition,
        score.accuracy,
        score.log_loss,
        score.best_epoch,
        score.seconds,
        score.failure,
    )
    return {"number": number, "score": plain}
