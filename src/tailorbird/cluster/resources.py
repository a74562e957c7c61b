"""Share the cores and GPUs of a cluster among workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tailorbird.errors import SettingsError
from tailorbird.inference import DeviceChoice
from tailorbird.inference.choosing import AUTO


@dataclass(frozen=True)
class Place:
    """How many workers a cluster has room for, and what each gets: cores, and whether a GPU."""

    workers: int
    cores: int
    gpu: bool


def place(ray: Any, workers: int) -> Place:
    """Return what each of several workers gets: a GPU if there are any, and equally many cores.

    Raises SettingsError for more workers than the cluster has room for.
    """
    nodes = _nodes(ray)
    gpu = any(count for _, count in nodes)
    most, unit = _room(nodes, 1), "GPU" if gpu else "processor core"
    if not 1 <= workers <= most:
        raise SettingsError(
            f"workers is {workers}, but the Ray cluster has {most} {unit}{'s' * (most != 1)}; "
            f"use 1 to {most}"
        )
    shares = range(max(cores for cores, _ in nodes), 0, -1)
    share = next(share for share in shares if _room(nodes, share) >= workers)
    return Place(workers, share, gpu)


def place_all(ray: Any, device: DeviceChoice) -> Place:
    """Return a worker for each GPU, or for each core where the device asked for is another one.

    Raises SettingsError for a CUDA device in a cluster without GPUs.
    """
    nodes = _nodes(ray)
    gpu, cuda = any(count for _, count in nodes), device.name.startswith("cuda")
    if cuda and not gpu:
        raise SettingsError(
            f"device is {device.name!r}, but the Ray cluster has no GPU; use cpu or auto"
        )
    if gpu and (cuda or device.name == AUTO):
        return place(ray, _room(nodes, 1))
    return Place(max(1, sum(cores for cores, _ in nodes)), 1, gpu=False)


def default_workers(ray: Any) -> int:
    """Return one for each GPU of the cluster or, if it has none, for each machine."""
    nodes = _nodes(ray)
    return sum(gpus for _, gpus in nodes) or len(nodes)


def _room(nodes: list[tuple[int, int]], share: int) -> int:
    """Return how many workers with so many cores fit, each on one machine and with its own GPU."""
    if any(gpus for _, gpus in nodes):
        return sum(min(cores // share, gpus) for cores, gpus in nodes)
    return sum(cores // share for cores, _ in nodes)


def _nodes(ray: Any) -> list[tuple[int, int]]:
    """Return the cores and GPUs of each machine of the cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive]
