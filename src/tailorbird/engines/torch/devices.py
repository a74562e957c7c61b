"""The device that PyTorch trains on, and its arithmetic."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from tailorbird import parallel
from tailorbird.engines.torch import backend
from tailorbird.errors import SettingsError

LAG = 8
"""Steps that a GPU may be behind before the results of the first of them are read."""

PAIRS = 5
"""Runs of each by which two ways to compute are compared."""

CLEARLY = 0.9
"""Share of the time of float32 that bfloat16 may take on a CPU to be used."""


def device() -> Any:
    """Return the GPU of this process, else Apple's, else the CPU with all cores at hand."""
    torch, _ = backend.load()
    if torch.cuda.is_available():
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(found)
        # Convolutions in float32 may use TF32, as PyTorch itself allows; products may as well.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # one input size and batch size per stage
        return found
    if torch.backends.mps.is_available():
        return torch.device("mps")
    torch.set_num_threads(parallel.cores())
    return torch.device("cpu")


def name(of: Any) -> str:
    """Return a device in words."""
    torch, _ = backend.load()
    if of.type == "cuda":
        return str(torch.cuda.get_device_name(of))
    return "Apple GPU" if of.type == "mps" else "CPU"


def check_count(count: int) -> None:
    """Raise SettingsError for more devices than there are; on a CPU they are processes."""
    torch, _ = backend.load()
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise SettingsError(
            f"devices is {count}, but PyTorch sees {there} GPU{'s' * (there > 1)} here; use at "
            f"most {there}"
        )
    if not torch.cuda.is_available() and count > parallel.cores():
        raise SettingsError(
            f"devices is {count}, but there is no GPU and {parallel.cores()} processor cores; use "
            f"at most {parallel.cores()}"
        )


def sixteen_bit(on: Any, layout: Any = None) -> bool:
    """Return whether sixteen-bit arithmetic is the default.

    It is on GPUs with bfloat16, and on processors with instructions for it in networks whose
    feature maps lie channels last. Which processor it is decides, not a measurement: a run that is
    resumed must not change its arithmetic.
    """
    torch, _ = backend.load()
    if on.type == "cpu":
        return layout is torch.channels_last and _bfloat16_instructions()
    return on.type == "cuda" and bool(torch.cuda.get_device_capability(on) >= (8, 0))


def _bfloat16_instructions() -> bool:
    torch, _ = backend.load()
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def precision(on: Any, *, mixed: bool) -> Any:
    """Return the type of autocast, or None for float32; float16 needs a scaled loss."""
    torch, _ = backend.load()
    if not mixed:
        return None
    if on.type == "cpu":
        return torch.bfloat16
    return torch.bfloat16 if sixteen_bit(on) else torch.float16


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Compute in full float32 on a GPU: TF32 has too few bits to verify a model file with."""
    torch, _ = backend.load()
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def time_ratio(
    one: Callable[[], object],
    other: Callable[[], object],
    *,
    pairs: int = PAIRS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return how many times as long `one` takes as `other`: the median of some pairs of runs.

    Both run in turns, first one then the other first, after a run of each that is not counted: what
    else happens on the machine slows down both runs of a pair, or spoils single pairs.
    """
    one()
    other()
    found = []
    for number in range(pairs):
        taken = {}
        for run in (one, other) if number % 2 else (other, one):
            start = clock()
            run()
            taken[run] = clock() - start
        found.append(taken[one] / max(taken[other], 1e-9))
    return statistics.median(found)
