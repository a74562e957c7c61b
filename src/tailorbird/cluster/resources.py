"""Share the cores and GPUs of a cluster among workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tailorbird.errors import SettingsError


@dataclass(frozen=True)
class Place:
    """What each worker of a cluster gets: cores, and whether a GPU."""

    workers: int
    cores: int
    gpu: bool


def place(ray: Any, workers: int) -> Place:
    """Return what each of several workers gets: a GPU if there are any, and equally many cores.

    Raises SettingsError for more workers than the cluster has room for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = [int(node.get("CPU", 0)) for node in nodes]
    most, unit = (gpus, "GPU") if gpus else (sum(cores), "processor core")
    if not 1 <= workers <= most:
        raise SettingsError(
            f"workers is {workers}, but the Ray cluster has {most} {unit}{'s' * (most != 1)}; "
            f"use 1 to {most}"
        )
    shares = range(max(cores), 0, -1)
    share = next((n for n in shares if sum(count // n for count in cores) >= workers), 1)
    return Place(workers, share, gpus > 0)


def default_workers(ray: Any) -> int:
    """Return one for each GPU of the cluster or, if it has none, for each machine."""
    return gpus(ray) or sum(bool(node["Alive"]) for node in ray.nodes())


def gpus(ray: Any) -> int:
    """Return the number of GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))
