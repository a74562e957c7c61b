"""Sessions of ONNX Runtime on a device: opening them, and what their errors mean."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.inference import devices
from tailorbird.inference.devices import Device

if TYPE_CHECKING:
    import onnxruntime

_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|failed to allocate|alloc_failed|bad_alloc|not enough memory|"
    r"insufficient memory|available memory of",
    re.IGNORECASE,
)


def open_session(content: bytes, device: Device) -> onnxruntime.InferenceSession:
    """Open a serialised graph on a device, and on no other in its place.

    Raises:
        Exception: Of any type, where the runtime refuses the graph or the device is not usable.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    # Failures arrive as exceptions; the runtime's own log would go to the user's terminal.
    options.log_severity_level = 4
    # Threads that spin while they wait take the cores that decode the next photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = device.providers[0]
    if not device.is_cpu:
        onnxruntime.set_default_logger_severity(4)  # libraries that cannot be loaded are logged
    if device.kind in ("cuda", "tensorrt"):
        devices.load_cuda()
    if device.kind == "directml":  # as its documentation demands
        options.enable_mem_pattern = False
    wanted: list[str | tuple[str, dict[str, str]]] | None = None
    if device.plugin is None:
        wanted = [(provider, dict(device.options)), *device.providers[1:]]
    else:
        options.add_provider_for_devices([devices.plugin_device(device)], dict(device.options))
        for name, value in device.options:  # the CUDA plugin reads them here
            options.add_session_config_entry(f"ep.{device.kind}.{name}", value)
    session = onnxruntime.InferenceSession(content, options, providers=wanted, enable_fallback=0)
    # Without its libraries or its driver a provider is left out, and the CPU would do the work.
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} cannot be loaded: {_why_not_loaded(device.kind)}")
    return session


def _why_not_loaded(kind: str) -> str:
    """Return what the provider's library lacks, which the runtime only logs."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in (f"libonnxruntime_providers_{kind}.so", f"onnxruntime_providers_{kind}.dll"):
        if (folder / name).exists():
            try:
                ctypes.CDLL(str(folder / name))
            except OSError as error:
                return first_line(error)
    return "its libraries or its driver are missing"


def is_out_of_memory(problem: Exception) -> bool:
    """Return whether a run failed because the device's memory is full."""
    return isinstance(problem, MemoryError) or bool(_OUT_OF_MEMORY.search(str(problem)))


def first_line(problem: Exception) -> str:
    """Return the first line of a library's error message, at most 300 characters."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]


def without_source_places(problem: Exception) -> str:
    """Return the runtime's message of a failed run without file names of its source code."""
    text = " ".join(str(problem).split())
    found = re.search(r"running (\w+) node.*?Status Message: (?:/\S+ .*?\) )?(.*)", text)
    return f"{found[1]}: {found[2][:250]}" if found else first_line(problem)
