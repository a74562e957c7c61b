"""Compute the partitions of a job, here or on a Ray cluster.

On a cluster, Ray Data gives each partition to a worker that is free, starts workers that died
again, and gives the partition of a dead worker to another one. Through Ray travel only the task and
a few numbers about each partition: workers read photos and write answers themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tailorbird import errors, parallel
from tailorbird.cluster.connection import check_address, connected
from tailorbird.cluster.partitions import Job, Plan, failures_in, photos_in, plan, write_part
from tailorbird.cluster.resources import place_all
from tailorbird.cluster.storage import is_remote
from tailorbird.cluster.work import Task, Worker
from tailorbird.errors import ClusterError, TailorbirdError
from tailorbird.inference import DeviceChoice
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import Problems

THREADS: Final = "TAILORBIRD_THREADS"
_EXCEPTION: Final = re.compile(r"^[\w.]+(?:Error|Exception|Interrupt): .*$", re.MULTILINE)


@dataclass(frozen=True)
class RaySettings:
    """Where to work.

    Attributes:
        address: of the cluster, as for `connection.connected`; None: in this process, without Ray.
        workers: number of workers; None: one for each core of the cluster or, to fine-tune, for
            each GPU, else for each machine.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            if self.address is not None:
                address = self.address
                problems.attempt(lambda: check_address(address))
            if self.workers is not None:
                problems.whole("workers", self.workers, 1)
                problems.need(
                    self.address is not None,
                    "workers are of a cluster; add --ray, or set TAILORBIRD_THREADS for this "
                    "process",
                )


@dataclass(frozen=True)
class Done:
    """A finished job.

    Attributes:
        output: the folder of the answers.
        photos: all photos of the job.
        failures: photos that could not be used; their rows say why.
        partitions: files in the folder.
        resumed: partitions that were there before.
        workers: number of workers; 1 without a cluster.
        seconds: duration, with the start of the cluster.
    """

    output: str
    photos: int
    failures: int
    partitions: int
    resumed: int
    workers: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return what `predict --json` and `features --json` print."""
        return {**vars(self), "seconds": round(self.seconds, 3)}


def run(
    job: Job, task: Task, where: RaySettings | None = None, *, progress: Progress | None = None
) -> Done:
    """Compute the partitions that are missing.

    Args:
        job: photos and the folder of the answers.
        task: what to compute.
        where: the cluster; None: this process.
        progress: receives the stages `list` and `predict` or `features`, with the photos done.

    Raises:
        DatasetError: a source has no photos.
        SettingsError: the folder was begun with other photos or settings.
        StorageError: a file cannot be read or written.
        ClusterError: the cluster cannot be used, or a worker failed in a way that is no error of
            the input.
    """
    where, progress = where or RaySettings(), progress or NoProgress()
    started = time.perf_counter()
    progress.stage("list")
    about = task.about()
    todo = plan(job, about)
    progress.stage(str(about["holds"]), todo.photos)
    failures = failures_in(job.output, sorted(todo.done))
    photos = sum(_size(job, todo, number) for number in todo.done)
    progress.advance(photos, todo.photos)
    workers = 1
    if todo.missing:
        missing = todo.missing
        parts = (
            _here(job, task, missing)
            if where.address is None
            else _on_cluster(job, task, missing, where.address, where.workers)
        )
        for part in parts:
            failures += part["failures"]
            photos += part["photos"]
            workers = part["workers"]
            progress.advance(photos, todo.photos)
    return Done(
        output=job.output,
        photos=todo.photos,
        failures=failures,
        partitions=todo.partitions,
        resumed=len(todo.done),
        workers=workers,
        seconds=time.perf_counter() - started,
    )


def _size(job: Job, todo: Plan, number: int) -> int:
    return min(job.rows, todo.photos - number * job.rows)


def _compute(worker: Worker, output: str, number: int) -> dict[str, int]:
    """Compute and write one partition."""
    table = worker.table(photos_in(output, number))
    write_part(output, number, table)
    failures = table.num_rows - table.column("error").null_count
    return {"photos": table.num_rows, "failures": failures, "process": os.getpid()}


def _here(job: Job, task: Task, missing: Sequence[int]) -> Iterator[dict[str, int]]:
    worker = task.open(job.output)
    for number in missing:
        yield {**_compute(worker, job.output, number), "workers": 1}


class PartitionWorker:
    """A worker process of Ray: opens the task once, and computes partitions."""

    def __init__(self, task: Task, output: str, version: str) -> None:
        self._task = task
        self._output = output
        self._version = version
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Compute the partition whose number is in `batch["id"]`.

        Errors raised on purpose are returned: of an exception, Ray passes on the text alone.
        """
        row: dict[str, Any] = {"photos": 0, "failures": 0, "process": os.getpid()}
        return reported(row, lambda: self._row(int(batch["id"][0])))

    def _row(self, number: int) -> dict[str, int]:
        if self._worker is None:
            check_version(self._version)
            self._worker = self._task.open(self._output)
        return _compute(self._worker, self._output, number)


