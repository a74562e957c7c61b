"""Work on all cores: their number, and an ordered map over threads in bounded memory.

Pillow, hashlib, NumPy's matrix products and ONNX Runtime all release Python's global lock, so
threads suffice.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tailorbird.errors import SettingsError

T = TypeVar("T")
R = TypeVar("R")

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's CPU quota (cgroup v2): microseconds of `quota period`, or `max period`."""


def cores() -> int:
    """Return the number of cores this process may use.

    TAILORBIRD_THREADS if it is set, else CPU affinity, capped by the cgroup quota.

    Raises:
        SettingsError: TAILORBIRD_THREADS is not a whole number from 1 to 1024.
    """
    chosen = os.environ.get("TAILORBIRD_THREADS")
    if chosen:
        if not chosen.isdecimal() or not 1 <= int(chosen) <= 1024:
            raise SettingsError(
                f"TAILORBIRD_THREADS is {chosen!r}; it must be a whole number from 1 to 1024"
            )
        return int(chosen)
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(_quota(), allowed)))


def _quota() -> float:
    """Return the cores that a container may keep busy; infinity if nothing limits it."""
    try:
        quota, period = _QUOTA.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def ordered(
    function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None, ahead: int = 2
) -> Iterator[R]:
    """Yield `map(function, items)` in order, computed on several threads.

    An exception of `function`, or leaving the loop, cancels what has not started.

    Args:
        function: Called in the threads.
        items: Read as needed.
        workers: Threads; None for one per core.
        ahead: At most workers x ahead items are being computed or waiting to be taken.
    """
    workers = workers or cores()
    source = iter(items)
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tailorbird")
    try:
        for item in islice(source, workers * ahead):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


class _BlasLimit:
    """Keep BLAS on one thread while any thread of this process is inside `one_blas_thread`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._limit is None:
                from threadpoolctl import threadpool_limits

                self._limit = threadpool_limits(1, user_api="blas")

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()
                self._limit = None


_LIMIT = _BlasLimit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread: sums that are divided among threads round differently.

    Threads that work side by side use the cores instead. May be nested, in several threads.
    """
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()
