"""The devices at hand: ONNX Runtime's execution providers, under the names that users give.

A provider is built into the installed ONNX Runtime (onnxruntime-gpu, -openvino, -directml, CoreML
on a Mac), or comes as a plugin in a package of its own, `onnxruntime-ep-*`. The first device of a
kind has the kind's name, `cuda`; the others have numbers, `cuda:1`.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tailorbird import installing, parallel
from tailorbird.errors import SettingsError

CPU_PROVIDER = "CPUExecutionProvider"

_UNUSED = (CPU_PROVIDER, "AzureExecutionProvider")
"""Providers that are no devices; Azure's would send photos to another machine."""


@dataclass(frozen=True)
class Device:
    """Where graphs run, and how work is divided for it.

    Attributes:
        name: The name users give.
        providers: ONNX Runtime's execution providers, in order of preference.
        batch: Images per run.
        streams: Runs at once; None for one per core.
        threads: CPU threads within one run.
        options: Options of the first provider, (name, value).
        plugin: Number of the device among those of its plugin provider; None for a provider that
            is built into ONNX Runtime.
        int8: Whether the device has kernels for int8; without, int8 graphs run in float.
        half: Whether graphs are converted to float16.
        automatic: Whether `auto` may take it; not where opening a graph takes minutes.
    """

    name: str
    providers: tuple[str, ...]
    batch: int
    streams: int | None
    threads: int
    options: tuple[tuple[str, str], ...] = ()
    plugin: int | None = None
    int8: bool = True
    half: bool = False
    automatic: bool = True

    @property
    def is_cpu(self) -> bool:
        """Whether graphs run on ONNX Runtime's own CPU kernels."""
        return self.providers == (CPU_PROVIDER,)

    @property
    def is_plain(self) -> bool:
        """Whether graphs run on the CPU as they are."""
        return self.is_cpu and self.int8 and not self.half

    @property
    def kind(self) -> str:
        """The name without a number."""
        return self.name.partition(":")[0]

    @property
    def precision(self) -> str:
        """The arithmetic of float graphs: float32 or float16."""
        return "float16" if self.half else "float32"

    @property
    def loads_ahead(self) -> bool:
        """Whether all cores load photos for one large run, rather than each for its own runs."""
        return self.streams is not None


CPU = Device("cpu", (CPU_PROVIDER,), batch=2, streams=None, threads=1)


@dataclass(frozen=True)
class Kind:
    """One kind of device.

    name: as users give it. provider: ONNX Runtime's name. hardware: what it runs on. install: the
    package that brings it. options: of the provider that is built in. numbered: the option that
    takes the number. batch, int8, automatic: as in `Device`.
    """

    name: str
    provider: str
    hardware: str
    install: str
    options: tuple[tuple[str, str], ...] = ()
    numbered: str = "device_id"
    batch: int = 32
    int8: bool = False
    automatic: bool = True


# TF32 rounds factors to 11 bits: features would differ from those of other devices.
_NO_TF32 = ("use_tf32", "0")

KINDS = (
    Kind(
        "cuda",
        "CUDAExecutionProvider",
        "NVIDIA GPU",
        "onnxruntime-gpu",
        (_NO_TF32, ("cudnn_conv_algo_search", "HEURISTIC")),
        batch=64,
    ),
    Kind(
        "tensorrt",
        "TensorrtExecutionProvider",
        "NVIDIA GPU",
        "onnxruntime-gpu",
        batch=64,
        automatic=False,
    ),
    Kind(
        "tensorrt-rtx",
        "NvTensorRTRTXExecutionProvider",
        "NVIDIA GPU",
        "onnxruntime-ep-nv-tensorrt-rtx",
        batch=64,
        automatic=False,
    ),
    Kind("rocm", "ROCMExecutionProvider", "AMD GPU", "onnxruntime-rocm", batch=64),
    Kind(
        "migraphx",
        "MIGraphXExecutionProvider",
        "AMD GPU",
        "onnxruntime-migraphx",
        batch=64,
        automatic=False,
    ),
    Kind(
        "coreml",
        "CoreMLExecutionProvider",
        "Apple",
        "onnxruntime",
        (("ModelFormat", "MLProgram"),),
        numbered="",
    ),
    Kind(
        "openvino",
        "OpenVINOExecutionProvider",
        "Intel CPU, GPU or NPU",
        "onnxruntime-ep-openvino",
        (("precision", "ACCURACY"),),
        numbered="",
        int8=True,
    ),
    Kind("directml", "DmlExecutionProvider", "GPU on Windows", "onnxruntime-directml"),
    Kind(
        "webgpu",
        "WebGpuExecutionProvider",
        "GPU with Vulkan, Direct3D 12 or Metal",
        "onnxruntime-ep-webgpu",
    ),
)
"""The kinds with settings of their own; any other provider has the name of ONNX Runtime."""

_PLUGIN_OPTIONS = {"cuda": (_NO_TF32,)}
"""Options of plugin providers, which name the device by an object, not by an option."""


@dataclass(frozen=True)
class Plugin:
    """A package with a plugin provider.

    package: name of the distribution. problem: why it could not be registered; None if it was.
    """

    package: str
    problem: str | None


def kind_of(provider: str) -> Kind:
    """Return the kind of a provider, with general settings where it has none of its own."""
    for kind in KINDS:
        if kind.provider == provider:
            return kind
    name = provider.removesuffix("ExecutionProvider").lower()
    return Kind(name, provider, name, "", automatic=False)


