"""Fixture: a training whose report the tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.training import TrainResult, train


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> TrainResult:
    """Return the result of a training on `shapes`."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(folder / "cache"))
        return train(shapes, folder / "shapes.onnx", seed=1, backbone="pocket")
