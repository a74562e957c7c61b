"""Training on a device whose features are not the CPU's: the file agrees, nothing is mixed."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.devices import FAKE, FakeDevice
from tailorbird import load, train
from tailorbird.errors import SettingsError
from tailorbird.inference import runtime_version
from tailorbird.model import Classifier

QUICK: dict[str, Any] = {"fixed": {"inner": (), "epochs": 15}, "report": False}


def test_features_of_another_arithmetic_are_computed_again_and_kept_apart(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDevice(device=replace(FAKE, int8=False))
    fake.install(monkeypatch)

    def embedded(device: str) -> int:
        model = tmp_path / f"{device}.onnx"
        return train(shapes, model, backbone="lite", device=device, **QUICK).embedded

    photos = embedded("cpu")
    assert photos and embedded("fake") == photos
    assert fake.runs
    assert embedded("cpu") == embedded("fake") == 0


@pytest.mark.parametrize(
    ("backbone", "device", "half"),
    [("lite", replace(FAKE, int8=False), False), ("pocket", FAKE, True), ("pocket", FAKE, False)],
)
def test_the_file_says_on_the_cpu_and_on_the_device_what_was_tested(
    backbone: str,
    device: object,
    half: bool,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(device, type(FAKE))
    FakeDevice(device=device).install(monkeypatch)
    model = tmp_path / "m.onnx"
    result = train(shapes, model, backbone=backbone, device="fake", half=half, **QUICK)
    assert result.test.accuracy > 0.9
    arithmetic = {"lite": "fake-float32", "pocket": "fake-float16" if half else None}[backbone]
    assert result.info.settings.get("computed_on") == arithmetic
    on_cpu, there = load(model, device="cpu"), load(model, device="fake", half=half)
    assert on_cpu.self_test is not None and on_cpu.self_test.difference < 1e-5
    assert there.self_test is not None and there.self_test.passed
    photos = sorted(shapes.rglob("*.jpg"))[:12]
    ours, theirs = (
        np.array([one.probability for one in model.predict(photos)]) for model in (on_cpu, there)
    )
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_a_device_that_is_lost_while_features_are_computed_costs_nothing(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [0]

    def fails(count: int) -> Exception | None:
        runs[0] += 1
        return RuntimeError("CUDA failure 719") if runs[0] > 6 else None

    FakeDevice(device=replace(FAKE, int8=False, batch=4), fails=fails).install(monkeypatch)
    result = train(shapes, tmp_path / "m.onnx", backbone="lite", device="fake", **QUICK)
    assert result.test.accuracy > 0.9
    told = [one for one in caplog.records if "the CPU does the rest" in one.getMessage()]
    assert len(told) == 1


def test_a_device_that_is_not_here_is_refused_before_anything_runs(
    shapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="the device nowhere is not available"):
        train(shapes, tmp_path / "m.onnx", device="nowhere")
    with pytest.raises(SettingsError, match="device is 'No Name'"):
        train(shapes, tmp_path / "m.onnx", device="No Name")


def test_a_model_file_runs_on_the_device_asked_for(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeDevice().install(monkeypatch)
    assert Classifier(trained).device.name == "fake"  # auto: it is faster and right
    assert Classifier(trained, device="cpu").device.name == "cpu"
    monkeypatch.setenv("TAILORBIRD_DEVICE", "cpu")
    assert Classifier(trained).device.name == "cpu"
    again = pickle.loads(pickle.dumps(Classifier(trained, device="fake")))
    assert again.device.name == "fake"


def test_auto_leaves_a_device_on_which_a_model_fails_its_self_test(
    trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeDevice(change=0.1).install(monkeypatch)
    assert Classifier(trained).device.name == "cpu"
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    assert Classifier(trained, device="fake").self_test is not None  # a warning, as ever
    assert [one for one in caplog.records if "gives other answers" in one.getMessage()]


def test_the_package_of_the_runtime_may_have_any_name(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = train(shapes, tmp_path / "m.onnx", backbone="pocket", **QUICK)
    assert result.info.versions["onnxruntime"] == runtime_version()
