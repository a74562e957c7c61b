"""`tailorbird features`: write the features of photos as Parquet."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli.options import (
    DEFAULT_BACKBONE,
    BackboneOption,
    FollowLinksOption,
    JsonOption,
    MirrorOption,
    PartitionRowsOption,
    RayOption,
    SourcesArgument,
    WorkersOption,
    on_device,
)
from tailorbird.cli.partitions import run_job


@on_device
def features(
    photos: SourcesArgument,
    answers: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="Folder for the Parquet files, here or in an object store."
        ),
    ],
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    follow_links: FollowLinksOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    partition_rows: PartitionRowsOption = 1000,
    json: JsonOption = False,
) -> None:
    """Write the features of photos as Parquet.

    Each partition of the photos becomes one file with the columns path, label, split, features and
    error. A run that was interrupted is resumed at the partitions that are missing. Exits 3 if any
    photo could not be used. Needs the extra `ray`, which brings PyArrow.
    """
    from tailorbird.cluster.partitions import Job
    from tailorbird.cluster.running import RaySettings
    from tailorbird.cluster.work import Features

    where = RaySettings(ray, workers)
    job = Job(tuple(photos), answers, partition_rows, follow_links)
    run_job(job, Features.of(backbone, mirror=mirror), where, json=json)
