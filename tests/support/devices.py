"""A second device for tests: the CPU under another name, which may answer falsely or fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tailorbird.inference import choosing, devices, runner, sessions
from tailorbird.inference.devices import CPU, CPU_PROVIDER, Device

FAKE = Device("fake", ("FakeExecutionProvider", CPU_PROVIDER), batch=16, streams=1, threads=1)


@dataclass
class FakeDevice:
    """What the device does.

    device: its description. fails: called with the number of images of a run; returns what to
    raise. change: added to each output. speed: images per second that `auto` measures; the CPU has
    100. opens: what opening a graph raises.
    """

    device: Device = FAKE
    fails: Callable[[int], Exception | None] = lambda images: None
    change: float = 0.0
    speed: float = 1000.0
    opens: Exception | None = None
    runs: list[int] = field(default_factory=list)
    opened: int = 0

    def session(self, content: bytes) -> _Session:
        """Open a graph."""
        if self.opens is not None:
            raise self.opens
        self.opened += 1
        return _Session(self, sessions.open_session(content, CPU))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the only device beside the CPU."""
        monkeypatch.setattr(devices, "at_hand", lambda: (CPU, self.device))
        monkeypatch.setattr(runner, "open_session", self._open)
        monkeypatch.setattr(
            choosing, "speed", lambda one, _: 100.0 if one.device.is_cpu else self.speed
        )
        monkeypatch.delenv(choosing.VARIABLE, raising=False)

    def _open(self, content: bytes, device: Device) -> Any:
        if device.is_cpu:
            return sessions.open_session(content, device)
        return self.session(content)


class _Session:
    """A session on the fake device."""

    def __init__(self, device: FakeDevice, real: Any) -> None:
        self._device = device
        self._real = real
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs

    def run(self, outputs: list[str] | None, inputs: dict[str, Any]) -> list[Any]:
        (images,) = inputs.values()
        problem = self._device.fails(len(images))
        if problem is not None:
            raise problem
        self._device.runs.append(len(images))
        found = self._real.run(outputs, inputs)
        return [np.asarray(value + self._device.change, value.dtype) for value in found]