@cache
def plugins() -> tuple[Plugin, ...]:
    """Find the packages with plugin providers and register them with ONNX Runtime, once."""
    import onnxruntime

    found = []
    for module in sorted({place.name for place in _plugin_folders()}):
        problem = None
        try:
            library = str(import_module(module).get_library_path())
            # CPU-only builds from before 1.22 have no plugins.
            onnxruntime.register_execution_provider_library(module, library)
        except Exception as error:  # a package of others: whatever it raises is reported
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        found.append(Plugin(module.replace("_", "-"), problem))
    return tuple(found)


def _plugin_folders() -> Iterator[Path]:
    """Yield the folders of installed packages with a plugin provider.

    The working folder is left out, though `python -m` imports from it: it may hold files of others.
    """
    for entry in sys.path:
        with contextlib.suppress(OSError):
            place = Path(entry or ".")
            if place.resolve() == Path.cwd():
                continue
            found = place.glob("onnxruntime_ep_*/")
            yield from (one for one in found if one.name.isidentifier())  # no metadata


@cache
def at_hand() -> tuple[Device, ...]:
    """Return the devices that providers offer here, the CPU first.

    A provider that is built in is listed once, whether or not its hardware and driver are there:
    only opening a graph shows that.
    """
    import onnxruntime

    plugins()
    numbers: dict[str, int] = {}
    for one in onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else ():
        numbers[one.ep_name] = numbers.get(one.ep_name, 0) + 1
    devices = [
        _of_kind(kind_of(provider), number, plugin=True)
        for provider, count in numbers.items()
        if provider not in _UNUSED
        for number in range(count)
    ]
    built_in = [
        name for name in onnxruntime.get_available_providers() if name not in (*_UNUSED, *numbers)
    ]
    for provider in built_in:
        kind = kind_of(provider)
        count = len(_openvino_hardware()) if kind.name == "openvino" else 1
        devices += [_of_kind(kind, number) for number in range(count)]
    order = [kind.name for kind in KINDS]
    devices.sort(key=lambda one: order.index(one.kind) if one.kind in order else len(order))
    return (CPU, *devices)


def _of_kind(kind: Kind, number: int, *, plugin: bool = False) -> Device:
    """Return the device of a kind with a number, from 0."""
    options = _PLUGIN_OPTIONS.get(kind.name, ()) if plugin else kind.options
    if number and kind.numbered and not plugin:
        options = (*options, (kind.numbered, str(number)))
    device = Device(
        name=f"{kind.name}:{number}" if number else kind.name,
        providers=(kind.provider, CPU_PROVIDER),
        batch=kind.batch,
        streams=1,
        threads=1,
        options=options,
        plugin=number if plugin else None,
        int8=kind.int8,
        automatic=kind.automatic,
    )
    if kind.name == "openvino" and not plugin:
        hardware = _openvino_hardware()[number]
        device = replace(device, options=(*options, ("device_type", hardware)))
        if hardware == "CPU":  # as on the CPU: small runs, one per core, each on one thread
            cores = str(parallel.cores())
            divided = (("num_of_threads", cores), ("num_streams", cores))
            device = replace(
                device, batch=CPU.batch, streams=None, options=(*device.options, *divided)
            )
    return device


def _openvino_hardware() -> tuple[str, ...]:
    """Return OpenVINO's names of its devices, GPUs first, for the provider that is built in."""
    from onnxruntime.capi import _pybind_state

    found = getattr(_pybind_state, "get_available_openvino_device_ids", lambda: ["CPU"])()
    return tuple(sorted(found or ["CPU"], key=lambda name: ("GPU" not in name, name)))


def named(name: str, *, half: bool = False) -> Device:
    """Return a device by name.

    Raises:
        SettingsError: There is no such device here, or it does not compute in float16.
    """
    kind, number = parsed(name)
    if kind == CPU.name:
        device: Device | None = CPU
    else:
        known = {device.name: device for device in at_hand()}
        device = known.get(f"{kind}:{number}" if number else kind)
        first = known.get(kind)
        if device is None and first is not None and first.plugin is None:
            numbered = kind_of(first.providers[0]).numbered
            device = _of_kind(kind_of(first.providers[0]), number) if numbered else None
    if device is None:
        raise SettingsError(
            f"the device {name} is not available here; available: "
            f"{', '.join(one.name for one in at_hand())}; {_how_to_get(kind)}"
        )
    if half and device.is_cpu:
        raise SettingsError(
            "half (--half) is given with the device cpu, which computes in float32; leave it out "
            "or choose another device"
        )
    return replace(device, half=half)


def parsed(name: str) -> tuple[str, int]:
    """Return the kind and number of a device's name.

    Raises:
        SettingsError: It is not a name of a device.
    """
    found = re.fullmatch(r"([a-z][a-z0-9-]*)(?::([0-9]{1,3}))?", name)
    if found is None or (found[2] is not None and found[1] in (CPU.name, "auto")):
        raise SettingsError(
            f"device is {name!r}; it must be auto, cpu, or a kind such as "
            f"{', '.join(kind.name for kind in KINDS)}, with a number where there are several, "
            "such as cuda:1"
        )
    return found[1], int(found[2] or 0)


def _how_to_get(kind: str) -> str:
    here = any(device.kind == kind for device in at_hand())
    package = next((one.install for one in KINDS if one.name == kind and not here), "")
    wanted = f"{kind} comes with the package {package}; " if package else ""
    if kind == "webgpu":
        wanted = f"to install {kind}: {installing.install('gpu')}; "
    return f"{wanted}`tailorbird doctor` shows what is installed and what is missing"


def plugin_device(device: Device) -> Any:
    """Return ONNX Runtime's object for a device of a plugin provider."""
    import onnxruntime

    plugins()
    own = [one for one in onnxruntime.get_ep_devices() if one.ep_name == device.providers[0]]
    return own[device.plugin or 0]


@cache
def load_cuda() -> None:
    """Load the CUDA libraries that are installed as Python packages, where there are any."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
