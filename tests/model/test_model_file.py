"""Writing a model file verifies it; opening audits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from support.data import encoded, picture
from support.small_models import (
    CLASSES,
    Write,
    head,
    images,
    info,
    outputs_of,
)
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.errors import (
    ModelFileError,
    TrainingError,
)
from tailorbird.model import Classifier
from tailorbird.model.file import write
from tailorbird.model.graph import build
from tailorbird.model.metadata import KEY


def test_metadata_read_back(write_model: Write) -> None:
    opened = Classifier(write_model())
    assert replace(opened.info, self_test=()) == info() and opened.classes == CLASSES


def test_writing_refuses_a_file_that_disagrees_with_the_pipeline(
    tmp_path: Path, backbone: Backbone
) -> None:
    graph = build(backbone, head((6, 9, 4)), 1.7)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model before")
    wrong = outputs_of(graph, images(), "probabilities")[0] + 0.002
    with pytest.raises(
        TrainingError,
        match=r"differ from the pipeline's by up to 0.002, 0.001 is allowed; it was not written",
    ):
        write(path, graph, info(), images=images(), expected=wrong)
    assert path.read_bytes() == b"the model before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "tiny.backbone.onnx"]


def _metadata(change: Callable[[dict[str, Any]], None]) -> Callable[[onnx.ModelProto], None]:
    def alter(model: onnx.ModelProto) -> None:
        said = json.loads(onnx_files.metadata(model)[KEY])
        change(said)
        onnx_files.set_metadata(model, {KEY: json.dumps(said)})

    return alter


def _custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "ai.evil"
    model.opset_import.append(helper.make_opsetid("ai.evil", 1))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(
        helper.make_function("local", "mine", ["x"], ["y"], [node], [helper.make_opsetid("", 17)])
    )


def _sparse_external(model: onnx.ModelProto) -> None:
    """Add a constant with sparse values in another file: an attribute, not an initialiser."""
    node = model.graph.node.add()
    node.op_type = "Constant"
    node.output.append("stolen")
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    values = attribute.sparse_tensor.values
    values.data_type, values.data_location = onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    values.dims.append(1)
    entry = values.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"


def _loop(model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.op_type = "Loop"
    node.output.append("never")


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (
            _metadata(lambda said: said.update(format=99)),
            "has format number 99; this tailorbird reads format 1; upgrade tailorbird",
        ),
        (
            _metadata(lambda said: said.update(classes=["a", "b"])),
            "the metadata name 2 classes, the graph gives probabilities float",
        ),
        (
            _metadata(lambda said: said.update(classes=["a", "a", "b", "c"])),
            "'classes' is .*; it must be a list of at least two different names",
        ),
        (
            _metadata(lambda said: said.update(resize={"mode": "squash", "size": 32})),
            "state images of 32 x 32, the graph takes images uint8",
        ),
        (
            _metadata(lambda said: said.update(resize={"mode": "pad", "size": 16})),
            "the resize rule .* is unknown",
        ),
        (
            _metadata(lambda said: said.update(threshold=7)),
            "'threshold' is 7; it must be a number from 0 to 1",
        ),
        (
            _metadata(lambda said: said.update(temperature=float("nan"))),
            "NaN is not a number",
        ),
        (
            _metadata(lambda said: said.pop("scores") and None),
            "'scores' is missing; it must be an object",
        ),
        (
            _metadata(lambda said: said.pop("created") and None),
            "'created' is missing; it must be a text",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {KEY: "{"}),
            "the metadata are not valid JSON",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {KEY: "[1]"}),
            "the metadata are not a JSON object",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {}),
            "is not a tailorbird model: its metadata lack the key",
        ),
        (_external, "keeps weights in another file"),
        (_sparse_external, "keeps weights in another file"),
        (_loop, "contains Loop, which can run without end"),
        (_custom_operator, "operators outside the ONNX standard: ai.evil::"),
        (_function, "defines functions of its own"),
    ],
)
def test_opening_audits_the_file_first(
    write_model: Write, alter: Callable[[onnx.ModelProto], None], message: str
) -> None:
    path = write_model(alter=None)
    model = onnx.load(path)
    alter(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        Classifier(path)


def test_truncated_missing_and_foreign_files(write_model: Write, tmp_path: Path) -> None:
    whole = write_model().read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in (0, 4, len(whole) // 3, len(whole) - 10):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"truncated|damaged|lack the key|cannot be run"):
            Classifier(cut)
    with pytest.raises(ModelFileError, match="does not exist; check the path"):
        Classifier(tmp_path / "missing.onnx")
    cut.write_bytes(encoded(picture("disc", 1)))
    with pytest.raises(ModelFileError, match="is not an ONNX file"):
        Classifier(cut)


def test_a_file_over_the_size_cap_is_not_read(
    write_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model()
    monkeypatch.setattr(onnx_files, "MOST_BYTES", 100)
    with pytest.raises(ModelFileError, match="at most 100 are opened"):
        Classifier(path)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_head_with_nan_is_refused_on_every_processor(backbone: Backbone, layer: int) -> None:
    """On some processors ReLU turns NaN into 0, so running the model may not reveal it."""
    damaged = head((6, 9, 4))
    damaged.layers[layer].weight[2, 1] = np.nan
    with pytest.raises(TrainingError, match=f"layer {layer + 1} of the head has weights that are"):
        build(backbone, damaged, 1.0)
