"""Train on a cluster: its workers embed the photos, and fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from tailorbird import training
from tailorbird.cluster import finetuning
from tailorbird.cluster.connection import connected
from tailorbird.cluster.embedding import ClusterEmbedding
from tailorbird.cluster.resources import default_workers
from tailorbird.cluster.running import RaySettings, cores_for
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.inference import chosen
from tailorbird.progress import Progress
from tailorbird.training import TrainSettings
from tailorbird.validation import Problems

T = TypeVar("T")


def train(
    photos: str | Path,
    output: str | Path,
    settings: TrainSettings,
    where: RaySettings,
    *,
    progress: Progress,
    run: Callable[..., T] = training.train,  # type: ignore[assignment]
) -> T:
    """Train as `training.train` does, with photos embedded and networks fine-tuned on a cluster.

    Args:
        photos: as for `training.train`; every machine must find them under the same path.
        output: model file; with several machines, on a disk that they share.
        settings: as for `training.train`.
        where: the cluster and the number of workers; None: one for each core or GPU that embeds,
            and one for each GPU that fine-tunes or, in a cluster without, for each machine.
        progress: as for `training.train`.
        run: what trains: `training.train`, or one that takes the same.

    Raises what `run` raises; SettingsError for what a cluster cannot do, or more workers than it
    has room for; ClusterError; MissingExtra.
    """
    check(settings)
    assert where.address is not None
    tuned = settings.finetune is not None  # by workers that each need a core of their own
    with connected(where.address, cores=None if tuned else cores_for(where.workers)) as ray:
        host = None
        if settings.finetune is not None:
            workers = where.workers or default_workers(ray)
            host = finetuning.host(ray, workers)
            settings = replace(settings, finetune=replace(settings.finetune, devices=workers))
        device = chosen(settings.device, half=settings.half)
        elsewhere = partial(ClusterEmbedding, ray, device=device, workers=where.workers)
        return run(photos, output, settings, progress=progress, elsewhere=elsewhere, host=host)


def check(settings: TrainSettings) -> None:
    """Raise SettingsError for what only one machine can do."""
    with Problems() as problems:
        problems.need(
            not settings.from_scratch and settings.engine != "keras",
            "only PyTorch trains on a Ray cluster; use a backbone with --engine timm, or leave "
            "--ray out",
        )
        finetune = settings.finetune or FinetuneSettings()
        problems.need(
            finetune.devices == 1,
            f"devices is {finetune.devices}, but on a Ray cluster it is the number of workers; "
            "give --workers instead of --devices",
        )
