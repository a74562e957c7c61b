from __future__ import annotations

import io
import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from support.data import encoded, picture
from support.tiny_backbone import tiny
from tailorbird import onnx_files
from tailorbird.backbone import Backbone
from tailorbird.errors import (
    ModelFileError,
    SettingsError,
    TrainingError,
    UnreadableImage,
    UnsupportedImage,
)
from tailorbird.head import Dense, Head
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.metrics.calibration import softmax
from tailorbird.model import Classifier, Failure, ModelInfo
from tailorbird.model.file import write
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.metadata import KEY

CLASSES = ("disc", "box", "cross", "star")


def head(sizes: tuple[int, ...], seed: int = 0) -> Head:
    random = np.random.default_rng(seed)
    return Head(
        tuple(
            Dense(
                (random.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32),
                random.normal(size=b).astype(np.float32) * 0.3,
            )
            for a, b in pairwise(sizes)
        )
    )


def info(classes: tuple[str, ...] = CLASSES, **changes: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "classes": classes,
        "resize": ResizeRule(16),
        "threshold": 0.4,
        "temperature": 1.7,
        "scores": {},
        "backbone": {"name": "tiny"},
        "settings": {},
        "seed": 0,
        "data": {},
        "versions": {},
        "created": "2026-01-01T00:00:00+00:00",
    }
    return ModelInfo(**{**values, **changes})


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    path = tmp_path / "tiny.backbone.onnx"
    onnx.save(tiny(weight=0.02), path)
    return Backbone(path)


def images(n: int = 6) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 16, 16, 3), np.uint8)


