"""Run waiting photos together in batches, without waiting for a batch to fill.

Photos are decoded in a bounded set of processes and classified in a pool of threads. Idle runners
divide the waiting photos, up to `batch` each; while all are busy, photos queue. So batches grow
with the load, and an idle service answers one photo immediately. The session uses one thread for a
run and is called from as many runners as the process has cores, which for many photos is faster
than one run on all cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.images import Pixels
from tailorbird.service.decoding import Decoder, Decoders
from tailorbird.service.served import Served
from tailorbird.service.web.problems import Problem, overloaded, too_late

T = TypeVar("T")


class Meter(Protocol):
    """Receives counts and durations."""

    def decoded(self, seconds: float) -> None:
        """Record the time that decoding a photo took."""

    def ran(self, photos: int, seconds: float) -> None:
        """Record a batch that was classified."""

    def waits(self, photos: int) -> None:
        """Set the number of photos that are accepted and not yet answered."""

    def dropped(self, photos: int) -> None:
        """Count photos that left the queue unanswered: request expired or client disconnected."""


@dataclass(frozen=True)
class Answer:
    """The result for one photo.

    probabilities: float32 (C,). heatmaps: float32 (T, h, w), None unless requested. unfamiliarity:
    how unlike all training photos it is; None for models that do not know.
    """

    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.float32] | None
    unfamiliarity: float | None = None


@dataclass(frozen=True)
class _Job:
    """One decoded photo that waits for a run."""

    served: Served
    pixels: Pixels
    heatmaps: bool
    deadline: float
    future: asyncio.Future[Answer]


class Batcher:
    """Decode and classify photos with bounded queues; its methods belong to the event loop."""

    def __init__(
        self,
        *,
        threads: int,
        queue: int,
        batch: int,
        decode_seconds: float,
        meter: Meter,
        runs: int | None = None,
    ) -> None:
        """Prepare `threads` decoders, and runners.

        runs: model runs at once; None: as many as decoders.
        queue: photos that may be under way. batch: maximum inference batch size.
        decode_seconds: processor time that decoding one photo may take.
        """
        self.threads = threads
        self._runs = runs or threads
        self._queue = queue
        self._batch = batch
        self._meter = meter
        self._under_way = 0
        self._abandoned = 0
        self._running = 0
        self._jobs: deque[_Job] = deque()
        self._decoders = Decoders(threads, decode_seconds)
        self._decode_pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._runners = ThreadPoolExecutor(self._runs, thread_name_prefix="run")

    @property
    def under_way(self) -> int:
        """Number of photos in the queue: accepted and not yet answered, or still being decoded."""
        return self._under_way + self._abandoned

    @property
    def full(self) -> bool:
        """Whether no further photo is accepted."""
        return self.under_way >= self._queue

    @property
    def stuck(self) -> bool:
        """Whether every decoder has been busy with one photo for seconds."""
        return self._decoders.stuck

    @contextmanager
    def admitted(self, photos: int) -> Iterator[None]:
        """Reserve places for photos until they are answered. Raises Problem 503 without enough."""
        if self.under_way + photos > self._queue:
            raise overloaded()
        self._under_way += photos
        self._meter.waits(self.under_way)
        try:
            yield
        finally:
            self._under_way -= photos
            self._meter.waits(self.under_way)

    async def decode(self, work: Callable[[Decoder], T], deadline: float) -> T:
        """Run `work` with the next idle decoder.

        Raises what it raises, and Problem 503 when its turn comes after `deadline`.
        """
        todo = [work]

        def timed() -> tuple[T, float]:
            start = time.monotonic()
            if start > deadline:
                raise too_late()
            with self._decoders.one() as decoder:
                return todo.pop()(decoder), time.monotonic() - start

        running = self._decode_pool.submit(timed)
        try:
            result, seconds = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            todo.clear()  # the pool keeps `timed` until its turn; free the photo now
            self._meter.dropped(1)
            self._abandon(running)
            raise
        except Problem as problem:
            if problem.code == "deadline":
                self._meter.dropped(1)
            raise
        self._meter.decoded(seconds)
        return result

    def _abandon(self, running: Future[tuple[T, float]]) -> None:
        """Count an abandoned photo as under way until its decoder is free again."""
        if not running.running():
            return
        loop = asyncio.get_running_loop()
        self._abandoned += 1

        def freed() -> None:
            self._abandoned -= 1
            self._meter.waits(self.under_way)

        def done(_: Future[tuple[T, float]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(freed)

        running.add_done_callback(done)

    async def classify(
        self, served: Served, pixels: Pixels, *, heatmaps: bool, deadline: float
    ) -> Answer:
        """Classify one photo, uint8 (S, S, 3), in the next run that has room.

        deadline: time.monotonic() after which the photo is dropped and the caller stops waiting.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(served, pixels, heatmaps, deadline, future))
        self._start_runs()
        return await future

    def close(self) -> None:
        """Wait for runs under way and start no more."""
        self._decode_pool.shutdown(wait=True, cancel_futures=True)
        self._decoders.close()
        self._runners.shutdown(wait=True, cancel_futures=True)

    def _start_runs(self) -> None:
        """Give every idle runner a batch, as long as photos wait."""
        while self._running < self._runs and (jobs := self._take()):
            self._running += 1
            run = asyncio.get_running_loop().run_in_executor(self._runners, _run, jobs)
            run.add_done_callback(partial(self._finished, jobs))

    def _take(self) -> list[_Job]:
        """Return the next photos for one run: of one model, and still waited for."""
        jobs: list[_Job] = []
        now = time.monotonic()
        # On one core a run takes as long as all of its photos. So the waiting photos are divided
        # among the idle runners.
        share = -(-len(self._jobs) // self._runs)
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

    def _finished(self, jobs: list[_Job], run: asyncio.Future[tuple[list[Answer], float]]) -> None:
        """Deliver the answers and start runs of the photos that are waiting."""
        self._running -= 1
        error = asyncio.CancelledError() if run.cancelled() else run.exception()
        answers: list[Answer] = []
        if error is None:
            answers, seconds = run.result()
            self._meter.ran(len(jobs), seconds)
        for number, job in enumerate(jobs):
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(answers[number])
            else:
                job.future.set_exception(error)
        self._start_runs()


def _run(jobs: list[_Job]) -> tuple[list[Answer], float]:
    """Run the model once, in a runner's thread; maps are computed for all photos or for none."""
    start = time.monotonic()
    images = np.stack([job.pixels for job in jobs])
    wanted = any(job.heatmaps for job in jobs)
    rows, maps, scores = jobs[0].served.classifier.outputs(images, heatmaps=wanted)
    answers = [
        Answer(
            row,
            maps[i] if maps is not None and jobs[i].heatmaps else None,
            None if scores is None else float(scores[i]),
        )
        for i, row in enumerate(rows)
    ]
    return answers, time.monotonic() - start
