"""Run ONNX graphs: the only place that makes and runs ONNX Runtime sessions.

A `Device` defines how work is divided: images per run, runs at once, threads per run. A `Runner` is
a graph opened on a device. On the CPU many small runs at once, each on one thread, beat one large
run on all cores, because the activations of two images stay in a core's cache: a batch of 8 takes
a quarter to two fifths more time per image (benchmarks/README.md).

Shapes: images are uint8 (N, S, S, 3); outputs are arrays whose first axis is N.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = npt.NDArray[Any]
T = TypeVar("T")
Note = TypeVar("Note")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Device:
    """Where graphs run, and how work is divided for it.

    Attributes:
        name: The name users give.
        providers: ONNX Runtime's execution providers, in order of preference.
        batch: Images per run.
        streams: Runs at once; None for one per core.
        threads: CPU threads within one run.
    """

    name: str
    providers: tuple[str, ...]
    batch: int
    streams: int | None
    threads: int


CPU = Device("cpu", ("CPUExecutionProvider",), batch=2, streams=None, threads=1)


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
        import onnxruntime

        self.name = name
        self.device = device
        self._error = error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = device.threads
        options.inter_op_num_threads = 1
        # Failures arrive as exceptions; the runtime's own log would go to the user's terminal.
        options.log_severity_level = 4
        # Threads that spin while they wait take the cores that decode the next photos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = model if isinstance(model, bytes) else model.SerializeToString()
        try:
            self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                content, options, providers=list(device.providers)
            )
        except Exception as problem:  # the runtime's exceptions share no base class
            raise error(
                f"{name} cannot be run by ONNX Runtime {onnxruntime.__version__}: "
                f"{first_line(problem)}"
            ) from None
        self._input = self._session.get_inputs()[0].name
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run_batch(self, images: Array, outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once, in the calling thread, on all images given.

        Args:
            images: The input, usually uint8 (N, S, S, 3).
            outputs: Names of the outputs to return; None for all.
        """
        try:
            return list(self._session.run(outputs, {self._input: images}))
        except Exception as problem:  # the runtime's exceptions share no base class
            raise self._error(
                f"{self.name} fails on an input of shape {images.shape}: "
                f"{_without_source_places(problem)}"
            ) from None

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
        device: Gives the batch size and, where `workers` is None, the number of threads.
        workers: Threads; each loads and runs its own batches.

    Yields:
        For each item its note and its result, or None.
    """

    def one(batch: list[T]) -> list[tuple[Note, Result | None]]:
        loaded = [load(item) for item in batch]
        wanted = [value for _, value in loaded if value is not None]
        results = iter(run(wanted) if wanted else ())
        return [(note, next(results) if value is not None else None) for note, value in loaded]

    batches = _batches(items, device.batch)
    for results in parallel.ordered(one, batches, workers=workers or device.streams):
        yield from results


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


def first_line(problem: Exception) -> str:
    """Return the first line of a library's error message, at most 300 characters."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]


def _without_source_places(problem: Exception) -> str:
    """Return the runtime's message of a failed run without file names of its source code."""
    text = " ".join(str(problem).split())
    found = re.search(r"running (\w+) node.*?Status Message: (?:/\S+ .*?\) )?(.*)", text)
    return f"{found[1]}: {found[2][:250]}" if found else first_line(problem)


def _batches(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield batches; the first has one item, so that the first or only result comes at once."""
    source, size = iter(items), 1
    while batch := list(islice(source, size)):
        yield batch
        size = most
