"""Scored photos that are copies of photos the model has seen are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

from support.data import busy_picture
from tailorbird.dataset import DataSettings
from tailorbird.evaluation import DIGEST_BYTES, evaluate, seen_by
from tailorbird.model import Classifier
from tailorbird.training import TrainSettings, train


def test_copies_of_photos_that_the_model_has_seen_are_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(48):
        folder = photos / "ab"[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        busy_picture(seed).save(folder / f"{seed:02}.png")
    model = tmp_path / "model.onnx"
    train(photos, model, TrainSettings(report=False))
    assert evaluate(model, photos).copies == ()
    seen = seen_by(Classifier(model))
    learned = [
        path
        for path in sorted(photos.rglob("*.png"))
        if hashlib.sha256(path.read_bytes()).digest()[:DIGEST_BYTES] in seen
    ]
    seed = int(learned[0].stem)
    busy_picture(seed).rotate(12).save(photos / "a" / "new1.jpg")
    busy_picture(99).rotate(12).save(photos / "a" / "new2.jpg")
    found = evaluate(model, photos)
    assert found.copies == ("a/new1.jpg",)
    assert found.as_dict()["copies"] == ["a/new1.jpg"]
    assert evaluate(model, photos, data=DataSettings(near_duplicates="keep")).copies == ()
