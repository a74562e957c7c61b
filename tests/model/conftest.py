"""Fixtures: a small backbone, and model files made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from support.small_models import (
    Write,
    head,
    images,
    info,
    outputs_of,
)
from support.tiny_backbone import tiny
from tailorbird.backbone import Backbone
from tailorbird.model.file import write
from tailorbird.model.graph import build


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    """Return a backbone of a few weights."""
    path = tmp_path / "tiny.backbone.onnx"
    onnx.save(tiny(weight=0.02), path)
    return Backbone(path)


@pytest.fixture
def write_model(tmp_path: Path, backbone: Backbone) -> Write:
    """Return a function that writes a model of `backbone`, altered after writing if asked."""

    def make(
        name: str = "model.onnx",
        alter: Callable[[onnx.ModelProto], None] | None = None,
        **changes: Any,
    ) -> Path:
        graph = build(backbone, head((6, 9, 4)), 1.7)
        expected = outputs_of(graph, images(), "probabilities")[0]
        path = tmp_path / name
        write(path, graph, info(**changes), images=images(), expected=expected)
        if alter:
            model = onnx.load(path)
            alter(model)
            onnx.save(model, path)
        return path

    return make
