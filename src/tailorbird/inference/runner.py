"""Run ONNX graphs on a device.

A `Runner` is a graph opened on a `Device`. On the CPU many small runs at once, each on one thread,
beat one large run on all cores, because the activations of two images stay in a core's cache: a
batch of 8 takes a quarter to two fifths more time per image (benchmarks/README.md). A GPU wants
few large runs, and all cores load photos for it meanwhile.

A device that fails costs no result: when its memory is full, the batch is halved; when it is lost,
the CPU computes the rest, from the same graph in the same precision.

Shapes: images are uint8 (N, S, S, 3); outputs are arrays whose first axis is N.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.errors import InputError
from tailorbird.inference.devices import CPU, Device
from tailorbird.inference.precision import is_quantised, onnx_of, prepared
from tailorbird.inference.sessions import (
    first_line,
    is_out_of_memory,
    open_session,
    without_source_places,
)

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
T = TypeVar("T")
Note = TypeVar("Note")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Runner:
    """An ONNX graph opened on a device. Its methods may be called from several threads at once."""

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        name: str,
        error: type[InputError],
        *,
        device: Device = CPU,
    ) -> None:
        """Open a graph with one input.

        Args:
            model: The graph. It must have been audited (`onnx_files.read_audited`).
            name: What messages call it.
            error: The exception to raise when the runtime refuses the graph or fails to run it.
            device: Where to run.
        """
        self.name = name
        self.device = device
        self._error = error
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self.quantised = not device.is_plain and is_quantised(onnx_of(content))
        """Whether the graph given is in int8, which every device but the CPU rounds otherwise."""
        try:
            if self.converted:
                content = prepared(content, int8=device.int8, half=device.half)
            self._session = open_session(content, device)
        except Exception as problem:  # the runtime's exceptions share no base class
            on = "" if device.is_cpu else f" on the device {device.name}"
            raise error(
                f"{name} cannot be run by ONNX Runtime {runtime_version()}{on}: "
                f"{first_line(problem)}"
            ) from None
        self._input = self._session.get_inputs()[0].name
        self.input_shape: tuple[int | str, ...] = tuple(self._session.get_inputs()[0].shape)
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self._content = b"" if device.is_cpu else content
        self._most: int | None = None
        self._lock = threading.Lock()
        self._streams = _at_once(device)

    @property
    def lost(self) -> bool:
        """Whether the device failed, so that the CPU does its work."""
        return not self.device.is_cpu and not self._content

    @property
    def now_on(self) -> Device:
        """The device that does the work now: the same arithmetic on the CPU, after a loss."""
        if not self.lost:
            return self.device
        return replace(self.device, providers=CPU.providers, options=(), plugin=None)

    @property
    def converted(self) -> bool:
        """Whether the graph computes in another arithmetic than it was given in."""
        return self.device.half or (self.quantised and not self.device.int8)

    @property
    def arithmetic(self) -> str:
        """What most of the graph computes in: int8, float32 or float16."""
        return self.device.precision if self.converted else "int8" if self.quantised else "float32"

    def run_batch(self, images: Array, outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once, in the calling thread, on all images given.

        Args:
            images: The input, usually uint8 (N, S, S, 3).
            outputs: Names of the outputs to return; None for all.
        """
        most = self._most
        if most is not None and len(images) > most:
            parts = [
                self.run_batch(images[start : start + most], outputs)
                for start in range(0, len(images), most)
            ]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        session = self._session
        try:
            with self._streams:
                return list(session.run(outputs, {self._input: images}))
        except Exception as problem:  # the runtime's exceptions share no base class
            if self.device.is_cpu or (self.lost and session is self._session):
                raise self._failed(images, problem) from None
            return self._recovered(images, outputs, problem)

    def _failed(self, images: Array, problem: Exception) -> InputError:
        return self._error(
            f"{self.name} fails on an input of shape {images.shape}: "
            f"{without_source_places(problem)}"
        )

    def _recovered(
        self, images: Array, outputs: Sequence[str] | None, problem: Exception
    ) -> list[Array]:
        """Run images on which the device failed: in smaller batches, or on the CPU."""
        if is_out_of_memory(problem) and len(images) > 1 and not self.lost:
            smaller = len(images) // 2
            with self._lock:
                if self._most is None or smaller < self._most:
                    self._most = smaller
                    log.warning(
                        "the memory of the device %s is full at %d images a run; going on with %d",
                        self.device.name,
                        len(images),
                        smaller,
                    )
            return self.run_batch(images, outputs)
        with self._lock:
            self._go_on_with_cpu(images, outputs, problem)
        return self.run_batch(images, outputs)

    def _go_on_with_cpu(
        self, images: Array, outputs: Sequence[str] | None, problem: Exception
    ) -> None:
        """Replace the session by one on the CPU, unless that fails on the same images too."""
        if self.lost:  # another thread has done so
            return
        try:
            session = open_session(self._content, replace(CPU, threads=parallel.cores()))
            session.run(outputs, {self._input: images})
        except Exception as same:  # the images are the cause, or the graph
            raise self._failed(images, same) from None
        log.warning(
            "the device %s failed while running %s (%s); the CPU does the rest",
            self.device.name,
            self.name,
            without_source_places(problem),
        )
        self._session, self._content = session, b""

    def run(self, images: Array, outputs: Sequence[str] | None = None) -> list[Array]:
        """Run on any number of images, in batches of the device's size and streams.

        Args and result as in `run_batch`.
        """
        size = self.device.batch
        if len(images) <= size:
            return self.run_batch(images, outputs)
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        results = parallel.ordered(
            lambda batch: self.run_batch(batch, outputs), batches, workers=self.device.streams
        )
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def map(
        self,
        items: Iterable[T],
        load: Callable[[T], tuple[Note, npt.NDArray[np.uint8] | None]],
        outputs: Sequence[str],
        *,
        workers: int | None = None,
    ) -> Iterator[tuple[Note, tuple[Array, ...] | None]]:
        """Load and run any number of items, in order and in bounded memory.

        Args:
            items: What to load; read as needed.
            load: Called in worker threads; returns whatever the caller wants back with the result,
                and uint8 (S, S, 3), or None to leave this item out of the run.
            outputs: Names of the outputs wanted.
            workers: Threads; None for as many as the device has streams.

        Yields:
            For each item the first value of `load` and a row of each output, or None.
        """

        def rows(images: list[npt.NDArray[np.uint8]]) -> list[tuple[Array, ...]]:
            return list(zip(*self.run_batch(np.stack(images), outputs), strict=True))

        return map_batches(items, load, rows, device=self.device, workers=workers)

    def rows(
        self,
        items: Iterable[T],
        load: Callable[[T], npt.NDArray[np.uint8]],
        output: str,
    ) -> Iterator[Array]:
        """Yield one output's row of each item, as `map` does, where every item can be loaded."""
        for _, row in self.map(items, lambda item: (None, load(item)), [output]):
            assert row is not None
            yield row[0]


