"""Preparation: one function that scans, splits, cleans and embeds photos."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support.data import MakeDataset, draw_dataset
from support.progress import RecordedProgress
from tailorbird.backbone import open_backbone
from tailorbird.dataset import DataSettings, scan, split
from tailorbird.dataset.layout import find
from tailorbird.errors import DatasetError
from tailorbird.features import Embedder
from tailorbird.preparation import Steps, prepare_data
from tailorbird.progress import StageTimer

TRAINING = Steps(partial(split, seed=0))


def test_photos_are_split_cleaned_and_embedded_once(shapes: Path) -> None:
    progress, timer = RecordedProgress(), StageTimer()
    embedder = Embedder(open_backbone("pocket"))
    data = prepare_data(shapes, embedder, TRAINING, progress=progress, timer=timer)
    assert data.classes == ("box", "cross", "disc") and progress.stages == ["embed"]
    assert sum(map(len, data.parts.values())) == len(data.dataset) == 72
    assert set(timer.seconds) == {"scan", "split"} and embedder.embedded == 72
    train = data.parts["train"]
    assert [data.classes[i] for i in data.labels["train"]] == [sample.label for sample in train]
    two = data.features(train, views=2)
    assert two.shape == (2, len(train), embedder.backbone.info.width)
    assert np.array_equal(two[0], data.features(train)[0]) and not np.array_equal(two[0], two[1])
    assert embedder.embedded == 72 + len(train), "only the augmented view was computed"


def test_without_a_splitter_photos_stay_as_they_are(shapes: Path) -> None:
    data = prepare_data(shapes)
    assert data.dataset is data.scanned and data.left_out == () and data.embedder is None
    assert not data.parts["train"] and len(data.numbers(data.dataset.samples)) == 72
    again = prepare_data(find(shapes))
    assert again.dataset.fingerprint == prepare_data(scan(shapes)).dataset.fingerprint


def test_given_classes_leave_other_labels_out_with_a_hint(tmp_path: Path) -> None:
    draw_dataset(tmp_path, ("box", "disc", "cross"), 3)
    (tmp_path / "disc").rename(tmp_path / "Disc ")
    data = prepare_data(tmp_path, steps=Steps(classes=("box", "disc")))
    assert data.classes == ("box", "disc") and {s.label for s in data.dataset.samples} == {"box"}
    reasons = {entry.path.split("/")[0].strip(): entry.reason for entry in data.left_out}
    assert reasons["cross"] == "the model has no class 'cross'"
    assert "but 'disc', which differs only in" in reasons["Disc"]


def test_classes_without_a_training_photo_are_left_out(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "train", ("box", "disc"), 4)
    draw_dataset(tmp_path / "test", ("box", "cross"), 3, seed=1)
    data = prepare_data(tmp_path, steps=TRAINING)
    assert data.classes == ("box", "disc")
    reasons = {entry.reason for entry in data.left_out}
    assert reasons == {"class 'cross' has no photo in train"}


def test_too_few_classes_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="single label 'only'; at least two classes are needed"):
        prepare_data(make_dataset(labels=("only",), count=4), steps=TRAINING)
    draw_dataset(tmp_path / "train", ("box",), 4)
    draw_dataset(tmp_path / "test", ("box", "cross"), 3, seed=1)
    with pytest.raises(DatasetError, match="photos to train on are left in 1 of 2 classes"):
        prepare_data(tmp_path, steps=TRAINING)


def test_how_photos_are_read_is_passed_on(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "A", ("box", "disc"), 3)
    draw_dataset(tmp_path / "B", ("box", "disc"), 3, seed=1)
    settings = DataSettings(split_names="A=train,B=test")
    data = prepare_data(tmp_path, steps=Steps(data=settings))
    assert {sample.split for sample in data.dataset.samples} == {"train", "test"}