def run(model: onnx.ModelProto, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
    return Runner(model, "test", ModelFileError).run(pixels, outputs)


def reference_grad_cam(
    backbone: Backbone, layers: Head, pixels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and heat maps with gradients from finite differences in float64."""
    feature_map = run(backbone.proto, pixels, "feature_map")[0].astype(np.float64)

    def logits(maps: np.ndarray) -> np.ndarray:
        x = maps.mean(axis=(2, 3))
        for number, layer in enumerate(layers.layers):
            x = x @ layer.weight.astype(np.float64) + layer.bias
            x = np.maximum(x, 0) if number + 1 < len(layers.layers) else x
        return np.asarray(x)

    probabilities = softmax(logits(feature_map) / temperature)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : min(3, probabilities.shape[1])]
    n, channels, height, width = feature_map.shape
    gradient = np.zeros((n, probabilities.shape[1], channels))
    step = 1e-4
    for channel in range(channels):
        for y, x in np.ndindex(height, width):
            up, down = feature_map.copy(), feature_map.copy()
            up[:, channel, y, x] += step
            down[:, channel, y, x] -= step
            # Grad-CAM's alpha: the gradient averaged over positions.
            gradient[:, :, channel] += (logits(up) - logits(down)) / (2 * step) / (height * width)
    chosen = np.take_along_axis(gradient, top[:, :, None], axis=1)
    return probabilities, np.maximum(np.einsum("ntk,nkhw->nthw", chosen, feature_map), 0)


@pytest.mark.parametrize("sizes", [(6, 4), (6, 9, 4), (6, 9, 5, 4), (6, 2), (6, 7, 3)])
def test_probabilities_and_grad_cam_in_the_graph_are_exact(
    backbone: Backbone, sizes: tuple[int, ...]
) -> None:
    layers, pixels = head(sizes), images()
    found = run(build(backbone, layers, 1.7), pixels, "probabilities", "heatmaps")
    probabilities, heatmaps = reference_grad_cam(backbone, layers, pixels, 1.7)
    assert found[0].shape == (6, sizes[-1]) and np.abs(found[0] - probabilities).max() < 1e-6
    assert np.allclose(found[0].sum(axis=1), 1, atol=1e-6)
    assert found[1].shape == (6, min(3, sizes[-1]), 4, 4) and heatmaps.max() > 0
    assert np.abs(found[1] - heatmaps).max() < 1e-5 * max(1.0, float(heatmaps.max()))


def test_the_graph_passes_the_checker_and_keeps_to_standard_operators(backbone: Backbone) -> None:
    model = build(backbone, head((6, 9, 4)), 1.0)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [value.name for value in model.graph.output] == ["probabilities", "heatmaps"]


def test_a_backbone_without_a_map_gives_no_heat_maps(tmp_path: Path) -> None:
    onnx.save(tiny(with_map=False, pool="GlobalMaxPool"), tmp_path / "max.onnx")
    opened = Backbone(tmp_path / "max.onnx")
    model = build(opened, head((6, 4)), 1.0)
    assert [value.name for value in model.graph.output] == ["probabilities"]


def pooled(maps: np.ndarray, pooling: str) -> np.ndarray:
    """Feature maps (N, K, h, w) to features, as Keras pools or flattens (row, column, channel)."""
    if pooling == "flatten":
        return maps.transpose(0, 2, 3, 1).reshape(len(maps), -1)
    return np.asarray(maps.max(axis=(2, 3)) if pooling == "max" else maps.mean(axis=(2, 3)))


def backbone_graph_of(
    backbone: Backbone, pooling: Literal["mean", "max", "flatten"]
) -> BackboneGraph:
    """The map of `tiny` under another pooling."""
    proto = onnx.ModelProto()
    proto.CopyFrom(backbone.proto)
    del proto.graph.node[-2:]
    if pooling == "flatten":
        proto.graph.node.append(
            helper.make_node("Transpose", ["feature_map"], ["pooled"], perm=[0, 2, 3, 1])
        )
    else:
        operator = "GlobalMaxPool" if pooling == "max" else "GlobalAveragePool"
        proto.graph.node.append(helper.make_node(operator, ["feature_map"], ["pooled"]))
    proto.graph.node.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    width = 6 * 16 if pooling == "flatten" else 6
    del proto.graph.output[0]
    proto.graph.output.append(
        helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", width])
    )
    return BackboneGraph(proto, width, (6, 4, 4), pooling)


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten"])
@pytest.mark.parametrize("inner", [(), (9,), (9, 5)])
def test_grad_cam_is_exact_behind_every_pooling(
    backbone: Backbone, pooling: Literal["mean", "max", "flatten"], inner: tuple[int, ...]
) -> None:
    backbone_graph, pixels = backbone_graph_of(backbone, pooling), images()
    layers = head((backbone_graph.width, *inner, 4))
    probabilities, heatmaps = run(
        build(backbone_graph, layers, 1.7), pixels, "probabilities", "heatmaps"
    )
    maps = run(backbone.proto, pixels, "feature_map")[0].astype(np.float64)

    def logits(values: np.ndarray) -> np.ndarray:
        x = pooled(values, pooling)
        for number, layer in enumerate(layers.layers):
            x = x @ layer.weight.astype(np.float64) + layer.bias
            x = np.maximum(x, 0) if number + 1 < len(layers.layers) else x
        return np.asarray(x)

    assert np.abs(probabilities - softmax(logits(maps) / 1.7)).max() < 1e-6
    step, positions = 1e-5, 16
    alpha = np.zeros((len(pixels), 4, 6))
    for channel in range(6):
        for y, x in np.ndindex(4, 4):
            up, down = maps.copy(), maps.copy()
            up[:, channel, y, x] += step
            down[:, channel, y, x] -= step
            alpha[:, :, channel] += (logits(up) - logits(down)) / (2 * step) / positions
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    chosen = np.take_along_axis(alpha, top[:, :, None], axis=1)
    expected = np.maximum(np.einsum("ntk,nkhw->nthw", chosen, maps), 0)
    assert expected.max() > 0 and np.abs(heatmaps - expected).max() < 1e-4 * max(
        1.0, float(expected.max())
    )


def test_positions_that_share_the_maximum_change_nothing(backbone: Backbone) -> None:
    """On a flat colour all inner positions are equal; any rule that shares the slope sums to it."""
    flat = np.full((1, 16, 16, 3), 90, np.uint8)
    maps = run(backbone.proto, flat, "feature_map")[0]
    assert np.ptp(maps, axis=(2, 3)).max() < 1e-5 and maps.max() > 0
    layers = head((6, 4))
    graph = build(backbone_graph_of(backbone, "max"), layers, 1.0)
    probabilities, found = run(graph, flat, "probabilities", "heatmaps")
    top = np.argsort(-probabilities[0])[:3]
    expected = np.maximum(
        np.einsum("kt,khw->thw", layers.layers[0].weight[:, top] / 16, maps[0]), 0
    )
    assert np.abs(found[0] - expected).max() < 1e-5


def test_a_backbone_graph_refuses_shapes_that_contradict_each_other(backbone: Backbone) -> None:
    assert BackboneGraph.of(backbone) == BackboneGraph(backbone.proto, 6, (6, 4, 4), "mean")
    with pytest.raises(
        ValueError, match="pooling is 'none' if and only if there is no feature map"
    ):
        BackboneGraph(backbone.proto, 6, None, "max")
    with pytest.raises(
        ValueError, match=r"flatten of a feature map \(6, 4, 4\) gives 96 features, not 6"
    ):
        BackboneGraph(backbone.proto, 6, (6, 4, 4), "flatten")


Write = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path, backbone: Backbone) -> Write:
    def make(
        name: str = "model.onnx",
        alter: Callable[[onnx.ModelProto], None] | None = None,
        **changes: Any,
    ) -> Path:
        graph = build(backbone, head((6, 9, 4)), 1.7)
        expected = run(graph, images(), "probabilities")[0]
        path = tmp_path / name
        write(path, graph, info(**changes), images=images(), expected=expected)
        if alter:
            model = onnx.load(path)
            alter(model)
            onnx.save(model, path)
        return path

    return make


def test_metadata_read_back(write_model: Write) -> None:
    opened = Classifier(write_model())
    assert replace(opened.info, self_test=()) == info() and opened.classes == CLASSES


def test_writing_refuses_a_file_that_disagrees_with_the_pipeline(
    tmp_path: Path, backbone: Backbone
) -> None:
    graph = build(backbone, head((6, 9, 4)), 1.7)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model before")
    wrong = run(graph, images(), "probabilities")[0] + 0.002
    with pytest.raises(
        TrainingError,
        match=r"differ from the pipeline's by up to 0.002, 0.001 is allowed; it was not written",
    ):
        write(path, graph, info(), images=images(), expected=wrong)
    assert path.read_bytes() == b"the model before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "tiny.backbone.onnx"]


def _metadata(change: Callable[[dict[str, Any]], None]) -> Callable[[onnx.ModelProto], None]:
    def alter(model: onnx.ModelProto) -> None:
        said = json.loads(onnx_files.metadata(model)[KEY])
        change(said)
        onnx_files.set_metadata(model, {KEY: json.dumps(said)})

    return alter


def _custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "ai.evil"
    model.opset_import.append(helper.make_opsetid("ai.evil", 1))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(
        helper.make_function("local", "mine", ["x"], ["y"], [node], [helper.make_opsetid("", 17)])
    )


def _sparse_external(model: onnx.ModelProto) -> None:
    """A constant whose sparse values lie in another file: an attribute, not an initialiser."""
    node = model.graph.node.add()
    node.op_type = "Constant"
    node.output.append("stolen")
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    values = attribute.sparse_tensor.values
    values.data_type, values.data_location = onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    values.dims.append(1)
    entry = values.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"


def _loop(model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.op_type = "Loop"
    node.output.append("never")


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (
            _metadata(lambda said: said.update(format=99)),
            "has format number 99; this tailorbird reads format 1; upgrade tailorbird",
        ),
        (
            _metadata(lambda said: said.update(classes=["a", "b"])),
            "the metadata name 2 classes, the graph gives probabilities float",
        ),
        (
            _metadata(lambda said: said.update(classes=["a", "a", "b", "c"])),
            "'classes' is .*; it must be a list of at least two different names",
        ),
        (
            _metadata(lambda said: said.update(resize={"mode": "squash", "size": 32})),
            "state images of 32 x 32, the graph takes images uint8",
        ),
        (
            _metadata(lambda said: said.update(resize={"mode": "pad", "size": 16})),
            "the resize rule .* is unknown",
        ),
        (
            _metadata(lambda said: said.update(threshold=7)),
            "'threshold' is 7; it must be a number from 0 to 1",
        ),
        (
            _metadata(lambda said: said.update(temperature=float("nan"))),
            "NaN is not a number",
        ),
        (
            _metadata(lambda said: said.pop("scores") and None),
            "'scores' is missing; it must be an object",
        ),
        (
            _metadata(lambda said: said.pop("created") and None),
            "'created' is missing; it must be a text",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {KEY: "{"}),
            "the metadata are not valid JSON",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {KEY: "[1]"}),
            "the metadata are not a JSON object",
        ),
        (
            lambda model: onnx_files.set_metadata(model, {}),
            "is not a tailorbird model: its metadata lack the key",
        ),
        (_external, "keeps weights in another file"),
        (_sparse_external, "keeps weights in another file"),
        (_loop, "contains Loop, which can run without end"),
        (_custom_operator, "operators outside the ONNX standard: ai.evil::"),
        (_function, "defines functions of its own"),
    ],
)
def test_opening_audits_first(
    write_model: Write, alter: Callable[[onnx.ModelProto], None], message: str
) -> None:
    path = write_model(alter=None)
    model = onnx.load(path)
    alter(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        Classifier(path)


def test_truncated_missing_and_foreign_files(write_model: Write, tmp_path: Path) -> None:
    whole = write_model().read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in (0, 4, len(whole) // 3, len(whole) - 10):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"truncated|damaged|lack the key|cannot be run"):
            Classifier(cut)
    with pytest.raises(ModelFileError, match="does not exist; check the path"):
        Classifier(tmp_path / "missing.onnx")
    cut.write_bytes(encoded(picture("disc", 1)))
    with pytest.raises(ModelFileError, match="is not an ONNX file"):
        Classifier(cut)


def test_a_file_over_the_size_cap_is_not_read(
    write_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model()
    monkeypatch.setattr(onnx_files, "MOST_BYTES", 100)
    with pytest.raises(ModelFileError, match="at most 100 are opened"):
        Classifier(path)


def test_predict_takes_paths_bytes_images_and_arrays(write_model: Write, tmp_path: Path) -> None:
    classifier = Classifier(write_model())
    image = picture("disc", 1)
    path = tmp_path / "a photo ü.png"
    image.save(path)
    sources: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        image,
        np.asarray(image),
        image.convert("RGBA"),
    ]
    one_by_one = [classifier.predict(source) for source in sources]
    together = classifier.predict(sources)
    for single, among in zip(one_by_one, together, strict=True):
        assert single.label == one_by_one[0].label
        assert single.probability == pytest.approx(one_by_one[0].probability, abs=1e-6)
        assert among.probability == pytest.approx(single.probability, abs=1e-6)
    assert one_by_one[0].path == str(path) and one_by_one[2].path is None
    assert len(classifier.predict(np.stack([np.asarray(image)] * 3))) == 3
    assert classifier.predict([]) == []


def test_a_pil_image_is_treated_as_its_file_would_be(write_model: Write) -> None:
    classifier = Classifier(write_model())
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    turned = picture("cross", 3, (64, 48)).convert("RGBA")
    for data in (
        encoded(Image.fromarray(ramp), "PNG"),
        encoded(turned, "PNG", exif=exif),
        encoded(turned, "WEBP", exif=exif),
    ):
        assert classifier.predict(Image.open(io.BytesIO(data))).top == classifier.predict(data).top
    cut = encoded(picture("box", 1))[:900]
    assert isinstance(next(classifier.stream([Image.open(io.BytesIO(cut))])), Failure)


def test_fields_and_order_of_a_prediction(write_model: Write) -> None:
    classifier = Classifier(write_model(threshold=0.999))
    found = classifier.predict(picture("box", 1), top=9, heatmaps=True)
    assert found.unsure and found.label == found.top[0][0] and len(found.top) == 4
    assert sum(probability for _, probability in found.top) == pytest.approx(1, abs=1e-5)
    assert (
        found.heatmaps is not None
        and found.heatmaps.shape == (3, 4, 4)
        and (found.heatmaps >= 0).all()
    )
    assert set(found.as_dict()) == {"path", "label", "probability", "unsure", "top"}
    assert not Classifier(write_model("sure.onnx", threshold=0.0)).predict(picture("box", 1)).unsure
    with pytest.raises(SettingsError, match="top is 0; it must be at least 1"):
        classifier.predict(picture("box", 1), top=0)


def test_a_stream_continues_past_bad_photos_in_order_and_reads_as_needed(
    write_model: Write, tmp_path: Path
) -> None:
    classifier = Classifier(write_model())
    good = encoded(picture("disc", 1))
    taken = 0

    def source() -> Any:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield b"broken" if number % 7 == 3 else good

    results = classifier.stream(source(), workers=2)
    first = [next(results) for _ in range(20)]
    assert [isinstance(result, Failure) for result in first] == [
        number % 7 == 3 for number in range(20)
    ]
    assert taken < 60, "memory stays bounded: photos are read as they are needed"
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedImage, match="text is not accepted"):
        classifier.predict([good, b"broken"])
    with pytest.raises(UnreadableImage, match=r"gone\.jpg: no such file"):
        classifier.predict(tmp_path / "gone.jpg")


def test_every_exif_orientation_gives_the_same_prediction(write_model: Write) -> None:
    classifier = Classifier(write_model())
    upright = picture("cross", 3, (64, 48))
    turned: dict[int, Image.Transpose] = {
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        3: Image.Transpose.ROTATE_180,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
    }
    turned |= {
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        7: Image.Transpose.TRANSVERSE,
    }
    expected = classifier.predict(upright)
    for tag, inverse in turned.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        found = classifier.predict(encoded(upright.transpose(inverse), "PNG", exif=exif))
        assert found.top == expected.top, tag


def test_any_runtime_gives_the_same_answer(write_model: Write) -> None:
    """The reference evaluator of the onnx package is another implementation of the standard."""
    from onnx.reference import ReferenceEvaluator

    path = write_model()
    pixels = images(2)
    other: Any = ReferenceEvaluator(onnx.load(path)).run(
        ["probabilities", "heatmaps"], {"images": pixels}
    )
    own = run(onnx.load(path), pixels, "probabilities", "heatmaps")
    assert (
        np.abs(np.asarray(other[0]) - own[0]).max() < 1e-5
        and np.abs(np.asarray(other[1]) - own[1]).max() < 1e-4
    )


def test_a_classifier_can_be_pickled(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    opened = Classifier(trained.name, threads=2)
    stored = pickle.dumps(opened)
    monkeypatch.chdir("/")
    copied = pickle.loads(stored)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    np.testing.assert_allclose(
        copied.probabilities(pixels), opened.probabilities(pixels), atol=1e-6
    )


def _label(classifier: Classifier, path: Path) -> str:
    return classifier.predict(path).label


def test_a_pool_of_processes_can_use_a_classifier(trained: Path, shapes: Path) -> None:
    photos = [shapes / "disc" / "disc-000.jpg", shapes / "box" / "box-000.jpg"]
    classifier = Classifier(trained)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_label, [classifier] * 2, photos))
    assert found == [classifier.predict(photo).label for photo in photos]


def test_file_objects_are_photos(trained: Path, shapes: Path) -> None:
    classifier = Classifier(trained)
    path = shapes / "disc" / "disc-000.jpg"
    expected = classifier.predict(path)
    with path.open("rb") as file:
        found = classifier.predict(file)
    assert (found.path, found.top) == (None, expected.top)
    many = classifier.predict([io.BytesIO(path.read_bytes()), path])
    assert [answer.top for answer in many] == [expected.top] * 2
    with path.open(encoding="latin-1") as text, pytest.raises(UnreadableImage, match="binary mode"):
        classifier.predict(text)
    with pytest.raises(UnreadableImage, match=r"the file object cannot be read: .*closed"):
        classifier.predict(file)


def test_probabilities_that_are_not_finite_name_the_photo(
    trained: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(trained)
    honest = classifier._runner.run_batch

    def damaged(images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        return [np.where(np.isfinite(found), np.nan, 0) for found in honest(images, outputs)]

    monkeypatch.setattr(classifier._runner, "run_batch", damaged)
    with pytest.raises(ModelFileError, match=r"probabilities of .*disc-000\.jpg that are NaN"):
        classifier.predict(shapes / "disc" / "disc-000.jpg")


@pytest.mark.parametrize("layer", [0, 1])
def test_a_head_with_nan_is_refused_whatever_the_processor_makes_of_it(
    backbone: Backbone, layer: int
) -> None:
    """ReLU gives 0 for NaN on some processors, so that running the model may not show it."""
    damaged = head((6, 9, 4))
    damaged.layers[layer].weight[2, 1] = np.nan
    with pytest.raises(TrainingError, match=f"layer {layer + 1} of the head has weights that are"):
        build(backbone, damaged, 1.0)
