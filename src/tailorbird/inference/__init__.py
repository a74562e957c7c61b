"""Run ONNX graphs: the only place that makes and runs ONNX Runtime sessions.

`devices` names the devices at hand, `runner` runs a graph on one of them, and `choosing` decides
which one a model runs on.
"""

from tailorbird.inference.choosing import DeviceChoice, chosen, open_runner, use_device
from tailorbird.inference.devices import CPU, Device
from tailorbird.inference.runner import (
    Runner,
    map_batches,
    runtime_version,
    simplified,
    speeds,
)
from tailorbird.inference.sessions import first_line

__all__ = [
    "CPU",
    "Device",
    "DeviceChoice",
    "Runner",
    "chosen",
    "first_line",
    "map_batches",
    "open_runner",
    "runtime_version",
    "simplified",
    "speeds",
    "use_device",
]
