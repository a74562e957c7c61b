"""Cores and GPUs of a cluster are shared equally among workers."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird.cluster.resources import place, place_all
from tailorbird.errors import SettingsError
from tailorbird.inference import DeviceChoice


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
        ([{"CPU": 16}, {"CPU": 8, "GPU": 1}], 1, 8, True),
        ([{"CPU": 4}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], 2, 8, True),
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


@pytest.mark.parametrize(
    ("device", "nodes", "workers", "cores", "gpu"),
    [
        ("auto", [{"CPU": 16, "GPU": 4, "memory": 1e9}], 4, 4, True),
        ("cuda", [{"CPU": 16, "GPU": 4}], 4, 4, True),
        ("cpu", [{"CPU": 16, "GPU": 4}], 16, 1, False),
        ("auto", [{"CPU": 3}], 3, 1, False),
        ("auto", [{"CPU": 1, "GPU": 2}], 1, 1, True),
        ("auto", [{"CPU": 4}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], 2, 8, True),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_core(
    device: str, nodes: list[dict[str, float]], workers: int, cores: int, gpu: bool
) -> None:
    found = place_all(Cluster(*nodes), DeviceChoice(device))
    assert (found.workers, found.cores, found.gpu) == (workers, cores, gpu)


def test_a_cuda_device_without_a_gpu_is_refused() -> None:
    with pytest.raises(SettingsError, match="device is 'cuda', but the Ray cluster has no GPU"):
        place_all(Cluster({"CPU": 8}), DeviceChoice("cuda"))
