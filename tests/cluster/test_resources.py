"""Cores and GPUs of a cluster are shared equally among workers."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird.cluster.resources import place
from tailorbird.errors import SettingsError


class Cluster:
    """Stands for `ray` where only the nodes matter."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [gone, *({"Alive": True, "Resources": node} for node in self._nodes)]


@pytest.mark.parametrize(
    ("nodes", "workers", "cores", "gpu"),
    [
        ([{"CPU": 8}], 1, 8, False),
        ([{"CPU": 8}], 3, 2, False),
        ([{"CPU": 8}, {"CPU": 4}], 3, 4, False),
        ([{"CPU": 8}, {"CPU": 4}], 12, 1, False),
        ([{"CPU": 2}, {"CPU": 16, "GPU": 4}], 4, 4, True),
        ([{"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}], 2, 2, True),
    ],
)
def test_workers_share_cores_and_gpus(
    nodes: list[dict[str, float]], workers: int, cores: int, gpu: bool
) -> None:
    found = place(Cluster(*nodes), workers)
    assert (found.workers, found.cores, found.gpu) == (workers, cores, gpu)


def test_more_workers_than_gpus_are_refused() -> None:
    with pytest.raises(SettingsError, match="workers is 3, but the Ray cluster has 2 GPUs"):
        place(Cluster({"CPU": 64, "GPU": 2}), 3)
