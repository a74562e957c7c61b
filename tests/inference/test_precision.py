"""Graphs in another arithmetic than their own: int8 in float32, float32 in float16."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.devices import FAKE, FakeDevice
from support.tiny_backbone import tiny
from tailorbird.backbone import Backbone, find
from tailorbird.errors import BackboneError
from tailorbird.inference import CPU, DeviceChoice, Runner, devices, sessions
from tailorbird.inference.choosing import INT8_TOLERANCE, difference
from tailorbird.inference.precision import in_float, in_half, is_quantised

SIZE = 16

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def images(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def run(
    model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], output: str
) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = Runner(model, "m", BackboneError).run(pixels, [output])[0]
    return rows


def quantised(*, per_channel: bool) -> onnx.ModelProto:
    """A convolution in int8, whose activation function is left to the range of its output."""
    random = np.random.default_rng(1)
    weight = random.integers(-127, 128, (6, 3, 4, 4)).astype(np.int8)
    shape = (6,) if per_channel else ()
    scale = random.uniform(0.001, 0.002, shape).astype(np.float32)
    bias = random.integers(-2000, 2000, 6).astype(np.int32)
    constants: dict[str, npt.NDArray[Any]] = {
        "weight": weight,
        "weight scale": scale,
        "weight zero": np.zeros(shape, np.int8),
        "bias": bias,
        "bias scale": scale,
        "bias zero": np.zeros(shape, np.int32),
        "pixel scale": np.array(1.0, np.float32),
        "pixel zero": np.array(0, np.uint8),
        "map scale": np.array(0.02, np.float32),
        "map zero": np.array(0, np.uint8),
    }
    axis: dict[str, Any] = {"axis": 0} if per_channel else {}
    node = helper.make_node
    nodes = [
        node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT),
        node("QuantizeLinear", ["float", "pixel scale", "pixel zero"], ["q0"]),
        node("DequantizeLinear", ["q0", "pixel scale", "pixel zero"], ["x0"]),
        node("DequantizeLinear", ["weight", "weight scale", "weight zero"], ["w"], **axis),
        node("DequantizeLinear", ["bias", "bias scale", "bias zero"], ["b"], **axis),
        node("Conv", ["x0", "w", "b"], ["conv"], kernel_shape=[4, 4], strides=[4, 4]),
        node("QuantizeLinear", ["conv", "map scale", "map zero"], ["q1"]),
        node("DequantizeLinear", ["q1", "map scale", "map zero"], ["feature_map"]),
        node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        node("Flatten", ["pooled"], ["features"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "quantised",
        [value("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            value("features", TensorProto.FLOAT, ["N", 6]),
            value("feature_map", TensorProto.FLOAT, ["N", 6, 4, 4]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("per_channel", [True, False])
def test_int8_in_float_differs_by_the_rounding_alone(per_channel: bool) -> None:
    model, pixels = quantised(per_channel=per_channel), images(9)
    converted = in_float(model)
    onnx.checker.check_model(converted, full_check=True)
    assert not is_quantised(converted) and is_quantised(model)
    assert {"Clip", "Conv"} <= {node.op_type for node in converted.graph.node}
    assert all(tensor.data_type == TensorProto.FLOAT for tensor in converted.graph.initializer)
    found = run(converted, pixels, "feature_map")
    gap = np.abs(found - run(model, pixels, "feature_map"))
    assert gap.max() <= 0.02 / 2 + 1e-4  # half a step of its output


def test_the_range_that_stands_for_an_activation_function_is_kept() -> None:
    found = run(in_float(quantised(per_channel=True)), images(20), "feature_map")
    assert found.min() == 0.0 and found.max() == pytest.approx(255 * 0.02)


def test_a_graph_in_float_stays_as_it_is() -> None:
    model = tiny()
    assert (run(in_float(model), images(4), "features") == run(model, images(4), "features")).all()


def test_the_shipped_int8_backbone_in_float_gives_its_features() -> None:
    backbone = Backbone(find("lite"))
    converted = Runner(in_float(backbone.proto), "lite", BackboneError)
    assert 0 < difference(backbone.runner, converted, "features") < INT8_TOLERANCE


def test_half_gives_the_features_rounded_and_keeps_its_inputs_and_outputs() -> None:
    model, pixels = tiny(), images(5)
    converted = in_half(model)
    half = TensorProto.FLOAT16
    assert [tensor.data_type for tensor in converted.graph.initializer] == [half]
    expected, found = (run(one, pixels, "features") for one in (model, converted))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_the_quantiser_can_be_imported_after_a_conversion_to_half() -> None:
    """Both import a package of ONNX Runtime that finds its own modules by a folder in sys.path."""
    code = (
        "from support.tiny_backbone import tiny; from tailorbird.inference import precision;"
        "precision.in_half(tiny()); from tailorbird import quantization;"
        "quantization.quantise(tiny(), [numpy.zeros((16, 16, 3), 'uint8')], lambda x: x, 'tiny')"
    )
    subprocess.run([sys.executable, "-c", f"import numpy; {code}"], check=True, env=ENVIRONMENT)


def test_what_stands_behind_the_features_stays_in_float32() -> None:
    model = tiny(weight=30.0)
    graph = model.graph
    graph.node.append(helper.make_node("Mul", ["features", "features"], ["squares"]))
    graph.output.append(helper.make_tensor_value_info("squares", TensorProto.FLOAT, ["N", 6]))
    pixels = images(5)
    squares = run(in_half(model), pixels, "squares")
    assert squares.max() > 65504  # the largest number of float16
    np.testing.assert_allclose(squares, run(model, pixels, "squares"), rtol=1e-2)


def test_a_device_without_int8_gets_the_graph_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDevice(device=replace(FAKE, int8=False))
    fake.install(monkeypatch)
    model, pixels = quantised(per_channel=True), images(6)
    runner = Runner(model, "m", BackboneError, device=fake.device)
    assert (runner.quantised, runner.arithmetic) == (True, "float32")
    found = runner.run(pixels, ["feature_map"])[0]
    assert (found == run(in_float(model), pixels, "feature_map")).all()
    with_kernels = Runner(model, "m", BackboneError, device=replace(FAKE, int8=True))
    assert with_kernels.arithmetic == "int8"


@pytest.mark.parametrize("half", [False, True])
def test_a_lost_device_leaves_the_same_arithmetic_to_the_cpu(
    half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = replace(FAKE, int8=False, half=half)
    left = [1]

    def fails(count: int) -> Exception | None:
        left[0] -= 1
        return None if left[0] >= 0 else RuntimeError("lost")

    fake = FakeDevice(device=device, fails=fails)
    fake.install(monkeypatch)
    runner = Runner(quantised(per_channel=True), "m", BackboneError, device=device)
    before, after = (runner.run_batch(images(3), ["features"])[0] for _ in range(2))
    assert runner.lost and runner.now_on.is_cpu and not runner.now_on.is_plain
    np.testing.assert_allclose(after, before, rtol=1e-5)
    again = Runner(quantised(per_channel=True), "m", BackboneError, device=runner.now_on)
    np.testing.assert_allclose(again.run_batch(images(3), ["features"])[0], before, rtol=1e-5)


def test_a_plugin_provider_runs_a_graph_through_its_device_object() -> None:
    """The CPU has such an object too, so that the way through it is tested for real."""
    plugin = replace(CPU, name="plugin", plugin=0)
    found = Runner(tiny(), "tiny", BackboneError, device=plugin).run(images(3), ["features"])[0]
    assert (found == run(tiny(), images(3), "features")).all()


def test_a_plugin_of_cuda_computes_without_tf32() -> None:
    plugin = replace(CPU, name="cuda:1", plugin=0, options=devices._PLUGIN_OPTIONS["cuda"])
    session = sessions.open_session(tiny().SerializeToString(), plugin)
    assert session.get_session_options().get_session_config_entry("ep.cuda.use_tf32") == "0"


@pytest.fixture
def backbone_file(tmp_path: Path) -> Path:
    path = tmp_path / "q.onnx"
    path.write_bytes(quantised(per_channel=True).SerializeToString())
    return path


def test_features_that_are_the_cpus_share_its_place_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeDevice().install(monkeypatch)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny().SerializeToString())
    assert Backbone(path, choice=DeviceChoice("fake")).variant == ""


@pytest.mark.parametrize(
    ("int8", "half", "variant"),
    [(False, False, "fake-float32"), (False, True, "fake-float16"), (True, True, "fake-float16")],
)
def test_other_features_have_a_place_of_their_own(
    int8: bool, half: bool, variant: str, backbone_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeDevice(device=replace(FAKE, int8=int8)).install(monkeypatch)
    assert Backbone(backbone_file).variant == ""
    assert Backbone(backbone_file, choice=DeviceChoice("fake", half=half)).variant == variant
