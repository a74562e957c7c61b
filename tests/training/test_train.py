from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import tailorbird
from support.cli import POCKET
from support.data import (
    CLOTHING,
    MOBILENET,
    MakeDataset,
    draw_dataset,
    encoded,
    needs_shared,
    picture,
)
from tailorbird import onnx_files
from tailorbird.backbone import open_backbone
from tailorbird.cli.parsing import inner_alternatives, inner_layers
from tailorbird.cli.results import print_result
from tailorbird.dataset import DataSettings
from tailorbird.errors import DatasetError, SettingsError, TrainingError
from tailorbird.evaluation import evaluate
from tailorbird.features import open_store
from tailorbird.model import Classifier
from tailorbird.model.metadata import KEY
from tailorbird.training import TrainSettings, settings_from_options, train

QUICK = {"inner": (), "epochs": 15}


def test_the_whole_path(shapes: Path, tmp_path: Path) -> None:
    result = train(
        shapes, tmp_path / "shapes.onnx", manifest=tmp_path / "split.csv", backbone="pocket"
    )
    assert result.test.accuracy >= 0.8 and result.test.n >= 9
    assert result.model.exists() and not list(tmp_path.glob(".*"))
    classifier = tailorbird.load(result.model)
    assert classifier.classes == ("box", "cross", "disc")
    hits = [
        classifier.predict(sample.path).label == sample.label
        for sample in result.dataset.of("test")
    ]
    assert np.mean(hits) == pytest.approx(result.test.accuracy), (
        "the file answers as the pipeline scored"
    )
    said = json.loads(onnx_files.metadata(onnx.load(result.model))[KEY])
    assert said["format"] == 1 and said["backbone"]["licence"] == "Apache-2.0" and said["seed"] == 0
    assert said["data"]["fingerprint"] == result.dataset.fingerprint and set(said["scores"]) == {
        "validation",
        "test",
    }
    assert {"tailorbird", "onnxruntime", "numpy", "pillow"} <= set(said["versions"])
    with (tmp_path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "validation", "test"} and len(rows) == 72
    again = train(tmp_path / "split.csv", tmp_path / "again.onnx", backbone="pocket")
    assert again.dataset.fingerprint == result.dataset.fingerprint
    assert again.test.accuracy == result.test.accuracy, "a manifest is the same dataset"


