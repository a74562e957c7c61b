"""Training from features that do not fit in memory gives the model of those that do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.data import MakeDataset
from tailorbird.model import Classifier
from tailorbird.training import TrainSettings, train


@pytest.mark.parametrize("refit", [False, True])
def test_features_on_disk_give_the_same_model(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool
) -> None:
    photos = make_dataset(count=24)
    settings = TrainSettings(backbone="pocket", views=2, report=False, refit=refit)
    here = train(photos, tmp_path / "here.onnx", settings)
    monkeypatch.setattr("tailorbird.preparation.MOST_BYTES", 1000)
    disk = train(photos, tmp_path / "disk.onnx", settings)
    assert disk.info.scores["test"]["accuracy"] == here.info.scores["test"]["accuracy"]
    assert disk.info.settings["inner"] == here.info.settings["inner"]
    names = sorted(photos.rglob("*.jpg"))[:20]
    pairs = zip(
        Classifier(here.model).predict(names), Classifier(disk.model).predict(names), strict=True
    )
    for one, other in pairs:
        assert one.label == other.label
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)
        assert one.unfamiliarity is not None and other.unfamiliarity is not None
