"""Opportunistic batching: whatever waits is run together, at once, with no timer.

A photo is decoded in one bounded pool of threads and classified in another. Runners share the waiting photos out, up to `batch` each; while
they are busy others gather, so batches grow with the load and an idle service answers one photo immediately. The session
uses one thread for a run and is called from as many runners as the process has cores, which for many photos is faster than one run on all cores.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.images import Pixels
from tailorbird.service.served import Served
from tailorbird.service.web.problems import Problem, overloaded, too_late

T = TypeVar("T")


class Meter(Protocol):
    """Told how long things take."""

    def decoded(self, seconds: float) -> None:
        """One photo was decoded."""

    def ran(self, photos: int, seconds: float) -> None:
        """One batch was classified."""

    def waits(self, photos: int) -> None:
        """So many photos are accepted and not yet answered."""

    def dropped(self, photos: int) -> None:
        """Photos left the queue unanswered: their request had expired or its client had gone."""


@dataclass(frozen=True)
class Answer:
    """Of one photo: float32 (C,) probabilities and, if asked for, float32 (T, h, w) heat maps."""

    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Job:
    """One decoded photo that waits for a run."""

    served: Served
    pixels: Pixels
    heatmaps: bool
    deadline: float
    future: asyncio.Future[Answer]


class Batcher:
    """Decodes and classifies with bounded queues. Its methods belong to the event loop's thread."""

    def __init__(self, *, threads: int, queue: int, batch: int, meter: Meter) -> None:
        """`threads` decode and as many run the model; `queue` photos may be under way; `batch` photos go into a run."""
        self.threads = threads
        self._queue = queue
        self._batch = batch
        self._meter = meter
        self._under_way = 0
        self._running = 0
        self._jobs: deque[_Job] = deque()
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._runners = ThreadPoolExecutor(threads, thread_name_prefix="run")

    @property
    def under_way(self) -> int:
        """Photos accepted and not yet answered."""
        return self._under_way

    @property
    def full(self) -> bool:
        """Whether not one more photo is accepted."""
        return self._under_way >= self._queue

    @contextmanager
    def admitted(self, photos: int) -> Iterator[None]:
        """A place for `photos` photos until they are answered. Raises Problem 503 when there is none."""
        if self._under_way + photos > self._queue:
            raise overloaded()
        self._under_way += photos
        self._meter.waits(self._under_way)
        try:
            yield
        finally:
            self._under_way -= photos
            self._meter.waits(self._under_way)

    async def decode(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` in the decoding pool. Raises what it raises, and Problem 503 when its turn comes after `deadline`."""

        todo = [work]

        def timed() -> tuple[T, float]:
            start = time.monotonic()
            if start > deadline:
                raise too_late()
            return todo.pop()(), time.monotonic() - start

        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(
                self._decoders, timed
            )
        except asyncio.CancelledError:
            todo.clear()  # the pool's queue keeps `timed` until its turn comes, but not the photo of a client that has gone
            self._meter.dropped(1)
            raise
        except Problem as problem:
            if problem.code == "deadline":
                self._meter.dropped(1)
            raise
        self._meter.decoded(seconds)
        return result

    async def classify(
        self, served: Served, pixels: Pixels, *, heatmaps: bool, deadline: float
    ) -> Answer:
        """One photo, uint8 (S, S, 3) by the model's resize rule, through the next run that has room.

        deadline: time.monotonic() after which it is dropped; the caller awaits no longer than that either.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(served, pixels, heatmaps, deadline, future))
        self._start_runs()
        return await future

    def close(self) -> None:
        """Let runs under way end and start no more."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._runners.shutdown(wait=True, cancel_futures=True)

    def _start_runs(self) -> None:
        """Give every idle runner a batch, as long as photos wait."""
        while self._running < self.threads and (jobs := self._take()):
            self._running += 1
            run = asyncio.get_running_loop().run_in_executor(self._runners, _run, jobs)
            run.add_done_callback(lambda done, jobs=jobs: self._finished(done, jobs))  # type: ignore[misc]

    def _take(self) -> list[_Job]:
        """The next photos for one run: of one model, none of an expired or abandoned request."""
        jobs: list[_Job] = []
        now = time.monotonic()
        # On one core a run takes as long as its photos together: what waits is shared out, so that no runner idles beside a long run.
        share = -(-len(self._jobs) // self.threads)
        while self._jobs and len(jobs) < min(self._batch, share):
            job = self._jobs[0]
            if job.future.done() or job.deadline < now:
                self._jobs.popleft()
                self._meter.dropped(1)
                if not job.future.done():
                    job.future.set_exception(too_late())
            elif jobs and job.served is not jobs[0].served:
                break
            else:
                jobs.append(self._jobs.popleft())
        return jobs

    def _finished(self, run: asyncio.Future[tuple[list[Answer], float]], jobs: list[_Job]) -> None:
        """Hand the answers out and start what gathered meanwhile."""
        self._running -= 1
        if run.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = run.exception()
        if error is None:
            answers, seconds = run.result()
            self._meter.ran(len(jobs), seconds)
            for job, answer in zip(jobs, answers, strict=True):
                if not job.future.done():
                    job.future.set_result(answer)
        else:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
        self._start_runs()


def _run(jobs: list[_Job]) -> tuple[list[Answer], float]:
    """One run of the model, in a runner's thread; heat maps are computed for all if any wants them."""
    start = time.monotonic()
    images = np.stack([job.pixels for job in jobs])
    rows, maps = jobs[0].served.classifier.run(images, heatmaps=any(job.heatmaps for job in jobs))
    answers = [
        Answer(row, maps[i] if maps is not None and jobs[i].heatmaps else None)
        for i, row in enumerate(rows)
    ]
    return answers, time.monotonic() - start
