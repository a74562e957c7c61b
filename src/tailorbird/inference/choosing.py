"""Decide which device a model runs on.

A device is asked for by name: in the call, for a block of code (`use_device`), or by the
environment variable TAILORBIRD_DEVICE. `auto`, the default, takes the fastest device that gives the
model's own answers; where there is only the CPU, that costs nothing.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tailorbird import parallel
from tailorbird.errors import InputError, SettingsError
from tailorbird.inference import devices
from tailorbird.inference.devices import CPU
from tailorbird.inference.runner import Runner

if TYPE_CHECKING:
    import onnx

VARIABLE = "TAILORBIRD_DEVICE"
"""Environment variable with the name of the device, where nothing else names one."""

AUTO = "auto"

TOLERANCE = 1e-3
"""Largest difference of features that count as the same, relative to max(1, the largest one)."""

HALF_TOLERANCE = 5e-2
"""The same in float16. Its 11 bits change features of EfficientNet-Lite2 by 0.005 of the largest,
of MobileNetV2 by 0.03."""

INT8_TOLERANCE = 0.1
"""The same of an int8 graph on another device, which rounds in other places or not at all.

Features of `lite` differ by 0.03 with OpenVINO's int8 kernels and by 0.04 in float.
"""

MEASURED = 3
"""Runs of a device in the measurement that `auto` decides by."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoice:
    """The device asked for.

    name: `auto`, or a device such as `cpu` or `cuda:1`. half: whether to compute in float16.
    """

    name: str = AUTO
    half: bool = False

    def __post_init__(self) -> None:
        """Raise SettingsError for something that is no name of a device."""
        if not isinstance(self.name, str):
            raise SettingsError(f"device is {self.name!r}; it must be a name such as cpu or cuda")
        devices.parsed(self.name)


_CHOICE: ContextVar[DeviceChoice | None] = ContextVar("device", default=None)


@contextmanager
def use_device(device: str | None = None, *, half: bool = False) -> Iterator[None]:
    """Run the models that are opened inside the block on a device.

    Args:
        device: `auto`, or a name such as `cpu`, `cuda` or `cuda:1`; None with `half` False changes
            nothing.
        half: Whether to compute in float16.

    Raises:
        SettingsError: It is no name of a device.
    """
    if device is None and not half:
        yield
        return
    token = _CHOICE.set(DeviceChoice(device or chosen().name, half))
    try:
        yield
    finally:
        _CHOICE.reset(token)


def chosen(device: str | None = None, *, half: bool = False) -> DeviceChoice:
    """Return the device asked for: as given, else of `use_device`, else of TAILORBIRD_DEVICE.

    Raises:
        SettingsError: It is no name of a device.
    """
    if device is not None:
        return DeviceChoice(device, half)
    outside = _CHOICE.get()
    if outside is None:
        name = os.environ.get(VARIABLE) or AUTO
        try:
            outside = DeviceChoice(name)
        except SettingsError as error:
            raise SettingsError(f"{VARIABLE}: {error}") from None
    return replace(outside, half=outside.half or half)


@dataclass(frozen=True)
class _Offer:
    """What a device is worth for a graph: images per second, or why it cannot be taken."""

    runner: Runner | None
    speed: float
    problem: str | None = None


