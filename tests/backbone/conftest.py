"""Fixture: adapt a published network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from support.adapting import (
    PLAIN,
    Adapted,
)
from tailorbird.backbone.adapt import adapt
from tailorbird.backbone.contract import Backbone


@pytest.fixture
def adapted(tmp_path: Path) -> Adapted:
    """Return a function that saves a network, adapts it, and opens the result as a backbone."""

    def make(
        model: onnx.ModelProto, preprocessor: dict[str, Any] | None = None, **more: Any
    ) -> Backbone:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        result = tmp_path / "made.backbone.onnx"
        result.write_bytes(
            adapt(path, PLAIN if preprocessor is None else preprocessor, **more).SerializeToString()
        )
        return Backbone(result)

    return make
