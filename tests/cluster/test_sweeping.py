"""A sweep on Ray Tune has the settings, scores and recommendation of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.experiment_data import blobs
from tailorbird.cluster.connection import connected
from tailorbird.cluster.sweeping import TuneFitter
from tailorbird.errors import ClusterError
from tailorbird.experiments import Standing, SweepResult, sweep
from tailorbird.experiments.cross_validation import Job, partitions

FAST: dict[str, Any] = {"learning_rate": [1e-3, 1e-2], "inner": [(), (8,)], "epochs": [3]}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(cores=2) as module:
        yield module


def plain(result: SweepResult) -> dict[str, Any]:
    """Return a result as its table and report show it, without durations."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if "seconds" not in k}
        return [strip(one) for one in value] if isinstance(value, list | tuple) else value

    found: dict[str, Any] = strip(result.as_dict())
    return found


def test_the_same_settings_scores_and_recommendation(ray: Any) -> None:
    here = sweep(blobs((20, 20, 20)), FAST, folds=2, seeds=1)
    seen: list[Standing] = []
    there = sweep(
        blobs((20, 20, 20)), FAST, folds=2, seeds=1, on_fit=seen.append, fitter=TuneFitter
    )
    assert plain(there) == plain(here)
    assert there.command == here.command
    assert [standing.done for standing in seen] == list(range(1, there.total + 1))
    assert len(there.default_fits) == 2


def test_leaving_the_loop_ends_the_trials_and_a_lost_sweep_is_an_error(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blobs((20, 20))
    fitter = TuneFitter(data, partitions(data.labels, data.groups, folds=2, seeds=1, seed=0))
    settings = sweep(data, FAST, folds=2, seeds=1).chosen.settings
    fits = fitter.run([Job(0, settings, 0), Job(0, settings, 1)])
    assert next(fits).partition == 0
    fits.close()
    wrong = fitter.run([Job(0, settings, 7)])
    with pytest.raises(ClusterError, match="fits on the Ray cluster failed"):
        list(wrong)
