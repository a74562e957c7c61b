"""`doctor`: what is installed, how fast each device is, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest

from support.devices import FAKE, FakeDevice
from tailorbird import doctor
from tailorbird.inference import CPU, devices


class Distribution:
    """An installed package."""

    def __init__(self, name: str, version: str = "1.31.0") -> None:
        self.metadata = {"Name": name}
        self.version = version


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = [Distribution(name) for name in names]
    monkeypatch.setattr(metadata, "distributions", lambda: found)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia", lambda: False)


def test_every_device_is_measured_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDevice(change=0.0, speed=900).install(monkeypatch)
    monkeypatch.setattr(doctor, "speed", lambda one, _: 100.0 if one.device.is_cpu else 900.0)
    cpu, fake = doctor.examine().devices
    assert (cpu.name, cpu.images_per_second, cpu.difference) == ("cpu", 100.0, 0.0)
    assert (fake.name, fake.images_per_second, fake.problem) == ("fake", 900.0, None)
    assert fake.difference == 0.0


def test_a_device_that_cannot_be_used_is_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDevice(opens=RuntimeError("libcudnn.so.9 is missing")).install(monkeypatch)
    found = doctor.examine()
    assert found.devices[1].images_per_second is None
    (advice,) = [one for one in found.advice if "fake" in one]
    assert "libcudnn.so.9 is missing" in advice


@pytest.mark.parametrize("driver", [True, False])
def test_what_cuda_lacks_is_told(driver: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia", lambda: driver)
    broken = RuntimeError("CUDAExecutionProvider cannot be loaded: libcublasLt.so.13: cannot open")
    FakeDevice(device=replace(FAKE, name="cuda"), opens=broken).install(monkeypatch)
    (advice,) = [one for one in doctor.examine().advice if "cuda cannot be used" in one]
    assert advice.startswith(f"the device cuda cannot be used: {broken}; ")
    assert ("onnxruntime-gpu[cuda,cudnn]" in advice) == driver


def test_a_device_that_fails_in_its_first_runs_is_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDevice(fails=lambda count: RuntimeError("lost")).install(monkeypatch)
    assert doctor.examine().devices[1].problem == "it failed in its first runs"


def test_two_runtimes_in_one_environment_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime_extensions",
        "onnxruntime-ep-webgpu",
        "numpy",
    )
    found = doctor.examine()
    assert [one.name for one in found.runtimes] == ["onnxruntime", "onnxruntime-gpu"]
    (advice,) = [one for one in found.advice if "same files" in one]
    assert "uninstall -y onnxruntime onnxruntime-gpu && " in advice
    assert advice.endswith("install onnxruntime-gpu")


def test_one_runtime_of_any_kind_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "onnxruntime-openvino")
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU,))
    monkeypatch.setattr(devices, "plugins", lambda: ())
    found = doctor.examine()
    assert found.advice == ()
    assert found.devices[0].source == "onnxruntime-openvino"


@pytest.mark.parametrize("error", [ImportError("no module"), AttributeError("no attribute")])
def test_what_an_uninstallation_left_is_reported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise error

    monkeypatch.setattr(devices, "plugins", broken)
    found = doctor.examine()
    assert found.devices == ()
    (advice,) = [one for one in found.advice if "damaged" in one]
    assert str(error) in advice and "--force-reinstall" in advice


def test_a_plugin_without_a_device_or_a_library_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = (
        devices.Plugin("onnxruntime-ep-openvino", None),
        devices.Plugin("onnxruntime-ep-webgpu", "libvulkan.so.1 is missing"),
    )
    monkeypatch.setattr(devices, "plugins", lambda: some)
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU,))
    told = doctor.examine().advice
    assert any("onnxruntime-ep-openvino finds no device here" in one for one in told)
    assert any("onnxruntime-ep-webgpu cannot be used: libvulkan.so.1" in one for one in told)


def test_a_gpu_without_a_provider_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia", lambda: True)
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU,))
    (advice,) = [one for one in doctor.examine().advice if "NVIDIA" in one]
    assert "onnxruntime-gpu[cuda,cudnn]" in advice
    cuda = replace(FAKE, name="cuda:1")
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU, cuda))
    assert not [one for one in doctor.examine().advice if "no provider for CUDA" in one]


def test_extras_name_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=2.0",
        "pillow>=1; extra == 'good'",
        "no-such-package>=3; extra == 'bad'",
        "pillow>=9999; extra == 'bad'",
        "no-such-package; sys_platform == 'nowhere' and extra == 'other'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    found = {one.name: one.missing for one in doctor.extras()}
    assert found["good"] == () and found["other"] == ()
    assert list(found["bad"]) == ["no-such-package>=3", "pillow>=9999"]


def test_extras_of_a_checkout_come_from_its_project_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", absent)
    assert {"serve", "torch", "gpu"} <= {one.name for one in doctor.extras()}
