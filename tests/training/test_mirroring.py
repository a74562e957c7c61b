"""Mirrored photos are left out of training where they show another class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailorbird.backbone import open_backbone
from tailorbird.dataset import split
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.features import Embedder
from tailorbird.head import search
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import NoProgress
from tailorbird.training.mirroring import (
    accuracies_mirrored,
    averaging_helps,
    without_harmful_flip,
)


class Notes(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def draw(folder: Path, *, sided: bool) -> Path:
    """Draw two classes: a dark square at the left or right; or, not sided, at the top or bottom."""
    random = np.random.default_rng(1)
    for number in range(80):
        label = number % 2
        pixels = random.integers(150, 250, (12, 12, 3)).repeat(8, axis=0).repeat(8, axis=1)
        near, along = 4 + 60 * label + random.integers(0, 8), random.integers(20, 60)
        top, left = (along, near) if sided else (near, along)
        pixels[top : top + 24, left : left + 24] = random.integers(0, 40, 3)
        place = folder / "ab"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:02}.png")
    return folder


def prepared(photos: Path) -> PreparedData:
    embedder = Embedder(open_backbone("pocket"))
    return prepare_data(photos, embedder, Steps(partial(split, seed=0)))


@pytest.mark.parametrize("sided", [True, False])
def test_validation_decides_whether_photos_are_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sided: bool
) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
    data = prepared(draw(tmp_path / "photos", sided=sided))
    parts, labels = data.parts, data.labels
    train, held = (data.features(parts[name]) for name in ("train", "validation"))
    head = search(
        train, labels["train"], held[0], labels["validation"], classes=2, seed=0
    ).best.head
    progress, settings = Notes(), FinetuneSettings()
    found = without_harmful_flip(settings, data, head, progress)
    assert found.augmentation is not None and found.augmentation.flip is not sided
    assert len(progress.lines) == sided
    plain, mirrored = accuracies_mirrored(data, head)
    if sided:
        assert plain is not None and plain > mirrored
        assert progress.lines[0].startswith("photos are not mirrored in training: mirrored,")
    else:
        assert plain is None
    off = FinetuneSettings(augmentation=None)
    assert without_harmful_flip(off, data, head, progress) is off


@pytest.mark.parametrize("better", [True, False])
def test_validation_decides_whether_mirrored_views_are_averaged_in(better: bool) -> None:
    labels = np.arange(12) % 3
    exact = np.eye(3, dtype=np.float32)[labels]
    confused = exact + 0.8 * np.eye(3, dtype=np.float32)[(labels + np.arange(12) // 6) % 3]
    random = np.random.default_rng(0)
    noisy = confused + random.normal(0, 0.5, confused.shape).astype(np.float32)
    progress = Notes()
    plain, averaged = (noisy, exact) if better else (exact, noisy)
    assert averaging_helps(plain, averaged, labels, progress) is better
    (line,) = progress.lines
    assert line.startswith(f"mirrored views are {'averaged in' if better else 'left out'}: ")
    assert "accuracy 100.0% with them" in line or not better