def test_the_same_seed_gives_the_same_bits(shapes: Path, tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> list[bytes]:
        path = train(shapes, tmp_path / name, seed=seed, fixed=QUICK, backbone="pocket").model
        return [
            t.raw_data
            for t in onnx.load(path).graph.initializer
            if t.name.startswith("tailorbird/")
        ]

    assert weights(3, "a.onnx") == weights(3, "b.onnx") != weights(4, "c.onnx")


def test_views_are_made_for_training_photos_only(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, tmp_path / "m.onnx", views=3, backbone="pocket")
    training = len(result.dataset.of("train"))
    assert result.embedded == 72 + 2 * training
    assert train(shapes, tmp_path / "m.onnx", views=3, backbone="pocket").embedded == 0


def test_given_splits_are_kept_and_a_leaked_photo_leaves_training(tmp_path: Path) -> None:
    for split, count, seed in (("train", 20, 0), ("Valid", 8, 1), ("test", 8, 2)):
        draw_dataset(tmp_path / "data" / split, count=count, seed=seed)
    leaked = tmp_path / "data" / "test" / "box" / "box-003.jpg"
    (tmp_path / "data" / "train" / "box" / "copy ü.jpg").write_bytes(leaked.read_bytes())
    Image.open(leaked).resize((288, 240)).save(
        tmp_path / "data" / "train" / "box" / "bigger.jpg", quality=85
    )
    result = train(tmp_path / "data", tmp_path / "m.onnx", fixed=QUICK, backbone="pocket")
    assert (
        result.dataset.splits["validation"] == {"box": 8, "cross": 8, "disc": 8}
        and result.test.n == 24
    )
    assert result.dataset.splits["train"]["box"] == 20
    left_out = {entry.path: entry.reason for entry in result.left_out}
    assert left_out == {
        "train/box/copy ü.jpg": "identical to test/box/box-003.jpg, which is in test",
        "train/box/bigger.jpg": "a copy of test/box/box-003.jpg, which is in test",
    }
    assert result.as_dict()["left_out"] == [entry.path for entry in result.left_out]


def test_classes_that_differ_between_splits_are_handled_by_name(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "d" / "train", ("box", "cross", "disc"), 16)
    draw_dataset(tmp_path / "d" / "validation", ("cross", "disc"), 6, seed=1)
    draw_dataset(tmp_path / "d" / "test", ("a new box", "box", "disc"), 6, seed=2)
    result = train(tmp_path / "d", tmp_path / "m.onnx", fixed=QUICK, backbone="pocket")
    assert result.info.classes == ("box", "cross", "disc")
    assert {f.kind for f in result.dataset.findings} >= {"missing-class"}
    assert [e.reason for e in result.left_out] == ["class 'a new box' has no photo in train"] * 6
    assert result.test.n == 12 and result.test.accuracy >= 0.7
    found = evaluate(result.model, tmp_path / "d")
    assert found.scores.n == 12 and found.split == "test" and len(found.left_out) == 6
    assert found.scores.accuracy == pytest.approx(result.test.accuracy)


def test_bad_files_are_named_and_the_rest_is_learned(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder = make_dataset()
    (folder / "box" / "empty.jpg").write_bytes(b"")
    (folder / "box" / "vector.jpg").write_text("<svg xmlns='x'/>")
    (folder / "disc" / ("n" * 196 + ".jpg")).write_bytes(encoded(picture("disc", 901)))
    result = train(folder, tmp_path / "model with a space ü.onnx", fixed=QUICK, backbone="pocket")
    assert {entry.path: entry.reason for entry in result.left_out} == {
        "box/empty.jpg": "the file is empty (0 bytes)",
        "box/vector.jpg": "SVG is not accepted; accepted are JPEG, PNG, WEBP, GIF, BMP, AVIF, "
        "TIFF, PPM; export it as PNG",
    }
    assert sum(result.dataset.counts.values()) == 73


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (
            ("only",),
            9,
            "all usable photos have the single label 'only'; at least two classes are needed",
        ),
        (
            ("box", "disc"),
            1,
            "no photo is left for validation: each class needs at least three different photos",
        ),
        (("box", "disc"), 2, "no photo is left for validation"),
    ],
)
def test_too_little_to_learn(
    make_dataset: MakeDataset, tmp_path: Path, labels: tuple[str, ...], count: int, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        train(make_dataset(labels=labels, count=count), tmp_path / "m.onnx", backbone="pocket")
    assert not (tmp_path / "m.onnx").exists()


def test_the_threshold_is_chosen_on_all_photos_but_test(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo of train and validation is judged by a head that was trained without it."""
    result = train(shapes, tmp_path / "m.onnx")
    known = len(result.dataset.of("train")) + len(result.dataset.of("validation"))
    assert result.threshold.crossfitted and result.threshold.photos == known == 72 - result.test.n
    again = train(shapes, tmp_path / "again.onnx")
    assert again.threshold == result.threshold, "the same seed gives the same threshold"
    assert result.as_dict()["promise"] == result.info.data["promise"] == vars(result.threshold)
    assert Classifier(result.model).info.data["promise"]["photos"] == known
    monkeypatch.setattr("tailorbird.training.calibration.CROSSFIT_BELOW", 5)
    large = train(shapes, tmp_path / "large.onnx")
    assert not large.threshold.crossfitted and large.threshold.photos == large.validation.n
    assert large.validation.log_loss == result.validation.log_loss, "the same probabilities"


def test_labels_that_mean_nothing_promise_nothing(tmp_path: Path) -> None:
    """Heads that learn their photos by heart would look perfect on photos they have seen."""
    folder = tmp_path / "d"
    for number in range(80):
        target = folder / ("heads", "tails")[number * 7 % 11 % 2] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture("box", 500 + number).save(target)
    result = train(folder, tmp_path / "m.onnx")
    assert not result.threshold.reached and result.threshold.precision < 0.9
    assert "cannot promise that 95 of 100 answers are right" in result.threshold.sentence()


def test_three_photos_a_class_are_enough_and_a_class_with_one_still_counts(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    folder = make_dataset(labels=("box", "disc"), count=3)
    draw_dataset(folder, ("cross",), 1)
    result = train(folder, tmp_path / "m.onnx", fixed=QUICK, backbone="pocket")
    assert result.info.classes == ("box", "cross", "disc") and result.test.n == 2
    assert any(f.kind == "small-class" for f in result.dataset.findings)


def test_wrong_settings_are_reported_together_before_anything_runs(
    shapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        train(shapes, tmp_path / "model.txt", views=0, precision=2, seed=-1, backbone="pocket")
    for words in (
        "must end in .onnx",
        "views is 0; it must be a whole number between 1 and 32",
        "precision is 2",
        "seed is -1",
    ):
        assert words in str(caught.value)
    with pytest.raises(SettingsError, match="dropout"):
        train(shapes, tmp_path / "m.onnx", fixed={"dropout": 1.5}, backbone="pocket")


def test_an_empty_folder_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no photos; it is empty"):
        train(tmp_path / "empty", tmp_path / "m.onnx", backbone="pocket")
    with pytest.raises(DatasetError, match="does not exist"):
        train(tmp_path / "missing", tmp_path / "m.onnx", backbone="pocket")


def test_labels_that_are_digits_stay_names(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset(labels=("10 disc", "2 box", "1 cross"))
    result = train(folder, tmp_path / "m.onnx", fixed=QUICK, backbone="pocket")
    assert result.info.classes == ("1 cross", "10 disc", "2 box")
    assert Classifier(result.model).predict(picture("2 box", 5)).label == "2 box"


def test_a_failed_write_keeps_the_old_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the model before")
    monkeypatch.setattr("tailorbird.model.file.AGREEMENT", 0.0)
    with pytest.raises(TrainingError, match="it was not written"):
        train(shapes, path, fixed=QUICK, backbone="pocket")
    assert path.read_bytes() == b"the model before" and [p.name for p in tmp_path.iterdir()] == [
        "m.onnx"
    ]


SLOW_WRITE = """
import sys, time
from tailorbird.model import file
from tailorbird.cli.parsing import inner_alternatives, inner_layers
from tailorbird.training import TrainSettings, settings_from_options, train
verify = file.verify
def slow(*arguments, **options):
    print("writing", flush=True)
    time.sleep(60)
    return verify(*arguments, **options)
file.verify = slow
train(sys.argv[1], sys.argv[2], fixed={"inner": (), "epochs": 5}, backbone="pocket")
"""


def test_kill_9_while_writing_the_model(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the model before")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITE, str(shapes), str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == b"the model before", "no half-written model"
    assert len(list(tmp_path.iterdir())) == 2, "the killed process left its temporary file"
    result = train(shapes, path, fixed=QUICK, backbone="pocket")
    assert result.embedded == 0, "the features were kept"
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.report.html"}, (
        "and the next run cleared up"
    )
    assert Classifier(path).classes == ("box", "cross", "disc")


def test_two_trainings_at_once(shapes: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tailorbird.training import train; "
        "train(sys.argv[1], sys.argv[2], backbone='pocket')"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(shapes), str(tmp_path / "m.onnx")])
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert Classifier(tmp_path / "m.onnx").info.scores["test"]["n"] >= 9
    assert train(shapes, tmp_path / "m.onnx", backbone="pocket").embedded == 0


def test_ctrl_c_keeps_the_features(
    make_dataset: MakeDataset, tmp_path: Path, own_cache: Path
) -> None:
    folder = make_dataset(count=200)
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "train",
        str(folder),
        "-o",
        str(tmp_path / "m.onnx"),
        *POCKET,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(own_cache.glob("features/*/plain/*.rows")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error
    assert not (tmp_path / "m.onnx").exists()
    kept = len(open_store(open_backbone("pocket").info))
    assert kept >= 256, "the first chunk was written"
    assert train(folder, tmp_path / "m.onnx", fixed=QUICK, backbone="pocket").embedded == 600 - kept


def test_evaluate_names_what_it_leaves_out_and_its_worst_mistakes(
    trained: Path, tmp_path: Path
) -> None:
    folder = draw_dataset(tmp_path / "new", ("box", "disc", "unknown box"), 10, seed=9)
    (folder / "box" / "bad.jpg").write_bytes(b"")
    for number in range(3):
        picture("cross", 800 + number).save(folder / "disc" / f"really-a-cross-{number}.png")
    found = evaluate(trained, folder)
    assert found.scores.n == 23 and found.split is None
    reasons = dict(found.left_out)
    assert reasons["box/bad.jpg"] == "the file is empty (0 bytes)" and len(reasons) == 11
    assert {m.path for m in found.mistakes} >= {"disc/really-a-cross-0.png"}
    assert [m.probability for m in found.mistakes] == sorted(
        (m.probability for m in found.mistakes), reverse=True
    )
    with pytest.raises(SettingsError, match="has no split 'test'; it has: none"):
        evaluate(trained, folder, split="test")
    with pytest.raises(
        DatasetError,
        match=r"has no photo that can be scored.*the model's classes are box, cross, disc",
    ):
        evaluate(trained, draw_dataset(tmp_path / "other", ("x box", "y box"), 3))


def test_evaluate_scores_the_photos_the_model_has_not_seen(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    """From one folder without splits, these are the test photos, with the scores of `train`."""
    test = Classifier(trained).info.scores["test"]
    found = evaluate(trained, shapes)
    assert found.scores.n == test["n"] and found.scores.accuracy == test["accuracy"]
    assert found.seen == 72 - test["n"] and found.trained_on == 0 and not found.left_out
    everything = evaluate(trained, shapes, include_seen=True)
    assert everything.scores.n == 72 and everything.seen == 0
    assert 40 <= everything.trained_on < found.seen, "validation photos were seen, not trained on"
    unread = tmp_path / "d" / "box" / "copy.jpg"
    unread.parent.mkdir(parents=True)
    names = {path for path, _ in found.left_out} | set(found.answers.names)
    seen = next(
        path for path in sorted((shapes / "box").iterdir()) if f"box/{path.name}" not in names
    )
    unread.write_bytes(seen.read_bytes())
    with pytest.raises(DatasetError, match=r"the model has seen the only photo of .*--all"):
        evaluate(trained, tmp_path / "d")
    assert evaluate(trained, tmp_path / "d", include_seen=True).scores.n == 1
    (tmp_path / "d" / "disc").mkdir()
    picture("disc", 77).save(tmp_path / "d" / "disc" / "new.png")
    assert (evaluate(trained, tmp_path / "d").scores.n, evaluate(trained, tmp_path / "d").seen) == (
        1,
        1,
    )


@needs_shared
def test_real_photos_reach_the_promised_accuracy(tmp_path: Path) -> None:
    """Train on some photos of clothes; the model file must score as the pipeline did."""
    (tmp_path / "d").mkdir()
    for split in ("train", "validation", "test"):
        for label in ("shoes", "dress", "pants"):
            target = tmp_path / "d" / split / label
            target.mkdir(parents=True)
            for path in sorted((CLOTHING / split / label).iterdir())[:40]:
                (target / path.name).write_bytes(path.read_bytes())
    for backbone, least in (("pocket", 0.85), (str(MOBILENET), 0.9)):
        result = train(tmp_path / "d", tmp_path / "m.onnx", backbone=backbone)
        assert result.test.accuracy >= least
        assert evaluate(result.model, tmp_path / "d").scores.accuracy == pytest.approx(
            result.test.accuracy
        )


def test_public_functions_work_from_a_notebook(shapes: Path) -> None:
    dataset = tailorbird.scan(shapes)
    assert dataset.counts == {"box": 24, "cross": 24, "disc": 24}
    assert os.environ["TAILORBIRD_CACHE"]


def test_settings_that_the_command_line_refuses_are_refused_in_python(
    shapes: Path, tmp_path: Path
) -> None:
    for options, words in (
        ({"fixed": 3}, r"fixed is 3; give settings by name, such as .'inner': ...."),
        ({"fixed": {"lr": 1}}, r"fixed has no setting 'lr'; valid settings: inner, dropout"),
        ({"learning_rate": 1}, r"train has no setting 'learning_rate'; valid settings: backbone"),
        ({"corrections_photos": "photos"}, "corrections_photos is given without corrections"),
        ({"engine": "keras"}, "ask for fine-tuning too"),
        ({"backbone": "cnn", "views": 3}, "views are for cached features"),
        ({"report_format": "pdf"}, "report_format is 'pdf'; it must be one of html"),
    ):
        with pytest.raises(SettingsError, match=words):
            train(shapes, tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []
    settings = TrainSettings(seed=3, views=2)
    with pytest.raises(SettingsError, match="views is 40"):
        train(shapes, tmp_path / "m.onnx", settings, views=40, backbone="pocket")


def test_flat_options_shape_the_head_or_fine_tuning() -> None:
    frozen = settings_from_options(inner=(100,), dropout=0.2, views=3)
    assert frozen.fixed == {"inner": (100,), "dropout": 0.2} and frozen.finetune is None
    tuned = settings_from_options(
        finetune=True, inner=(100,), dropout=0.3, epochs=4, views=3, sizes=(96,), augmentation=None
    )
    assert tuned.fixed == {"inner": (100,)} and tuned.views == 1 and tuned.finetune is not None
    assert tuned.finetune.regularisation.dropout == 0.3 and tuned.finetune.augmentation is None
    assert (tuned.finetune.epochs, tuned.finetune.views, tuned.finetune.sizes) == (4, 3, (96,))
    with pytest.raises(SettingsError, match="--size, --budget: only fine-tuning uses them"):
        settings_from_options(sizes=(96,), budget=300.0)
    with pytest.raises(SettingsError, match=r"--unfreeze would change nothing.*precision is 2"):
        settings_from_options(backbone="cnn", unfreeze="all", precision=2)


def test_inner_layers_have_one_grammar() -> None:
    assert inner_layers("100x50") == (100, 50) and inner_layers("0") == ()
    assert inner_alternatives("0, 100,100x50") == [(), (100,), (100, 50)]
    with pytest.raises(SettingsError, match="write 100x50 for its layers"):
        inner_layers("100,50")
    for text in ("many", "100x", "", "1.5"):
        with pytest.raises(SettingsError, match="give sizes of inner layers"):
            inner_layers(text)


def test_a_linked_folder_is_not_counted_as_a_photo(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "data" / "train", count=14)
    (tmp_path / "data" / "valid").symlink_to(shapes)
    result = train(tmp_path / "data", tmp_path / "m.onnx", fixed=QUICK, report=False)
    (entry,) = result.left_out
    assert entry.path == "valid/" and entry.is_folder and "--follow-links" in entry.reason
    assert result.info.data["left_out"] == 0
    print_result(result)
    assert "Left out: 1 linked folder\n" in capsys.readouterr().out


def test_a_class_that_near_duplicates_leave_too_small_names_the_option(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", ("box", "disc"), 2)
    for copy in range(6):
        for label in ("box", "disc"):
            photo = Image.open(tmp_path / "data" / label / f"{label}-000.jpg")
            photo.save(tmp_path / "data" / label / f"copy {copy}.jpg", quality=80 + copy)
    data = DataSettings(near_duplicates="drop")
    with pytest.raises(DatasetError, match="--near-duplicates drop kept one of nearly identical"):
        train(tmp_path / "data", tmp_path / "m.onnx", fixed=QUICK, data=data)


def test_messages_about_many_classes_are_short(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"species {number}" for number in range(2000))
    monkeypatch.setattr(Classifier, "classes", property(lambda self: names))
    with pytest.raises(DatasetError, match="species 9 and 1,990 more") as caught:
        evaluate(trained, draw_dataset(tmp_path / "other", ("x box", "y box"), 3))
    assert len(str(caught.value)) < 600