def map_batches(
    items: Iterable[T],
    load: Callable[[T], tuple[Note, Loaded | None]],
    run: Callable[[list[Loaded]], Sequence[Result]],
    *,
    device: Device = CPU,
    workers: int | None = None,
) -> Iterator[tuple[Note, Result | None]]:
    """Load items and run what was loaded in batches, in order and in bounded memory.

    More general than `Runner.map`: `run` may, for example, run two models on the same photos.

    Args:
        items: What to load; read as needed.
        load: Called in worker threads; returns a note and what to run, or None for nothing to run.
        run: Called in worker threads with at most `device.batch` loaded values; returns one result
            for each.
        device: Gives the batch size, and whether all cores load for its next runs.
        workers: Threads that load; None: one per core. On the CPU each also runs its own batches.

    Yields:
        For each item its note and its result, or None.
    """

    def results(loaded: list[tuple[Note, Loaded | None]]) -> list[tuple[Note, Result | None]]:
        wanted = [value for _, value in loaded if value is not None]
        found = iter(run(wanted) if wanted else ())
        return [(note, next(found) if value is not None else None) for note, value in loaded]

    if device.loads_ahead:
        workers = workers or parallel.cores()
        # Enough for the next run while one is under way.
        ahead = 1 + -(-device.batch // workers)
        loaded = parallel.ordered(load, items, workers=workers, ahead=ahead)
        runs = parallel.ordered(results, _batches(loaded, device.batch), workers=device.streams)
    else:
        batches = _batches(items, device.batch)
        runs = parallel.ordered(
            lambda batch: results([load(item) for item in batch]), batches, workers=workers
        )
    for batch in runs:
        yield from batch


def speeds(
    runners: Sequence[Runner], images: Array, outputs: Sequence[str], *, seconds: float = 2.0
) -> tuple[float, ...]:
    """Return the images per second of each runner on one thread, measured in turns.

    Turns and medians make a ratio of the results reliable on a machine that does other work too.

    Args:
        runners: Graphs with the same input.
        images: The input; at most a batch of it is used.
        outputs: Names of the outputs to compute.
        seconds: Duration of the measurement; each runner runs at least three times.
    """
    batch = images[: runners[0].device.batch]
    times: list[list[float]] = [[] for _ in runners]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 4:
        for runner, found in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run_batch(batch, outputs)
            found.append(time.perf_counter() - start)
    return tuple(len(batch) / float(np.median(found[1:])) for found in times)


def simplified(model: onnx.ModelProto, name: str, error: type[InputError]) -> onnx.ModelProto:
    """Return an audited graph with constants folded and batch normalisation merged.

    These are the runtime's basic optimisations, which use standard operators only.

    Args and exceptions as in `Runner`.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="tailorbird-") as folder:
        written = Path(folder) / "simplified.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=list(CPU.providers)
            )
        except Exception as problem:  # the runtime's exceptions share no base class
            raise error(
                f"{name} cannot be run by ONNX Runtime {onnxruntime.__version__}: "
                f"{first_line(problem)}"
            ) from None
        return onnx.load(written)


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _at_once(device: Device) -> contextlib.AbstractContextManager[Any]:
    """Return a lock that lets in as many runs at once as the device has streams."""
    if device.streams is None:
        return contextlib.nullcontext()
    return threading.BoundedSemaphore(device.streams)


def _batches(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield batches; the first has one item, so that the first or only result comes at once."""
    source, size = iter(items), 1
    while batch := list(islice(source, size)):
        yield batch
        size = most
