"""Metadata of model files: old files, hostile files, and the size with many classes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.cli import run
from support.small_models import with_other_answers
from tailorbird import onnx_files
from tailorbird.errors import ModelFileError
from tailorbird.images import ResizeRule
from tailorbird.metrics.scores import Scores, score
from tailorbird.model import Classifier, ModelInfo
from tailorbird.model.metadata import KEY, info_from
from tailorbird.report.writing import describe, render

FILES = Path(__file__).parent / "files"
OLD = FILES / "format-1.onnx"

MODEL = onnx.load(OLD)
STORED: dict[str, Any] = json.loads(onnx_files.metadata(MODEL)[KEY])


def altered(text: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    onnx_files.set_metadata(model, {KEY: text})
    return model


def paths(value: Any, start: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside nested objects and lists."""
    found = [start]
    items: Any = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else items:
        found += paths(inner, (*start, key))
    return found


def replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    stored = copy.deepcopy(STORED)
    place: Any = stored
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return stored


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("path", sorted(FILES.glob("*.onnx")), ids=lambda path: path.stem)
def test_files_of_every_format_are_read(path: Path, tmp_path: Path) -> None:
    classifier = Classifier(path)
    (row,) = classifier.probabilities(np.full((1, 16, 16, 3), 90, np.uint8))
    assert row.sum() == pytest.approx(1, abs=1e-5)
    assert classifier.info.self_test == ()
    assert classifier.info.distributions == {}
    content = describe(path)
    assert content.scores["test"].n == 15
    assert "accuracy" in render(content, "markdown")


