"""Examine this installation: versions, devices and their speed, extras, and what to install."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tailorbird import installing, parallel
from tailorbird.backbone import Backbone, find
from tailorbird.backbone.catalogue import DEFAULT, installed_version
from tailorbird.errors import BackboneError
from tailorbird.inference import CPU, DeviceChoice, Runner, devices
from tailorbird.inference.choosing import difference, reason, speed
from tailorbird.progress import NoProgress, Progress

LIBRARIES = ("numpy", "pillow", "onnx")

_PLUGIN = "onnxruntime-ep-"

_NOT_RUNTIMES = ("extensions", "genai", "easy", "tools")
"""Ends of names of packages beside ONNX Runtime, which do not contain it."""

_CUDA = "onnxruntime-gpu[cuda,cudnn]"


@dataclass(frozen=True)
class Package:
    """A distribution that is installed."""

    name: str
    version: str


@dataclass(frozen=True)
class Examined:
    """A device.

    name: as `--device` takes it. hardware: what it is. source: the package that its provider is
    in. images_per_second: of the default backbone, float32 or int8 as it is, all cores or the whole
    device; None where it cannot run. difference: the largest one of features from the CPU's,
    relative. problem: why it cannot run.
    """

    name: str
    hardware: str
    source: str
    images_per_second: float | None = None
    difference: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Extra:
    """An extra of tailorbird: what of it is missing, and what to type to install it."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    runtimes: packages that contain ONNX Runtime; there must be one. plugins: packages with plugin
    providers, and what is wrong with them. advice: what is wrong, or could be faster, and what to
    do.
    """

    tailorbird: str
    python: str
    platform: str
    cores: int
    libraries: tuple[Package, ...]
    runtimes: tuple[Package, ...]
    plugins: tuple[devices.Plugin, ...]
    backbone: str
    devices: tuple[Examined, ...]
    extras: tuple[Extra, ...]
    advice: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        return asdict(self)


def examine(*, progress: Progress | None = None) -> Diagnosis:
    """Examine this installation, and measure every device with the default backbone.

    Args:
        progress: Receives the stage `devices` and its devices.
    """
    runtimes = installed_runtimes()
    plugins: tuple[devices.Plugin, ...] = ()
    examined: tuple[Examined, ...] = ()
    broken = None
    try:
        plugins = devices.plugins()
        examined = tuple(_examined(runtimes, progress or NoProgress()))
    except (ImportError, AttributeError) as error:  # what is left after an uninstallation
        broken = str(error)
    return Diagnosis(
        tailorbird=installed_version(),
        python=platform.python_version(),
        platform=platform.platform(),
        cores=parallel.cores(),
        libraries=tuple(Package(name, metadata.version(name)) for name in LIBRARIES),
        runtimes=runtimes,
        plugins=plugins,
        backbone=DEFAULT,
        devices=examined,
        extras=tuple(extras()),
        advice=tuple(_advice(runtimes, plugins, examined, broken)),
    )


def installed_runtimes() -> tuple[Package, ...]:
    """Return the installed packages that contain ONNX Runtime itself."""
    found = {}
    for one in metadata.distributions():
        name = (one.metadata["Name"] or "").lower().replace("_", "-")
        if not name.startswith("onnxruntime") or name.startswith(_PLUGIN):
            continue
        if not name.endswith(_NOT_RUNTIMES):
            found[name] = Package(name, one.version)
    return tuple(found[name] for name in sorted(found))


def _examined(runtimes: tuple[Package, ...], progress: Progress) -> Iterator[Examined]:
    """Measure every device that is here."""
    at_hand = devices.at_hand()
    progress.stage("devices", len(at_hand))
    backbone = Backbone(find(DEFAULT), choice=DeviceChoice(CPU.name))
    runtime = runtimes[0].name if len(runtimes) == 1 else "onnxruntime"
    for done, device in enumerate(at_hand, start=1):
        kind = devices.kind_of(device.providers[0])
        hardware = "all cores" if device.is_cpu else kind.hardware
        source = runtime if device.plugin is None else kind.install or "a plugin"
        try:
            runner = Runner(backbone.proto, DEFAULT, BackboneError, device=device)
            gap = difference(backbone.runner, runner, "features")
            rate = speed(runner, ["features"])
            if runner.lost:
                raise BackboneError("it failed in its first runs")
            yield Examined(device.name, hardware, source, round(rate, 1), round(gap, 6))
        except BackboneError as error:
            yield Examined(device.name, hardware, source, problem=reason(error))
        progress.advance(done, len(at_hand))


def extras() -> Iterator[Extra]:
    """Yield the extras of tailorbird, and what of each is missing or too old."""
    wanted: dict[str, list[Requirement]] = {}
    for name, requirement in _requirements():
        wanted.setdefault(name, []).append(requirement)
    for name, requirements in wanted.items():
        missing = tuple(
            str(one).partition(";")[0].strip() for one in requirements if not _is_met(one, name)
        )
        yield Extra(name, missing, installing.install(name))


def _requirements() -> Iterator[tuple[str, Requirement]]:
    """Yield (extra, requirement), from the installed metadata or the checkout's project file."""
    try:
        lines = metadata.requires(installing.PACKAGE) or []
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        if not project.is_file():
            return
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        for extra, some in declared["optional-dependencies"].items():
            yield from ((extra, Requirement(line)) for line in some)
        return
    for line in lines:
        found = re.search(r"""extra == ['"]([^'"]+)['"]""", line)
        if found:
            yield found[1], Requirement(line)