def reported(row: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch of one row: what `compute` returns, or `row` with the error it raised."""
    try:
        row = {**row, **compute(), "error": "", "message": ""}
    except TailorbirdError as error:
        row = {**row, "error": type(error).__name__, "message": str(error)}
    return {name: [value] for name, value in row.items()}


def check_version(version: str) -> None:
    """Raise ClusterError unless this worker has the version of the command."""
    import tailorbird

    if tailorbird.__version__ != version:
        raise ClusterError(
            f"a worker has tailorbird {tailorbird.__version__}, the command {version}; install "
            "the same version on every machine of the cluster"
        )


def _on_cluster(
    job: Job, task: Task, missing: Sequence[int], address: str, workers: int | None
) -> Iterator[dict[str, int]]:
    """Compute partitions on a cluster; yield what is known of each as it is done."""
    import tailorbird

    task = task.keep(job.output)
    with connected(address, cores=cores_for(workers)) as ray:
        arguments = (task, _absolute(job.output), tailorbird.__version__)
        items = [{"id": number} for number in missing]
        spread = Spread(ray, task.device, workers)
        for row in spread.over(PartitionWorker, arguments, items):
            yield {**row, "workers": min(spread.share.workers, len(missing))}


def cores_for(workers: int | None) -> int | None:
    """Return the cores of a local cluster with so many workers."""
    return None if workers is None else max(workers, parallel.cores())


class Spread:
    """Gives items of work to the workers of a cluster."""

    def __init__(self, ray: Any, device: DeviceChoice, workers: int | None) -> None:
        """Prepare for at most so many workers; None: as many as the cluster has room for."""
        found = place_all(ray, device)
        self.share = replace(found, workers=workers or found.workers)

    def over(
        self, worker: type, arguments: Sequence[Any], items: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the row that a worker returns for each item, in any order.

        Args:
            worker: a class whose objects are called with a batch of one item, and return a batch
                of one row with the columns `error` and `message`; see `raised`.
            arguments: of its constructor.
            items: values by name.

        Raises:
            TailorbirdError: what a worker reported; ClusterError for an exception of Ray.
        """
        data = _quiet_data()
        rows = data.from_items(list(items), override_num_blocks=len(items)).map_batches(
            worker,
            batch_size=1,
            fn_constructor_args=tuple(arguments),
            compute=data.ActorPoolStrategy(size=min(self.share.workers, len(items))),
            num_cpus=self.share.cores,
            num_gpus=int(self.share.gpu),
            runtime_env={"env_vars": {THREADS: str(self.share.cores)}},
        )
        try:
            # Ray prints what it retries to standard output, which belongs to the answers.
            with contextlib.redirect_stdout(sys.stderr):
                for row in rows.iter_rows():
                    if (error := raised(row)) is not None:
                        raise error
                    yield row
        except TailorbirdError:
            raise
        except Exception as error:  # the exceptions of its many parts share no base class
            raise unexpected(error) from error


def _absolute(output: str) -> str:
    return output if is_remote(output) else str(Path(output).absolute())


def _quiet_data() -> Any:
    """Return the module `ray.data`, which then writes to its log files only."""
    from ray import data

    context = data.DataContext.get_current()
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return data


def raised(row: Mapping[str, Any]) -> TailorbirdError | None:
    """Return the error that a worker reported in a row, if any."""
    kind = getattr(errors, row["error"], ClusterError) if row["error"] else None
    return None if kind is None else kind(row["message"])


def unexpected(error: BaseException) -> ClusterError:
    """Return a ClusterError about an exception of Ray, or of a worker, that is no TailorbirdError.

    Of the traceback that Ray puts into its text, the first line about an exception is kept.
    """
    text = str(error).strip() or type(error).__name__
    found = _EXCEPTION.search(text)
    line = found[0] if found else text.splitlines()[0]
    return ClusterError(f"work on the Ray cluster failed: {line.strip()[:300]}")
