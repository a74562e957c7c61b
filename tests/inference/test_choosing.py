"""Which device a model runs on: by name, by TAILORBIRD_DEVICE, or chosen by `auto`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.devices import FAKE, FakeDevice
from support.tiny_backbone import tiny
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.inference import (
    CPU,
    DeviceChoice,
    Runner,
    chosen,
    devices,
    open_runner,
    use_device,
)


def opened(choice: DeviceChoice | None = None) -> Runner:
    return open_runner(tiny(), "tiny", BackboneError, outputs=["features"], choice=choice)


def told(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.records[-1].getMessage()


@pytest.fixture(autouse=True)
def verbose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tailorbird.inference")


def test_auto_takes_a_faster_device_with_the_same_answers_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(speed=1500).install(monkeypatch)
    assert opened().device.name == "fake"
    assert told(caplog) == ("tiny runs on the device fake: cpu 100 images/s, fake 1,500 images/s")


def test_auto_leaves_a_slower_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(speed=99).install(monkeypatch)
    assert opened().device == CPU
    assert told(caplog) == "tiny runs on the device cpu: cpu 100 images/s, fake 99 images/s"


@pytest.mark.parametrize("change", [1000.0, float("nan")])
def test_auto_leaves_a_device_with_other_answers(
    change: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(change=change).install(monkeypatch)
    assert opened().device == CPU
    assert "fake is not taken: features differ by " in told(caplog)


def test_auto_leaves_a_device_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(opens=RuntimeError("no CUDA-capable device is detected")).install(monkeypatch)
    assert opened().device == CPU
    assert "fake cannot be used: no CUDA-capable device is detected" in told(caplog)


def test_auto_leaves_a_device_that_fails_in_the_first_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(fails=lambda count: RuntimeError("illegal instruction")).install(monkeypatch)
    assert opened().device == CPU
    assert "fake fails" in told(caplog)


def test_auto_measures_nothing_where_there_is_only_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeDevice()
    fake.install(monkeypatch)
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU,))
    monkeypatch.setattr(Runner, "run_batch", None)  # nothing may run
    assert opened().device == CPU
    assert told(caplog) == "tiny runs on the CPU: there is no other device"


def test_auto_leaves_devices_that_compile_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDevice(device=replace(FAKE, automatic=False))
    fake.install(monkeypatch)
    assert opened().device == CPU and not fake.opened
    assert opened(DeviceChoice("fake")).device.name == "fake"


def test_a_device_is_named_in_the_call_before_the_block_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAILORBIRD_DEVICE", raising=False)
    assert chosen() == DeviceChoice("auto")
    monkeypatch.setenv("TAILORBIRD_DEVICE", "cuda:1")
    assert chosen() == DeviceChoice("cuda:1")
    with use_device("openvino"):
        assert chosen() == DeviceChoice("openvino")
        assert chosen("cpu") == DeviceChoice("cpu")
        with use_device("cuda", half=True):
            assert chosen() == DeviceChoice("cuda", half=True)
        with use_device(None):
            assert chosen() == DeviceChoice("openvino")
    assert chosen() == DeviceChoice("cuda:1")


def test_the_device_that_was_asked_for_is_not_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDevice(speed=1, opens=RuntimeError("no driver")).install(monkeypatch)
    with use_device("fake"), pytest.raises(BackboneError, match="on the device fake: no driver"):
        opened()


def test_a_device_that_is_not_here_is_an_error_with_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDevice().install(monkeypatch)
    with pytest.raises(SettingsError) as caught:
        opened(DeviceChoice("cuda"))
    assert str(caught.value) == (
        "the device cuda is not available here; available: cpu, fake; cuda comes with the package "
        "onnxruntime-gpu; `tailorbird doctor` shows what is installed and what is missing"
    )


@pytest.mark.parametrize("name", ["", "GPU", "cuda:", "cuda:x", "cpu:1", "auto:0", "cuda:1234", 0])
def test_something_that_names_no_device_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError, match="device is "):
        DeviceChoice(name)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_DEVICE", "my gpu")
    with pytest.raises(SettingsError, match="TAILORBIRD_DEVICE: device is 'my gpu'"):
        chosen()


def test_half_needs_a_device_that_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU,))
    for name in ("cpu", "auto"):
        with pytest.raises(SettingsError, match="half"):
            opened(DeviceChoice(name, half=True))


def test_providers_have_the_names_that_users_give() -> None:
    assert devices.kind_of("CUDAExecutionProvider").name == "cuda"
    assert devices.kind_of("DmlExecutionProvider").name == "directml"
    assert devices.kind_of("VitisAIExecutionProvider").name == "vitisai"
    names = [kind.name for kind in devices.KINDS]
    assert len(set(names)) == len(names)


def test_features_in_float32_leave_tf32_out() -> None:
    assert ("use_tf32", "0") in devices.kind_of("CUDAExecutionProvider").options


def test_a_device_has_a_number_where_its_provider_takes_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = devices._of_kind(devices.kind_of("CUDAExecutionProvider"), 0)
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU, cuda))
    second = devices.named("cuda:3", half=True)
    assert second.name == "cuda:3" and second.half and second.kind == "cuda"
    assert ("device_id", "3") in second.options
    coreml = devices._of_kind(devices.kind_of("CoreMLExecutionProvider"), 0)
    monkeypatch.setattr(devices, "at_hand", lambda: (CPU, coreml))
    with pytest.raises(SettingsError, match="coreml:1 is not available"):
        devices.named("coreml:1")


def test_a_plugin_package_that_cannot_be_registered_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "onnxruntime_ep_broken"
    package.mkdir()
    (package / "__init__.py").write_text("def get_library_path(): return '/no/such/library.so'\n")
    (tmp_path / "onnxruntime_ep_broken-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {one.package: one.problem for one in devices.plugins.__wrapped__()}
    problem = found["onnxruntime-ep-broken"]
    assert problem is not None and "/no/such/library.so" in problem
    assert not [name for name in found if "dist-info" in name]
    monkeypatch.chdir(tmp_path)
    here = [one.package for one in devices.plugins.__wrapped__()]
    assert "onnxruntime-ep-broken" not in here, "nothing is imported from the working folder"


def test_the_real_devices_here_begin_with_the_cpu_and_never_hold_a_remote_one() -> None:
    found = devices.at_hand()
    assert found[0] == CPU
    assert not any("azure" in device.name for device in found)


def test_a_runner_on_the_cpu_gives_what_it_gave_before_there_were_devices() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    plain = Runner(tiny(), "tiny", BackboneError).run(images, ["features"])[0]
    found = opened(DeviceChoice("cpu")).run(images, ["features"])[0]
    assert (found == plain).all()


def test_a_device_of_an_extra_is_installed_by_the_name_of_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDevice().install(monkeypatch)
    with pytest.raises(SettingsError, match=r"to install webgpu: .* pip install .*\[gpu\]"):
        opened(DeviceChoice("webgpu"))