def _is_met(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement is installed, or is not one on this platform."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return True
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _advice(
    runtimes: tuple[Package, ...],
    plugins: tuple[devices.Plugin, ...],
    examined: tuple[Examined, ...],
    broken: str | None,
) -> Iterator[str]:
    """Yield what is wrong or could be faster, and what to do."""
    kinds = {one.name.partition(":")[0] for one in examined}
    pip = installing.shown([sys.executable, "-m", "pip"])
    yield from _about_runtimes([one.name for one in runtimes], broken, pip)
    yield from _about_plugins(plugins, kinds)
    yield from _about_devices(examined, pip)
    if has_nvidia() and not kinds & {"cuda", "tensorrt"}:
        others = " ".join(one.name for one in runtimes) or "onnxruntime"
        yield (
            "there is an NVIDIA GPU, but no provider for CUDA: "
            f"{pip} uninstall -y {others} && {pip} install '{_CUDA}'"
        )


def _about_runtimes(names: list[str], broken: str | None, pip: str) -> Iterator[str]:
    """Yield what is wrong with the packages of ONNX Runtime."""
    if len(names) > 1:
        best = next((name for name in names if name != "onnxruntime"), names[0])
        yield (
            f"{' and '.join(names)} are all installed, but contain the same files: the one "
            "installed last has overwritten the others, and removing one damages the rest. Keep "
            f"one: {pip} uninstall -y {' '.join(names)} && {pip} install {best}"
        )
    if broken is not None or not names:
        yield (
            f"ONNX Runtime is missing or damaged ({broken or 'no package is installed'}): "
            f"{pip} install --force-reinstall --no-deps onnxruntime"
        )


def _about_plugins(plugins: tuple[devices.Plugin, ...], kinds: set[str]) -> Iterator[str]:
    """Yield which plugin providers are of no use here, and why."""
    for plugin in plugins:
        kind = next((one for one in devices.KINDS if one.install == plugin.package), None)
        if plugin.problem is not None:
            yield f"{plugin.package} cannot be used: {plugin.problem}"
        elif kind is not None and kind.name not in kinds:
            yield (
                f"{plugin.package} finds no device here; it runs on: {kind.hardware}, with the "
                "driver installed"
            )


def _about_devices(examined: tuple[Examined, ...], pip: str) -> Iterator[str]:
    """Yield why devices that `auto` would take cannot be used."""
    for one in examined:
        kind = one.name.partition(":")[0]
        if one.problem is None or any(k.name == kind and not k.automatic for k in devices.KINDS):
            continue
        advice = ""
        if kind == "cuda" and has_nvidia():
            advice = f"; its libraries: {pip} install '{_CUDA}'"
        elif kind == "cuda":
            advice = "; there is no NVIDIA GPU, or no driver"
        yield f"the device {one.name} cannot be used: {one.problem}{advice}"


def has_nvidia() -> bool:
    """Return whether an NVIDIA GPU or its driver is here."""
    if os.name == "nt":
        return shutil.which("nvidia-smi") is not None
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
