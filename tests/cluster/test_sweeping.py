"""A sweep on Ray Tune has the settings, scores and recommendation of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.cli import POCKET, run
from support.experiment_data import blobs
from tailorbird.cluster.sweeping import TuneFitter
from tailorbird.errors import ClusterError
from tailorbird.experiments import Standing, SweepResult, sweep
from tailorbird.experiments.cross_validation import Job, partitions

FAST: dict[str, Any] = {"learning_rate": [1e-3, 1e-2], "inner": [(), (8,)], "epochs": [3]}


def plain(result: SweepResult) -> dict[str, Any]:
    """Return a result as its table and report show it, without durations."""

    found: dict[str, Any] = without_seconds(result.as_dict())
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k}
    return [without_seconds(one) for one in value] if isinstance(value, list | tuple) else value


def test_the_same_settings_scores_and_recommendation(cluster: Any) -> None:
    here = sweep(blobs((20, 20, 20)), FAST, folds=2, seeds=1)
    seen: list[Standing] = []
    there = sweep(
        blobs((20, 20, 20)), FAST, folds=2, seeds=1, on_fit=seen.append, fitter=TuneFitter
    )
    assert plain(there) == plain(here)
    assert there.command == here.command
    assert [standing.done for standing in seen] == list(range(1, there.total + 1))
    assert len(there.default_fits) == 2


def test_leaving_the_loop_ends_the_trials_and_a_lost_sweep_is_an_error(cluster: Any) -> None:
    data = blobs((20, 20))
    fitter = TuneFitter(data, partitions(data.labels, data.groups, folds=2, seeds=1, seed=0))
    settings = sweep(data, FAST, folds=2, seeds=1).chosen.settings
    fits = fitter.run([Job(0, settings, 0), Job(0, settings, 1)])
    assert next(fits).partition == 0
    fits.close()
    wrong = fitter.run([Job(0, settings, 7)])
    with pytest.raises(ClusterError, match="fits on the Ray cluster failed"):
        list(wrong)


@pytest.mark.slow
def test_the_command_prints_what_one_process_prints(shapes: Path) -> None:
    options = ("sweep", shapes, *POCKET, "--learning-rate", "0.001,0.01", "--inner", "0",
               "--folds", "2", "--seeds", "1", "--json")  # fmt: skip
    here = json.loads(run(*options).stdout)
    there = json.loads(run(*options, "--ray").stdout)
    assert without_seconds(there) == without_seconds(here)