def open_runner(
    model: onnx.ModelProto,
    name: str,
    error: type[InputError],
    *,
    outputs: Sequence[str],
    problem_with: Callable[[Runner], str | None] | None = None,
    choice: DeviceChoice | None = None,
    threads: int = 1,
) -> Runner:
    """Open a graph on the device asked for.

    Args:
        model: The graph; its input is uint8 (N, S, S, 3). It must have been audited.
        name: What messages call it.
        error: As in `Runner`.
        outputs: Names of the outputs that are usually computed; the first is compared.
        problem_with: Asked by `auto`: returns why a device must not be taken, because its answers
            differ, or None. By default the first output is compared with the CPU's.
        choice: The device; None: as `chosen`.
        threads: CPU threads within one run.

    Raises:
        SettingsError: The device is not available.
    """
    choice = choice or chosen()
    if choice.name != AUTO:
        device = replace(devices.named(choice.name, half=choice.half), threads=threads)
        log.info("%s runs on the device %s, as asked for", name, device.name)
        return Runner(model, name, error, device=device)
    others = [device for device in devices.at_hand() if device.automatic and not device.is_cpu]
    if not others:
        if choice.half:
            devices.named(CPU.name, half=True)  # refuses
        log.info("%s runs on the CPU: there is no other device", name)
        return Runner(model, name, error, device=replace(CPU, threads=threads))
    cpu = Runner(model, name, error, device=replace(CPU, threads=threads))
    test = problem_with or partial(_disagreement, cpu, outputs[0])
    best = _Offer(cpu, speed(cpu, outputs))
    said = [f"cpu {best.speed:,.0f} images/s"]
    for device in others:
        device = replace(device, half=choice.half)
        opened = partial(Runner, model, name, error, device=device)
        offer = _offer(opened, outputs, test)
        said.append(f"{device.name} {offer.problem or f'{offer.speed:,.0f} images/s'}")
        if offer.runner is not None and offer.speed > best.speed:
            best = offer
    assert best.runner is not None
    log.info("%s runs on the device %s: %s", name, best.runner.device.name, ", ".join(said))
    return best.runner


def difference(cpu: Runner, other: Runner, output: str) -> float:
    """Return the largest difference of an output for two random images, relative to max(1, it)."""
    sides = [side for side in cpu.input_shape[1:] if isinstance(side, int)]
    images = np.random.default_rng(0).integers(0, 256, (2, *sides), np.uint8)
    expected, found = (runner.run_batch(images, [output])[0] for runner in (cpu, other))
    gap = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    return gap if np.isfinite(gap) else float("inf")


def tolerance(runner: Runner) -> float:
    """Return the largest `difference` from the CPU that the arithmetic of a device explains."""
    if runner.quantised:
        return INT8_TOLERANCE
    return HALF_TOLERANCE if runner.device.half else TOLERANCE


def _disagreement(cpu: Runner, output: str, runner: Runner) -> str | None:
    """Return why a device must not be taken: its output is not the CPU's."""
    gap, allowed = difference(cpu, runner, output), tolerance(runner)
    if gap <= allowed:
        return None
    return f"is not taken: {output} differ by {gap:.2g} of the largest, {allowed:g} is allowed"


def _offer(
    opened: Callable[[], Runner],
    outputs: Sequence[str],
    problem_with: Callable[[Runner], str | None],
) -> _Offer:
    """Open a graph on a device, test its answers, and measure it."""
    try:
        runner = opened()
        problem = problem_with(runner)
        rate = 0.0 if problem else speed(runner, outputs)
        if runner.lost:
            problem = "fails"
    except InputError as refused:
        return _Offer(None, 0.0, f"cannot be used: {reason(refused)}")
    return _Offer(None if problem else runner, rate, problem)


def reason(refused: InputError) -> str:
    """Return why a device cannot be used, without what everybody knows: which graph and device."""
    text = str(refused)
    return re.sub(r"^.* cannot be run by ONNX Runtime \S+ on the device \S+: ", "", text)


def speed(runner: Runner, outputs: Sequence[str]) -> float:
    """Return the images per second of any number of images, after a run to warm up."""
    device = runner.device
    count = device.batch * (device.streams or parallel.cores())
    sides = [side for side in runner.input_shape[1:] if isinstance(side, int)]
    images = np.random.default_rng(0).integers(0, 256, (count, *sides), np.uint8)
    runner.run(images, outputs)
    times = []
    for _ in range(MEASURED):
        start = time.perf_counter()
        runner.run(images, outputs)
        times.append(time.perf_counter() - start)
    return count / float(np.median(times))
