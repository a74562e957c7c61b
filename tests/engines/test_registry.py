"""Engines are found by name, metadata, reference and content, and none is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from support.numpy_network import NumpyNetwork
from tailorbird import onnx_files
from tailorbird.engines import registry
from tailorbird.engines.exporting import export_model
from tailorbird.engines.protocol import Engine, TrainableNetwork
from tailorbird.errors import ModelFileError, SettingsError
from tailorbird.importing import import_model

AVAILABLE = ", ".join(registry.ENGINES)


def marked(entry: str) -> onnx.ModelProto:
    proto = NumpyNetwork().backbone(32)
    onnx_files.set_metadata(proto, {entry: "{}", "name": "x"})
    return proto


def test_every_engine_satisfies_the_protocol() -> None:
    for name in registry.ENGINES:
        engine: Engine = registry.engine(name)
        assert engine.name == name and engine.example.startswith(f"{name}:")
        assert engine.model_suffix.startswith(".")
    network: TrainableNetwork = NumpyNetwork()  # checked by mypy
    assert network.name == "grid"


def test_an_unknown_engine_is_named_with_those_available(tmp_path: Path, trained: Path) -> None:
    message = f"unknown engine 'torch'; available: {AVAILABLE}"
    with pytest.raises(SettingsError, match=message):
        registry.open_network(marked("keras"), Path("b.onnx"), "torch")
    with pytest.raises(SettingsError, match=message):
        registry.scratch_network("torch", size=32, classes=2, seed=0)
    with pytest.raises(SettingsError, match=message):
        export_model(trained, tmp_path / "x.keras", to="torch")


@pytest.mark.parametrize("name", [None, "keras"])
def test_a_backbone_of_no_engine_is_refused_with_one_that_can_be_trained(name: str | None) -> None:
    with pytest.raises(SettingsError, match=r"b\.onnx was not made by .* pull keras:MobileNetV2"):
        registry.open_network(marked("other"), Path("b.onnx"), name)


def test_the_engine_of_files_and_references() -> None:
    assert (
        registry.engine_of(marked("keras")) == "keras" and registry.engine_of(marked("x")) is None
    )
    assert registry.carried(marked("keras")) == {"keras": "{}"}
    found = registry.engine_for_reference(" Keras:Xception")
    assert found is not None and found.name == "keras"
    assert registry.engine_for_reference("hf:a/b") is None
    assert registry.engine_for_reference("keras") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"xxxx", "is not an ONNX file, or it is truncated"),
        ("model.pt", b"PK\x05\x06" + bytes(18), "is a PyTorch file"),
        ("model.pkl", b"\x80\x04", "is a pickle, which can run any code"),
        ("model.tflite", b"xxxx", "is a TensorFlow Lite model"),
        (
            "model.bin",
            b"hello",
            r"not a model file of a known framework.*\.keras, \.h5 \(keras\)",
        ),
        ("model.bin", b"", "is empty"),
        ("model.bin", None, "does not exist"),
    ],
)
def test_files_of_no_engine_are_refused_without_loading_one(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        import_model(tmp_path / name, tmp_path / "out.onnx", classes=["a", "b"])


def test_refusals_import_no_framework(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"xxxx")
    code = f"""
import sys
from tailorbird.errors import TailorbirdError
from tailorbird.engines import registry
from tailorbird.importing import import_model
for call in (
    lambda: import_model({str(tmp_path / "model.pt")!r}, "out.onnx", classes=["a", "b"]),
    lambda: registry.engine("torch"),
):
    try:
        call()
    except TailorbirdError:
        pass
    else:
        raise AssertionError
list(registry.engines())
assert not {{"keras", "tensorflow", "jax", "torch", "h5py"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
