"""Train with the photos read and embedded on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from tailorbird.cluster.connection import connected
from tailorbird.cluster.embedding import ClusterEmbedding
from tailorbird.cluster.running import RaySettings, cores_for
from tailorbird.inference import chosen
from tailorbird.training import TrainSettings
from tailorbird.training.run import OpensElsewhere


@contextlib.contextmanager
def embedding_on(where: RaySettings, settings: TrainSettings) -> Iterator[OpensElsewhere | None]:
    """Yield what reads and embeds the photos of a training; None: this process does.

    Args:
        where: the cluster.
        settings: of the training; a network that trains from scratch embeds nothing.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    if where.address is None or settings.from_scratch:
        yield None
        return
    with connected(where.address, cores=cores_for(where.workers)) as ray:
        device = chosen(settings.device, half=settings.half)
        yield partial(ClusterEmbedding, ray, device=device, workers=where.workers)
