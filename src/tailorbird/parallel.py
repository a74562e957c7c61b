"""Work on all cores: how many there are, and a map over threads that keeps order and a bounded number of results in memory.

Pillow, hashlib, NumPy's matrix products and ONNX Runtime all release Python's global lock, so threads suffice.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tailorbird.errors import SettingsError

T = TypeVar("T")
R = TypeVar("R")


_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processor as Linux (cgroup v2) has it: microseconds of `quota period`, or `max period`."""


def cores() -> int:
    """Cores this process may use: the variable TAILORBIRD_THREADS, else the scheduler's word within the container's share.

    Raises SettingsError for a variable that is no number of threads.
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
    return max(1, math.ceil(min(_share(), allowed)))


def _share() -> float:
    """Cores a container may keep busy; infinite where nothing limits it."""
    try:
        quota, period = _QUOTA.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def ordered(
    function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None, ahead: int = 2
) -> Iterator[R]:
    """`map(function, items)` on `workers` threads, in order.

    At most `workers` x `ahead` items are under way or waiting to be taken, however many there are; `items` is read as needed.
    An exception of `function`, or leaving the loop, cancels what has not started.
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
