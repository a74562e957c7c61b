"""Photos calibrate and score an imported model; the import command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.data import draw_dataset
from support.documented_json import problems, schemas
from support.importing import drawn_pixels, probabilities, save
from support.keras_classifiers import (
    SIDE,
    keras,
)
from support.serving import serving
from tailorbird import images
from tailorbird.engines.preprocessing import prepare as pixels_for
from tailorbird.errors import (
    DatasetError,
)
from tailorbird.explanation import explain
from tailorbird.images import ResizeRule
from tailorbird.importing import import_model
from tailorbird.importing.photos import halves, read_scoring_data
from tailorbird.model import Classifier

LABELS = ("box", "cross", "disc")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three classes of 40 drawn pictures that `fitted` was not fitted on."""
    return draw_dataset(tmp_path_factory.mktemp("drawn"), LABELS, count=40, seed=7)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Keras classifier of drawn shapes, for pixels of -1 to 1.

    It has random convolutions and a dense layer fitted on their outputs.
    """
    from sklearn.linear_model import LogisticRegression

    folder = draw_dataset(tmp_path_factory.mktemp("seen"), LABELS, count=60, seed=1)
    files = [
        (path, number)
        for number, label in enumerate(LABELS)
        for path in sorted((folder / label).iterdir())
    ]
    photos = np.stack([images.load(path, ResizeRule(SIDE)) for path, _ in files])
    labels = np.array([number for _, number in files])
    keras().utils.set_random_seed(0)
    layers = keras().layers
    image = keras().Input((SIDE, SIDE, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    pooled = layers.GlobalMaxPooling2D()(x)
    base = keras().Model(image, pooled)
    features = keras().ops.convert_to_numpy(base(pixels_for(photos, "tf")))
    found = LogisticRegression(C=100, max_iter=3000).fit(features, labels)
    dense = layers.Dense(3, activation="softmax")
    model = keras().Model(image, dense(pooled))
    dense.set_weights(
        [3 * found.coef_.T, 3 * found.intercept_]
    )  # three times too confident, which calibration must correct
    return save(model, tmp_path_factory.mktemp("fitted") / "model.keras")


def test_photos_of_the_classes_tell_unfamiliar_ones(
    fitted: Path, drawn: Path, tmp_path: Path
) -> None:
    result = import_model(fitted, tmp_path / "m.onnx", classes=LABELS, validate=drawn)
    said = result.info.unfamiliarity
    assert said["crossfitted"] and said["wanted"] == 0.02
    assert said["photos"] == result.validation.n if result.validation else False
    assert result.test is not None and result.test.refused is not None
    assert any("none of the classes" in note for note in result.notes)
    classifier = Classifier(result.model)
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    usual = [classifier.predict(path).unfamiliarity for path in sorted(drawn.rglob("*.jpg"))[:30]]
    strange = [found.unfamiliarity for found in classifier.predict(noise)]
    assert min(value or 0 for value in strange) > float(np.median([v or 0 for v in usual]))
    without = import_model(fitted, tmp_path / "n.onnx", classes=LABELS, validate=drawn, refuse=0)
    assert without.info.unfamiliarity == {}
    plain = import_model(fitted, tmp_path / "p.onnx", classes=LABELS, preprocess="tf")
    assert plain.info.unfamiliarity == {}


def test_photos_calibrate_and_score_the_model(fitted: Path, drawn: Path, tmp_path: Path) -> None:
    result = import_model(
        fitted, tmp_path / "model.onnx", classes=LABELS, preprocess="tf", validate=drawn
    )
    assert result.validation and result.test and result.photos and result.comparison
    assert result.validation.n + result.test.n == 120 and abs(result.validation.n - 60) < 10
    assert result.test.accuracy > 0.6 and result.info.temperature > 1.5
    classifier = Classifier(tmp_path / "model.onnx")
    assert classifier.info.scores == {
        "validation": result.validation.as_dict(),
        "test": result.test.as_dict(),
    }
    assert classifier.info.threshold == result.threshold.value if result.threshold else False
    from tailorbird.evaluation import evaluate

    everything = evaluate(classifier, drawn)
    shares = (
        result.validation.accuracy * result.validation.n + result.test.accuracy * result.test.n
    ) / 120
    assert (
        everything.scores.accuracy == pytest.approx(shares)
        and everything.scores.threshold == classifier.info.threshold
    )
    model = keras().saving.load_model(fitted)
    photos = drawn_pixels()
    expected = probabilities(model, pixels_for(photos, "tf")) ** (1 / result.info.temperature)
    assert (
        np.abs(
            classifier.probabilities(photos) - expected / expected.sum(axis=1, keepdims=True)
        ).max()
        < 1e-4
    )
    again = import_model(
        fitted, tmp_path / "again.onnx", classes=LABELS, preprocess="tf", validate=drawn
    )
    assert again.info.scores == result.info.scores and not again.warnings


def test_a_wrong_preprocess_mode_is_detected_and_the_right_one_suggested(
    fitted: Path, drawn: Path, tmp_path: Path
) -> None:
    wrong = import_model(
        fitted, tmp_path / "model.onnx", classes=LABELS, preprocess="unit", validate=drawn
    )
    assert wrong.preprocess == "unit" and wrong.info.settings["preprocess"] == "unit"
    (warning,) = [text for text in wrong.warnings if "probably wrong" in text]
    assert "import again with --preprocess t" in warning and "McNemar p" in warning
    found = import_model(fitted, tmp_path / "model.onnx", classes=LABELS, validate=drawn)
    assert found.preprocess == "tf" and "suits" in found.preprocess_reason


def test_misordered_classes_and_photos_of_unknown_classes_are_reported(
    fitted: Path, drawn: Path, tmp_path: Path
) -> None:
    result = import_model(
        fitted, tmp_path / "model.onnx", classes="disc,box,cross", preprocess="tf", validate=drawn
    )
    assert any("with the classes in another order" in text for text in result.warnings)
    result = import_model(
        fitted, tmp_path / "model.onnx", classes="box,cross,ring", preprocess="tf", validate=drawn
    )
    assert result.photos is not None and result.photos.unknown == {"disc": 40}
    assert any(
        "no class for 40 photos, which were left out: disc (40)" in text for text in result.warnings
    )
    with pytest.raises(
        DatasetError,
        match="no photo of the model's classes: its labels are box, cross, disc, the classes "
        "ant, bee, cow",
    ):
        import_model(
            fitted, tmp_path / "model.onnx", classes="ant,bee,cow", preprocess="tf", validate=drawn
        )


def part_sizes(folder: Path) -> tuple[int, int, str]:
    found = read_scoring_data(folder, LABELS, 0)
    return len(found.calibration), len(found.test), found.how


def test_split_folders_decide_calibration_and_test_photos(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "test", LABELS, count=6, seed=1)
    draw_dataset(tmp_path / "train", LABELS, count=4, seed=2)
    calibration, test, how = part_sizes(tmp_path)
    assert (calibration, test) == (
        9,
        9,
    ) and how == "calibrated on one half of test, scored on the other"
    draw_dataset(tmp_path / "val", LABELS, count=5, seed=3)
    assert part_sizes(tmp_path) == (15, 18, "calibrated on validation, scored on test")
    only = tmp_path / "only"
    draw_dataset(only / "train", LABELS, count=4, seed=2)
    assert "if the model was trained on these photos" in part_sizes(only)[2]


def test_halves_keep_duplicates_together_and_stratify_classes(tmp_path: Path) -> None:
    draw_dataset(tmp_path, LABELS, count=11)
    for number in range(4):
        copy = (tmp_path / "box" / f"box-{number:03}.jpg").read_bytes()
        (tmp_path / "box" / f"copy-{number}.jpg").write_bytes(copy)
    found = read_scoring_data(tmp_path, LABELS, 0)
    digests = [{sample.digest for sample in part} for part in (found.calibration, found.test)]
    assert not digests[0] & digests[1] and sum(map(len, digests)) == 33
    for part in (found.calibration, found.test):
        assert all(5 <= sum(sample.label == label for sample in part) <= 6 for label in LABELS)
    assert halves([], 0) == []


def test_an_unscored_model_is_reported_as_not_scored_everywhere(
    fitted: Path, drawn: Path, tmp_path: Path
) -> None:
    from tailorbird import report
    from tailorbird.comparison import compare as side_by_side

    made = tmp_path / "model.onnx"
    result = import_model(fitted, made, classes=LABELS, preprocess="tf")
    assert (
        result.test is None and result.info.scores == {} and result.as_dict()["calibrated"] is False
    )
    named = schemas((Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8"))
    assert problems(result.as_dict(), named["tailorbird import"], named) == []
    content = report.describe(made)
    for form in report.FORMATS:
        assert "not scored" in report.render(content, form).lower()
    assert "probabilities (not calibrated)" in report.render(content, "markdown")
    assert "not scored" in result._repr_html_()
    explained = explain(made, drawn / "box" / "box-000.jpg")
    assert explained.labels and explained.prediction.heatmaps is not None
    compared = side_by_side(made, made, drawn)
    assert compared.a.accuracy == compared.b.accuracy
    with serving(made, tmp_path) as server:
        assert server.get("/v1/model")["scores"] == {}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailorbird", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_import_command(fitted: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(LABELS))
    made = tmp_path / "model.onnx"
    (tmp_path / "linked").mkdir()
    for folder in drawn.iterdir():
        (tmp_path / "linked" / folder.name).symlink_to(folder)
    done = run(
        "import",
        fitted,
        "-o",
        made,
        "--classes",
        tmp_path / "classes.txt",
        "--preprocess",
        "unit",
        "--validate",
        tmp_path / "linked",
        "--follow-links",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["scores"]["test"]["n"] == 60 and said["preprocess"] == "unit" and said["warnings"]
    assert "tailorbird: warning: preprocess" in done.stderr
    named = schemas((Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8"))
    assert problems(said, named["tailorbird import"], named) == []
    refused = run("import", fitted, "-o", made, "--classes", tmp_path / "none.txt")
    assert (
        refused.returncode == 2
        and refused.stdout == ""
        and "none.txt does not exist; give a file" in refused.stderr
    )