@pytest.mark.parametrize(
    "missing",
    [
        ("scores", "test", "log_loss"),
        ("scores", "test", "ece"),
        ("scores", "test", "top3"),
        ("scores", "test", "confusion"),
        ("scores", "test", "interval"),
        ("data", "trained_on"),
        ("data", "fingerprint"),
        ("data", "threshold_reached"),
        ("backbone", "grid"),
        ("backbone", "licence"),
        ("settings", "blend"),
    ],
    ids="-".join,
)
def test_a_missing_field_is_absent_and_the_scores_stay(
    missing: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(altered(json.dumps(replaced(missing, ...))), path)
    assert Classifier(path).classes == ("box", "cross", "disc")
    content = describe(path)
    assert content.scores["test"].accuracy == STORED["scores"]["test"]["accuracy"]
    assert "accuracy" in render(content, "markdown")


@pytest.mark.parametrize("value", [None, [], 0, False, "", {}], ids=repr)
@pytest.mark.parametrize("field", ["confusion", "confusion_cells", "per_class", "macro"])
def test_an_empty_table_of_scores_is_refused_or_absent(
    field: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(altered(json.dumps(replaced(("scores", "test", field), value))), path)
    try:
        info_from(onnx.load(path), "model.onnx")
    except ModelFileError:
        assert value is not None
        assert value != []
    else:
        assert "accuracy" in render(describe(path), "markdown")


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(path=st.sampled_from(paths(STORED)[1:]), value=VALUES)
def test_any_value_anywhere_is_refused_or_can_be_reported(
    path: tuple[Any, ...], value: Any, tmp_path: Path
) -> None:
    model = altered(json.dumps(replaced(path, value)))
    try:
        info = info_from(model, "hostile.onnx")
    except ModelFileError as error:
        assert "hostile.onnx" in str(error)
        return
    json.dumps(info.as_dict(), allow_nan=False, ensure_ascii=False).encode()
    file = tmp_path / "hostile.onnx"
    onnx.save(model, file)
    for form in ("json", "markdown"):
        assert render(describe(file), form)


TEXTS: dict[str, str | Callable[[], str]] = {
    "deep": lambda: json.dumps({**STORED, "versions": "DEEP"}).replace(
        '"DEEP"', '{"a":' * 100_000 + "1" + "}" * 100_000
    ),
    "deep lists": lambda: "[" * 1_000_000,
    "NaN": lambda: json.dumps(replaced(("scores", "test", "log_loss"), float("nan"))),
    "Infinity": lambda: json.dumps(replaced(("temperature",), float("inf"))),
    "overflow": lambda: json.dumps(replaced(("threshold",), 0.125)).replace("0.125", "1e999"),
    "huge integer": lambda: json.dumps(STORED).replace('"seed": 0', '"seed": 1' + "0" * 4200),
    "integer of too many digits": lambda: json.dumps(STORED).replace(
        '"seed": 0', '"seed": ' + "1" * 5000
    ),
    "lone surrogate": lambda: json.dumps(replaced(("classes", 0), "\ud800x")),
    "lone surrogate as a key": lambda: json.dumps(replaced(("versions", "\udfff"), "x")),
    "size too large": lambda: json.dumps(replaced(("resize", "size"), 99999)),
    "negative size": lambda: json.dumps(replaced(("resize", "size"), -1)),
    "size true": lambda: json.dumps(replaced(("resize", "size"), True)),
    "format true": lambda: json.dumps(replaced(("format",), True)),
    "format 2": lambda: json.dumps(replaced(("format",), 2)),
    "empty class": lambda: json.dumps(replaced(("classes", 0), "")),
    "classes of the scores": lambda: json.dumps(replaced(("scores", "test", "classes", 0), "x")),
    "accuracy over 1": lambda: json.dumps(replaced(("scores", "test", "accuracy"), 7.5)),
    "negative count": lambda: json.dumps(replaced(("scores", "test", "confusion", 0, 0), -1)),
    "cells beyond": lambda: json.dumps(
        replaced(("scores", "test", "confusion_cells"), [[0, 3, 1]])
    ),
    "self-test of other classes": lambda: json.dumps(replaced(("self_test",), [0.5, 0.5])),
    "distributions of other classes": lambda: json.dumps(
        {**STORED, "distributions": {"predicted": {"counts": [1, 2]}}}
    ),
    "distributions with too many bins": lambda: json.dumps(
        {**STORED, "distributions": {"confidence": {"counts": [1] * 101}}}
    ),
    "distributions without counts": lambda: json.dumps(
        {**STORED, "distributions": {"confidence": {"edges": [0.5]}}}
    ),
    "distributions that are a list": lambda: json.dumps({**STORED, "distributions": []}),
    "a list": "[1, 2]",
    "not JSON": "{",
    "nothing": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_texts_are_refused(text: str | Callable[[], str], tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    onnx.save(altered(text if isinstance(text, str) else text()), path)
    with pytest.raises(ModelFileError, match=r"hostile\.onnx"):
        Classifier(path)


def test_metadata_of_very_many_classes_are_small() -> None:
    classes = tuple(f"class-{number:04}" for number in range(1500))
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(1500), 4)
    probabilities = random.dirichlet(np.full(1500, 0.01), len(labels))
    scores = score(labels, probabilities, classes, 0.5)
    info = ModelInfo(
        classes=classes,
        resize=ResizeRule(16),
        threshold=0.5,
        temperature=1.0,
        scores={"test": scores.as_dict(), "validation": scores.as_dict()},
        backbone={},
        settings={},
        seed=0,
        data={},
        versions={},
        created="2026-01-01",
    )
    text = info.as_json()
    assert len(text) < 1_500_000
    assert Scores.from_dict(json.loads(text)["scores"]["test"]) == scores


def test_the_self_test_warns_of_other_answers_and_refuses_them_if_strict(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(Classifier(trained, strict=True).info.self_test) == 3
    tested = Classifier(trained).self_test
    assert tested is not None and tested.passed and tested.device == "cpu"
    assert tested.difference < 1e-5
    assert not caplog.records
    other = with_other_answers(trained, tmp_path / "other.onnx")
    tested = Classifier(other).self_test
    assert tested is not None and not tested.passed and tested.difference > 0.02
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelname == "WARNING"
    assert "other.onnx gives other answers on the device cpu" in said
    assert f"differs by {tested.difference:.2g}, at most 0.02" in said
    with pytest.raises(ModelFileError, match="gives other answers on the device cpu"):
        Classifier(other, strict=True)
    copy = pickle.loads(pickle.dumps(Classifier(trained, strict=True)))
    assert copy.self_test == Classifier(trained).self_test
    with pytest.raises(ModelFileError, match="are NaN or infinite"):
        Classifier(with_other_answers(trained, tmp_path / "nan.onnx", by=np.nan))


def test_the_distributions_are_those_of_the_validation_photos(trained: Path) -> None:
    info = Classifier(trained).info
    photos = info.scores["validation"]["n"]
    assert set(info.distributions) >= {"confidence", "predicted"}
    assert all(sum(bins.counts) == photos for bins in info.distributions.values())
    predicted = np.array(info.scores["validation"]["confusion"]).sum(axis=0)
    assert info.distributions["predicted"].counts == tuple(predicted)
    assert info_from(altered(json.dumps({**STORED, "distributions": {"later": 1}})), "new")


def test_a_file_without_a_self_test_is_opened(trained: Path, tmp_path: Path) -> None:
    model = onnx.load(trained)
    stored = json.loads(onnx_files.metadata(model)[KEY])
    del stored["self_test"]
    onnx_files.set_metadata(model, {KEY: json.dumps(stored)})
    onnx.save(model, tmp_path / "old.onnx")
    assert Classifier(tmp_path / "old.onnx", strict=True).self_test is None


def test_predict_warns_of_a_failed_self_test_and_stops_if_strict(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    other = with_other_answers(trained, tmp_path / "other.onnx")
    photo = str(shapes / "disc" / "disc-000.jpg")
    done = run("predict", str(other), photo)
    assert done.stdout.startswith(photo)
    assert "gives other answers on the device cpu than where it was made" in done.stderr
    done = run("predict", str(other), photo, "--strict", code=2)
    assert done.stdout == "" and "gives other answers on the device cpu" in done.stderr
    assert "other answers" not in run("predict", str(trained), photo, "--strict").stderr
