"""Unfamiliarity: prototypes of features, the same score in NumPy and in the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from support.small_models import Write, head, images, info, outputs_of
from support.tiny_backbone import tiny
from tailorbird import onnx_files, parallel
from tailorbird.backbone import Backbone
from tailorbird.errors import ModelFileError, TrainingError
from tailorbird.head import Dense
from tailorbird.model import Classifier
from tailorbird.model.file import write
from tailorbird.model.graph import BackboneGraph, build, take_apart
from tailorbird.model.unfamiliarity import Unfamiliarity, find_prototypes


def clusters(count: int, seed: int, *, width: int = 32, centres: int = 5) -> np.ndarray:
    """Draw features around `centres` random directions, of random lengths."""
    where = np.random.default_rng(7).normal(size=(centres, width))
    random = np.random.default_rng(seed)
    rows = where[random.integers(centres, size=count)] + 0.2 * random.normal(size=(count, width))
    return np.asarray(rows * random.uniform(0.5, 2, (count, 1)), np.float32)


def strangers(count: int, seed: int, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def fitted(seed: int = 0) -> Unfamiliarity:
    found = Unfamiliarity(find_prototypes(clusters(400, 1), classes=5, seed=seed))
    return found.scaled(found.signals(clusters(200, 2)), 0.05)


def test_strangers_are_unfamiliar_and_photos_of_the_classes_are_not() -> None:
    score = fitted()
    assert (score.scores(strangers(300, 3)) > 1).all()
    new = score.scores(clusters(1000, 4))
    assert (new > 1).mean() == pytest.approx(0.05, abs=0.03)
    assert np.median(new) == pytest.approx(0, abs=0.2)


def test_the_length_of_the_features_does_not_count_and_zeros_are_no_error() -> None:
    score, rows = fitted(), clusters(20, 5)
    assert np.allclose(score.scores(rows), score.scores(rows * 7), atol=1e-3)
    assert np.isfinite(score.scores(np.zeros((2, 32), np.float32))).all()


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_few_photos_have_few_prototypes(count: int) -> None:
    found = find_prototypes(clusters(count, 6), classes=5, seed=0)
    assert found.shape == (32, max(1, count // 4))
    lengths = np.linalg.norm(found.astype(np.float32), axis=0)
    assert np.allclose(lengths, 1, atol=1e-3)


def test_many_classes_have_two_prototypes_each() -> None:
    found = find_prototypes(clusters(4000, 8, width=8), classes=400, seed=0)
    assert found.shape == (8, 800)


def test_the_prototypes_are_the_same_on_any_number_of_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = clusters(3000, 9)
    one = find_prototypes(rows, classes=5, seed=3)
    monkeypatch.setattr(parallel, "cores", lambda: 7)
    other = find_prototypes(rows, classes=5, seed=3)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, find_prototypes(rows, classes=5, seed=4))


def test_identical_photos_give_a_finite_score() -> None:
    rows = np.tile(clusters(1, 1), (50, 1))
    found = Unfamiliarity(find_prototypes(rows, classes=2, seed=0))
    score = found.scaled(found.signals(rows), 0.02)
    assert np.isfinite(score.scores(strangers(3, 1))).all()
    assert (score.scores(strangers(3, 1)) > score.scores(rows).max()).all()


def small_score(*, taught: bool = False) -> Unfamiliarity:
    rows = np.abs(strangers(40, 2, 6))
    (layer,) = head((6, 5), seed=3).layers
    small = Dense(layer.weight / np.float32(20), layer.bias) if taught else None
    found = Unfamiliarity(find_prototypes(rows, classes=4, seed=0), small)
    return found.scaled(found.signals(rows), 0.1)


@pytest.mark.parametrize("pooling", ["mean", "flatten"])
@pytest.mark.parametrize("taught", [False, True])
def test_the_graph_computes_the_same(
    backbone: Backbone, pooling: Literal["mean", "flatten"], taught: bool
) -> None:
    graph, score = BackboneGraph.of(backbone), small_score(taught=taught)
    if pooling == "flatten":
        proto = onnx.ModelProto()
        proto.CopyFrom(backbone.proto)
        del proto.graph.node[-2:], proto.graph.output[0]
        proto.graph.node.extend(
            [
                onnx.helper.make_node("Transpose", ["feature_map"], ["turned"], perm=[0, 2, 3, 1]),
                onnx.helper.make_node("Flatten", ["turned"], ["features"]),
            ]
        )
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", 96])
        )
        graph = BackboneGraph(proto, 96, (6, 4, 4), "flatten")
    model = build(graph, head((graph.width, 4)), 1.7, score)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    (features,) = outputs_of(graph.proto, images(), "features")
    (found,) = outputs_of(model, images(), "unfamiliarity")
    assert found.shape == (6,) and found.dtype == np.float32
    assert np.allclose(found, score.scores(graph.to_compare(features)), atol=1e-4)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_every_operator_set_runs_it(tmp_path: Path, opset: int) -> None:
    proto = tiny(weight=0.02)
    proto.opset_import[0].version = opset
    onnx.save(proto, tmp_path / "tiny.onnx")
    model = build(Backbone(tmp_path / "tiny.onnx"), head((6, 4)), 1.0, small_score())
    assert outputs_of(model, images(), "unfamiliarity")[0].shape == (6,)


@pytest.mark.parametrize("taught", [False, True])
def test_taken_apart_it_is_the_same(backbone: Backbone, taught: bool) -> None:
    score = small_score(taught=taught)
    model = build(backbone, head((6, 9, 4)), 1.7, score)
    graph, _, found = take_apart(model, "m.onnx")
    assert found is not None and np.array_equal(found.prototypes, score.prototypes)
    assert np.allclose(found.scales, score.scales, atol=1e-5)
    assert (found.taught is not None) is taught
    rows = strangers(5, 1, 6)
    assert np.allclose(found.scores(rows), score.scores(rows), atol=1e-4)
    names = {node.name for node in graph.proto.graph.initializer}
    assert not any(name.startswith("tailorbird/") for name in names)
    assert take_apart(build(backbone, head((6, 4)), 1.0), "m.onnx")[2] is None


@pytest.mark.parametrize("changed", ["span0", "prototypes", "taught_weight"])
def test_damaged_constants_are_refused(backbone: Backbone, changed: str) -> None:
    model = build(backbone, head((6, 4)), 1.7, small_score(taught=True))
    wrong = {
        "span0": np.float32(0),
        "taught_weight": np.zeros((3, 5), np.float32),
        "prototypes": np.full((6, 2), np.nan, np.float16),
    }[changed]
    tensor = next(t for t in model.graph.initializer if t.name == f"tailorbird/{changed}")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(wrong), tensor.name))
    with pytest.raises(ModelFileError, match="the constants of its unfamiliarity"):
        take_apart(model, "m.onnx")


def write_scored(backbone: Backbone, path: Path, threshold: float, error: float = 0.0) -> Path:
    score = small_score()
    graph = build(backbone, head((6, 4)), 1.7, score)
    probabilities, found = outputs_of(graph, images(), "probabilities", "unfamiliarity")
    write(
        path,
        graph,
        info(threshold=0.0, unfamiliarity={"threshold": threshold}),
        images=images(),
        expected=probabilities,
        unfamiliarity=found + np.float32(error),
    )
    return path


def test_photos_above_the_threshold_are_unfamiliar_and_unsure(
    backbone: Backbone, tmp_path: Path
) -> None:
    low = Classifier(write_scored(backbone, tmp_path / "low.onnx", -1e3))
    high = Classifier(write_scored(backbone, tmp_path / "high.onnx", 1e3))
    refused, taken = low.predict(images()[0]), high.predict(images()[0])
    assert refused.unfamiliar and refused.unsure and not taken.unfamiliar and not taken.unsure
    assert refused.verdict == "none of the classes, it seems: " and taken.verdict == ""
    assert refused.unfamiliarity == taken.unfamiliarity is not None
    assert refused.as_dict()["unfamiliar"] is True and refused.label == taken.label
    found = high.outputs(images(), heatmaps=True)
    assert found.unfamiliarity is not None and found.unfamiliarity.shape == (6,)
    assert found.unfamiliarity[0] == pytest.approx(taken.unfamiliarity, abs=1e-5)
    assert found.heatmaps is not None
    rows, maps = high.run(images(), heatmaps=True)
    assert np.array_equal(found.probabilities, rows) and maps is not None
    assert np.array_equal(found.heatmaps, maps)
    assert low.predict(images()[0], heatmaps=True).heatmaps is not None


def test_a_file_that_disagrees_with_the_pipeline_is_not_written(
    backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="unfamiliarity differs from the pipeline's by up to"):
        write_scored(backbone, tmp_path / "m.onnx", 1.0, error=0.1)
    assert not (tmp_path / "m.onnx").exists()


def test_files_without_it_answer_as_before(write_model: Write) -> None:
    classifier = Classifier(write_model())
    found = classifier.predict(images()[0])
    assert found.unfamiliarity is None and not found.unfamiliar
    assert found.as_dict()["unfamiliarity"] is None
    assert classifier.outputs(images()).unfamiliarity is None and not classifier.knows_unfamiliar


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"threshold": 1.0}, "they must agree: the file was altered"),
        ({"threshold": "low"}, "has the threshold low; it must be a number"),
        ([1], "has the threshold None; it must be a number"),
    ],
)
def test_metadata_that_contradict_the_graph_are_refused(
    write_model: Write, stored: object, message: str
) -> None:
    def alter(model: onnx.ModelProto) -> None:
        import json

        text = onnx_files.metadata(model)["tailorbird"]
        onnx_files.set_metadata(
            model, {"tailorbird": json.dumps({**json.loads(text), "unfamiliarity": stored})}
        )

    with pytest.raises(ModelFileError, match=message):
        Classifier(write_model(alter=alter))
