"""Scored photos that are copies of photos the model has seen; strangers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from support.data import busy_picture, draw_dataset
from tailorbird.dataset import DataSettings
from tailorbird.errors import SettingsError
from tailorbird.evaluation import DIGEST_BYTES, evaluate, seen_by
from tailorbird.model import Classifier
from tailorbird.rendering.strangers import draw_strangers
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


def test_strangers_are_told_from_the_photos_of_the_classes(trained: Path, tmp_path: Path) -> None:
    photos = draw_dataset(tmp_path / "new", count=8, seed=9)
    strange = tmp_path / "things"
    strange.mkdir()
    for number, pictures in enumerate(draw_strangers(3).values()):
        for place, drawn in enumerate(pictures):
            drawn.save(strange / f"{number}-{place}.png")
    found = evaluate(trained, photos, strangers=strange, report=tmp_path / "r.html")
    assert found.strangers is not None and found.report is not None
    assert found.strangers.photos == 12 and found.strangers.scored == found.scores.n
    assert found.strangers.auroc > 0.9 and found.strangers.noticed_at_5 > 0.8
    assert found.as_dict()["strangers"]["share"] == found.strangers.noticed / 12
    page = found.report.read_text()
    assert "None of the classes" in page and "Of 12 strangers, " in page
    # Photos of no class among the classes are strangers too, and in no score.
    strange.rename(photos / "none of these")
    again = evaluate(trained, photos)
    assert again.strangers is not None and again.strangers.photos == 12
    assert again.scores == found.scores and not again.left_out
    assert evaluate(trained, draw_dataset(tmp_path / "other", count=4, seed=3)).strangers is None


def test_strangers_of_a_model_that_cannot_tell_them(tmp_path: Path) -> None:
    old = Path(__file__).parent / "model" / "files" / "format-1.onnx"
    with pytest.raises(SettingsError, match="does not tell unfamiliar photos"):
        evaluate(old, tmp_path, strangers=tmp_path)
