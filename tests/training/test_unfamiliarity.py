"""Training: what a model takes for none of its classes, with photos of no class and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.data import CLOTHING, TRASHNET, draw_dataset, needs_shared, picture
from tailorbird.dataset import NONE_OF_THESE
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.evaluation import evaluate
from tailorbird.model import Classifier
from tailorbird.model.fitting import Known, fit_unfamiliarity
from tailorbird.training import train

QUICK = {"inner": (), "epochs": 15}


def noise(folder: Path, count: int = 30, seed: int = 0) -> Path:
    """Write photos of noise, which look like no drawn shape."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        random = np.random.default_rng((seed, number))
        pixels = random.integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"noise {number}.png")
    return folder


def test_a_model_file_tells_photos_of_nothing_it_knows(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, tmp_path / "m.onnx", backbone="pocket", fixed=QUICK, report=False)
    said = result.info.unfamiliarity
    assert said["wanted"] == 0.02 and said["crossfitted"] and said["refused"] <= 0.02
    assert said["photos"] == sum(
        count for name in ("train", "validation") for count in result.dataset.splits[name].values()
    )
    assert said["strangers"][0] == {"kind": "noise", "noticed": 10, "photos": 10}
    kinds = [one["kind"] for one in said["strangers"]]
    assert kinds == ["noise", "flat colours", "drawings", "text screenshots"]
    assert result.unfamiliarity is not None
    assert "Noticed: 10 of 10 noise, " in result.unfamiliarity.sentence()
    classifier = Classifier(result.model)
    strange = [classifier.predict(path) for path in noise(tmp_path / "noise").iterdir()]
    assert all(found.unfamiliar and found.unsure for found in strange)
    tested = [classifier.predict(one.path) for one in result.dataset.of("test")]
    refused = np.mean([found.unfamiliar for found in tested])
    assert result.test.refused == pytest.approx(refused) and refused < 0.3
    sure = np.mean([not found.unsure for found in tested])
    assert result.test.coverage == pytest.approx(sure)
    again = evaluate(result.model, shapes)
    assert again.scores.refused is not None


def test_nothing_is_refused_on_request(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, tmp_path / "m.onnx", backbone="pocket", fixed=QUICK, refuse=0)
    assert result.info.unfamiliarity == {} and result.test.refused is None
    assert not Classifier(result.model).knows_unfamiliar


@pytest.mark.parametrize("as_folder", [True, False])
def test_photos_of_no_class_teach_and_are_no_class(tmp_path: Path, as_folder: bool) -> None:
    photos = draw_dataset(tmp_path / "shapes", ("disc", "box"), count=30)
    where = photos / "None_of_These" if as_folder else tmp_path / "other things"
    where.mkdir()
    for number in range(20):
        picture("cross", number).save(where / f"cross {number}.png")
    result = train(
        photos,
        tmp_path / "m.onnx",
        backbone="pocket",
        fixed=QUICK,
        none=None if as_folder else where,
        manifest=tmp_path / "split.csv",
    )
    assert result.info.classes == ("box", "disc") == result.test.classes
    said = result.info.unfamiliarity
    assert 0 < said["none_of_these"] < 20
    others = {one["kind"]: one["photos"] for one in said["strangers"]}[NONE_OF_THESE]
    assert said["none_of_these"] + others == 20
    classifier = Classifier(result.model)
    new = [classifier.predict(picture("cross", 500 + number)) for number in range(20)]
    noticed = np.mean([found.unfamiliar for found in new])
    assert noticed >= 0.5
    manifest = (tmp_path / "split.csv").read_text()
    assert ("None_of_These" if as_folder else NONE_OF_THESE) in manifest


def test_the_manifest_of_photos_of_no_class_trains_the_same(tmp_path: Path) -> None:
    photos = draw_dataset(tmp_path / "shapes", count=12)
    other = noise(tmp_path / "noise", 12)
    first = train(
        photos, tmp_path / "a.onnx", backbone="pocket", fixed=QUICK, none=other,
        manifest=tmp_path / "split.csv", report=False,
    )  # fmt: skip
    second = train(
        tmp_path / "split.csv", tmp_path / "b.onnx", backbone="pocket", fixed=QUICK, report=False
    )
    assert second.info.unfamiliarity == first.info.unfamiliarity
    assert second.info.classes == first.info.classes


def test_refusals(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = tmp_path / "m.onnx"
    with pytest.raises(SettingsError, match=r"refuse is 0\.7"):
        train(shapes, model, refuse=0.7)
    with pytest.raises(SettingsError, match=r"refuse is 0 .*leave one of them out"):
        train(shapes, model, refuse=0, none=shapes)
    with pytest.raises(DatasetError, match="holds no photos; give a folder"):
        train(shapes, model, backbone="pocket", none=tmp_path / "empty")
    with pytest.raises(DatasetError, match="is no folder"):
        train(shapes, model, backbone="pocket", none=tmp_path / "missing")
    one = draw_dataset(tmp_path / "one", ("box", NONE_OF_THESE), count=6)
    with pytest.raises(DatasetError, match="single label 'box', or are 'none of these', which is"):
        train(one, model, backbone="pocket")


def test_the_threshold_of_train_and_validation_refuses_the_wanted_share() -> None:
    random = np.random.default_rng(0)
    where = random.normal(size=(6, 40))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(6, size=count)
        return (where[labels] + 0.5 * random.normal(size=(count, 40))).astype(np.float32), labels

    train_rows, labels = draw(900)
    held = {"validation": draw(30)[0], "test": draw(4000)[0]}
    nothing = train_rows[:0]
    known = Known(train_rows, labels, 6, nothing, np.arange(900) % 3)
    found = fit_unfamiliarity(known, held, {"far": -train_rows[:9]}, refuse=0.05, seed=0)
    assert found is not None and found.refusal.reached and found.refusal.photos == 930
    assert found.refused("test").mean() == pytest.approx(0.05, abs=0.025)
    assert len(found.chosen_on_refused) == 930 and found.noticed == {"far": (9, 9)}
    alone = fit_unfamiliarity(Known(train_rows, labels, 6, nothing), held, {}, refuse=0.02, seed=0)
    assert alone is not None and alone.refusal.photos == 30 and not alone.refusal.reached


@needs_shared
def test_trash_is_no_clothing(tmp_path: Path) -> None:
    result = train(CLOTHING, tmp_path / "m.onnx", report=False)
    assert result.test.refused is not None and result.test.refused <= 0.05
    classifier = Classifier(result.model)
    photos = sorted(TRASHNET.rglob("*.jpg"))[::50]
    noticed = np.mean([found.unfamiliar for found in classifier.predict(photos)])
    assert noticed >= 0.9
