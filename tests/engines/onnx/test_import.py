"""ONNX classifiers of several exporters are imported with their own answers and heat maps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from support import onnx_classifiers as files
from support.onnx_classifiers import CLASSES, SIDE, save
from tailorbird.engines.onnx.classifier import open_classifier
from tailorbird.engines.preprocessing import PREPROCESS, prepare
from tailorbird.errors import ModelFileError, SettingsError
from tailorbird.importing import import_model
from tailorbird.inference import Runner
from tailorbird.metrics.calibration import softmax
from tailorbird.model import Classifier
from tailorbird.rendering.probes import probe_images

NAMES = ("ant", "bee", "cow", "dog")
Make = Callable[[], onnx.ModelProto]


def answers(path: Path, images: npt.NDArray[np.uint8], mode: str) -> npt.NDArray[np.float64]:
    """Return the file's own probabilities, one image at a time."""
    model = onnx.load(path)
    chances = "chances" in {name for node in model.graph.node for name in node.output}
    if chances:
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name="chances"))
    runner = Runner(model, "reference", ModelFileError)
    pixels = prepare(images, mode)
    if model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    rows = np.concatenate(
        [runner.run_batch(np.ascontiguousarray(one[None]))[0] for one in pixels]
    ).astype(np.float64)
    if rows.shape[1] == 1:
        return np.concatenate([1 - rows, rows], axis=1)
    return rows if np.allclose(rows.sum(axis=1), 1, atol=1e-4) else softmax(rows)


def imported(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the probabilities of a finished model file."""
    runner = Runner(onnx.load(path), "out", ModelFileError)
    rows: npt.NDArray[np.float32] = runner.run(images, ["probabilities"])[0]
    return rows


@pytest.mark.parametrize(
    ("make", "options", "mode"),
    [
        (files.torchvision, {"classes": NAMES, "preprocess": "imagenet"}, "torch"),
        (files.ultralytics, {}, "unit"),
        (files.custom_vision, {}, "bgr"),
        (files.keras_converted, {"classes": NAMES, "preprocess": "tf"}, "tf"),
        (files.flattened, {"classes": NAMES, "preprocess": "caffe"}, "caffe"),
        (files.binary, {"classes": NAMES[:2], "preprocess": "none"}, "none"),
        (files.normalised_inside, {"classes": NAMES, "size": SIDE}, "unit"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_imported_classifier_answers_as_its_file_does(
    make: Make, options: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    path = save(make(), tmp_path / "model.onnx")
    result = import_model(path, tmp_path / "out.onnx", **options)
    assert result.preprocess == mode and result.heatmaps
    images = probe_images(SIDE, 6)
    rows = imported(tmp_path / "out.onnx", images)
    assert np.abs(rows - answers(path, images, mode)).max() < 1e-5
    assert result.info.classes == NAMES[: len(result.info.classes)]


@pytest.mark.parametrize("make", [files.torchvision, files.flattened, files.keras_converted])
def test_features_are_pooled_from_the_map(make: Make, tmp_path: Path) -> None:
    classifier = open_classifier(save(make(), tmp_path / "model.onnx"))
    graph, head = classifier.backbone_graph("unit")
    features, found = Runner(graph.proto, "graph", ModelFileError).run_batch(
        probe_images(SIDE, 3), ["features", "feature_map"]
    )
    assert found.shape == (3, files.WIDTH, SIDE // 4, SIDE // 4) and (found >= 0).all()
    pooled = (
        found.transpose(0, 2, 3, 1).reshape(3, -1)
        if graph.pooling == "flatten"
        else found.mean(axis=(2, 3))
    )
    assert np.abs(features - pooled).max() < 1e-5
    assert head.layers[-1].weight.shape[1] == CLASSES


def test_every_preprocessing_moves_inside_the_graph(tmp_path: Path) -> None:
    path = save(files.torchvision(), tmp_path / "model.onnx")
    classifier, images = open_classifier(path), probe_images(SIDE, 4)
    for mode in PREPROCESS:
        graph, head = classifier.backbone_graph(mode)
        features = Runner(graph.proto, mode, ModelFileError).run(images, ["features"])[0]
        expected = classifier.logits(images, mode)
        unit = np.abs(expected).max()
        assert np.abs(head.logits(features) - expected).max() < 1e-5 * unit, mode


def test_nothing_below_an_unknown_operator_gives_heat_maps(tmp_path: Path) -> None:
    write = files.Writer()
    pooled = write.node("Flatten", write.node("GlobalAveragePool", files.trunk(write)), axis=1)
    odd = write.node("Tanh", pooled)
    write.node("Gemm", odd, write.normal("w", files.WIDTH, CLASSES), to="logits")
    model = write.model(["N", 3, SIDE, SIDE], {"logits": ["N", CLASSES]})
    path = save(model, tmp_path / "model.onnx")
    result = import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    assert not result.heatmaps and result.agreement < 1e-5
    assert "Tanh" in result.info.settings["no_heatmaps"]


def test_scores_that_only_look_like_probabilities_keep_their_values(tmp_path: Path) -> None:
    write = files.Writer()
    pooled = write.node("Flatten", write.node("GlobalAveragePool", files.trunk(write)), axis=1)
    logits = write.node("Gemm", pooled, write.normal("w", files.WIDTH, CLASSES))
    shares = write.node("Exp", logits)
    total = write.node("ReduceSum", shares, write.weight("axis", np.array([1])), keepdims=1)
    write.node("Div", shares, total, to="output")
    model = write.model(["N", 3, SIDE, SIDE], {"output": ["N", CLASSES]})
    path = save(model, tmp_path / "model.onnx")
    import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    images = probe_images(SIDE, 6)
    rows = imported(tmp_path / "out.onnx", images)
    assert np.abs(rows - answers(path, images, "unit")).max() < 1e-5


@pytest.mark.parametrize("kind", ["mean over images", "operator"])
def test_a_batch_that_is_fixed_beyond_repair_is_refused_with_what_to_do(
    kind: str, tmp_path: Path
) -> None:
    write = files.Writer()
    pooled = write.node("Flatten", write.node("GlobalAveragePool", files.trunk(write)), axis=1)
    if kind == "operator":
        zero = write.weight("zero", np.array([[0]]))
        joined = write.node("ScatterND", pooled, zero, write.normal("row", 1, files.WIDTH))
        joined = write.node("Add", joined, write.node("ReduceSum", pooled, keepdims=1))
    else:
        joined = write.node("ReduceMean", pooled, axes=[0], keepdims=0)
        joined = write.node("Reshape", joined, write.weight("s", np.array([1, files.WIDTH])))
    write.node("Gemm", joined, write.normal("w", files.WIDTH, CLASSES), to="logits")
    model = write.model([1, 3, SIDE, SIDE], {"logits": [1, CLASSES]})
    with pytest.raises(ModelFileError, match=r"fixed to batches of 1 inside; .*dynamic=True"):
        open_classifier(save(model, tmp_path / "model.onnx"))


def rows_before_images(write: files.Writer, tokens: str) -> str:
    """Attention as torch.nn.MultiheadAttention has it: (T, K) for one image, heads in front."""
    first = write.node("Transpose", tokens, perm=[1, 0, 2])
    alone = write.node("Squeeze", first, write.weight("one", np.array([1])))
    parts = []
    for name in "qkv":
        rows = write.node("Gemm", alone, write.normal(name, files.WIDTH, files.WIDTH))
        heads = write.node("Reshape", rows, write.weight(f"{name}h", np.array([64, 2, 3])))
        parts.append(write.node("Transpose", heads, perm=[1, 0, 2]))
    keys = write.node("Transpose", parts[1], perm=[0, 2, 1])
    shares = write.node("Softmax", write.node("MatMul", parts[0], keys), axis=-1)
    mixed = write.node("Transpose", write.node("MatMul", shares, parts[2]), perm=[1, 0, 2])
    flat = write.node("Reshape", mixed, write.weight("rows", np.array([64, files.WIDTH])))
    dense = write.node("Gemm", flat, write.normal("o", files.WIDTH, files.WIDTH))
    seen = write.node("Reshape", dense, write.weight("seen", np.array([64, 1, files.WIDTH])))
    return write.node("Transpose", seen, perm=[1, 0, 2])


def windows(write: files.Writer, tokens: str) -> str:
    """Shifted windows as in Swin: 4 of 16 tokens beside the images, with a mask for each."""
    grid = write.node("Reshape", tokens, write.weight("g", np.array([1, 2, 4, 2, 4, files.WIDTH])))
    apart = write.node("Transpose", grid, perm=[0, 1, 3, 2, 4, 5])
    cut = write.node("Reshape", apart, write.weight("c", np.array([4, 16, files.WIDTH])))
    keys = write.node("Transpose", cut, perm=[0, 2, 1])
    scores = write.node("MatMul", cut, keys)
    masked = write.node("Add", scores, write.normal("mask", 4, 16, 16))
    seen = write.node("MatMul", write.node("Softmax", masked, axis=-1), cut)
    back = write.node("Reshape", seen, write.weight("b", np.array([1, 2, 2, 4, 4, files.WIDTH])))
    ordered = write.node("Transpose", back, perm=[0, 1, 3, 2, 4, 5])
    return write.node("Reshape", ordered, write.weight("t", np.array([1, 64, files.WIDTH])))


def strided(write: files.Writer, tokens: str) -> str:
    """as_strided, as PyTorch's exporter decomposes it: entries of the flattened image by number."""
    flat = write.node("Reshape", tokens, write.weight("flat", np.array([-1])))
    order = np.random.default_rng(2).permutation(64 * files.WIDTH).reshape(1, 64, files.WIDTH)
    return write.node("Gather", flat, write.weight("order", order), axis=0)


def expanded(write: files.Writer, tokens: str) -> str:
    """A target shape that is computed, a token that is expanded, and an Einsum."""
    shape = write.node("Concat", *(write.weight(f"n{n}", np.array([n])) for n in (1, 64)), axis=0)
    whole = write.node("Concat", shape, write.weight("k", np.array([files.WIDTH])), axis=0)
    same = write.node("Reshape", tokens, whole)
    mean = write.node("ReduceMean", same, axes=[1], keepdims=1)
    wide = write.node("Expand", mean, write.weight("e", np.array([1, 64, files.WIDTH])))
    dense = write.normal("d", files.WIDTH, files.WIDTH)
    return write.node("Einsum", write.node("Add", same, wide), dense, equation="btk,kl->btl")


@pytest.mark.parametrize("block", [rows_before_images, windows, strided, expanded])
def test_a_transformer_for_one_image_takes_any_number(
    block: Callable[[files.Writer, str], str], tmp_path: Path
) -> None:
    write = files.Writer()
    shape = write.weight("tokens", np.array([1, files.WIDTH, 64]))
    tokens = write.node(
        "Transpose", write.node("Reshape", files.trunk(write), shape), perm=[0, 2, 1]
    )
    pooled = write.node("ReduceMean", block(write, tokens), axes=[1], keepdims=0)
    write.node("Gemm", pooled, write.normal("w", files.WIDTH, CLASSES), to="logits")
    path = save(write.model([1, 3, SIDE, SIDE], {"logits": [1, CLASSES]}), tmp_path / "model.onnx")
    result = import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    assert "takes 1 at a time; the model file takes any number" in result.notes[0]
    images = probe_images(SIDE, 5)
    rows = imported(tmp_path / "out.onnx", images)
    assert np.abs(rows - answers(path, images, "unit")).max() < 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-4, "the images differ"


def test_a_token_joined_to_one_image_is_joined_to_each(tmp_path: Path) -> None:
    """As a vision transformer's class token, in a file that takes one image at a time."""
    write = files.Writer()
    tokens = write.node("Reshape", files.trunk(write), write.weight("s", np.array([1, 6, 64])))
    token = write.normal("token", 1, 6, 1)
    joined = write.node("Concat", token, tokens, axis=2)
    pooled = write.node("ReduceMean", joined, axes=[2], keepdims=0)
    write.node("Gemm", pooled, write.normal("w", files.WIDTH, CLASSES), to="logits")
    model = write.model([1, 3, SIDE, SIDE], {"logits": [1, CLASSES]})
    model.graph.node[2].attribute.append(helper.make_attribute("allowzero", 1))
    path = save(model, tmp_path / "model.onnx")
    result = import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    assert "takes 1 at a time" in result.notes[0] and "2 nodes" in result.notes[0]
    images = probe_images(SIDE, 5)
    gap = imported(tmp_path / "out.onnx", images) - answers(path, images, "unit")
    assert np.abs(gap).max() < 1e-5


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    """As PyTorch exports: the weights in model.onnx.data."""
    onnx.save(
        files.torchvision(),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    result = import_model(
        tmp_path / "model.onnx", tmp_path / "out.onnx", classes=NAMES, preprocess="unit"
    )
    assert result.agreement < 1e-5 and result.heatmaps
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx\.data, which is not beside it"):
        import_model(tmp_path / "model.onnx", tmp_path / "b.onnx", classes=NAMES)


def hostile(kind: str) -> onnx.ModelProto:
    model = files.torchvision()
    if kind == "domain":
        model.graph.node[0].domain = "evil"
        model.opset_import.append(helper.make_opsetid("evil", 1))
    elif kind == "outside":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    elif kind == "loop":
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["c2"])],
            "body",
            [
                helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
                helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("c2", onnx.TensorProto.BOOL, [])],
        )
        node = helper.make_node("Loop", ["", ""], [], body=body)
        model.graph.node.append(node)
    return model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("domain", "operators outside the ONNX standard"),
        ("outside", "outside its own folder"),
        ("loop", "contains Loop, which can run without end"),
    ],
)
def test_unsafe_files_are_refused(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile(kind).SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        import_model(path, tmp_path / "out.onnx", classes=NAMES, preprocess="unit")
    assert not (tmp_path / "out.onnx").exists()


def test_files_that_are_no_classifier_or_need_no_import_say_so(
    tmp_path: Path, trained: Path
) -> None:
    def refused(path: Path, **options: Any) -> str:
        with pytest.raises((ModelFileError, SettingsError)) as found:
            import_model(path, tmp_path / "out.onnx", **{"classes": NAMES, **options})
        return str(found.value)

    assert "needs no import" in refused(trained)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing at all")
    assert "is not an ONNX file" in refused(broken)
    plain = save(files.torchvision(), tmp_path / "model.onnx")
    assert "how the pixels were prepared in training is not in the file" in refused(plain)
    assert "4 outputs but 2 classes are named" in refused(plain, classes=NAMES[:2])
    assert "does not name its 4 classes" in refused(plain, classes=())
    assert "takes images of 32 x 32 pixels" in refused(plain, size=64, preprocess="unit")
    assert "preprocess is 'xception'; it must be one of tf" in refused(plain, preprocess="xception")
    free = save(files.normalised_inside(), tmp_path / "free.onnx")
    assert "takes images of any size; give the one it was trained at" in refused(free)
    write = files.Writer()
    files.trunk(write)
    write.nodes[-1].output[0] = "map"
    dense = write.model(["N", 3, SIDE, SIDE], {"map": ["N", files.WIDTH, 8, 8]})
    assert "made for another task" in refused(save(dense, tmp_path / "map.onnx"))


def test_a_wrong_preprocessing_is_noticed_on_photos(tmp_path: Path, shapes: Path) -> None:
    """A classifier that was made for pixels / 255, told to take them as they are."""
    from tailorbird.training import train

    train(shapes, tmp_path / "own.onnx", backbone="pocket")
    proto = onnx.load(tmp_path / "own.onnx")
    # The trained model with an input of floats from 0 to 1, as another framework would export it.
    write = files.Writer()
    hundreds = write.weight("hundreds", np.array(255, np.float32))
    bounds = [write.weight(str(value), np.array(value, np.float32)) for value in (0, 255)]
    scaled = write.node("Clip", write.node("Mul", "input", hundreds), *bounds)
    last = write.node("Transpose", scaled, perm=[0, 2, 3, 1])
    rounded = write.node("Round", last)
    write.nodes.append(helper.make_node("Cast", [rounded], ["images"], to=onnx.TensorProto.UINT8))
    graph = proto.graph
    side = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    nodes = [*write.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(write.weights)
    del graph.input[:], graph.output[:], proto.metadata_props[:]
    graph.input.append(
        helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, side, side])
    )
    graph.output.append(
        helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 3])
    )
    path = save(proto, tmp_path / "exported.onnx")
    classes = Classifier(tmp_path / "own.onnx").info.classes
    options: dict[str, Any] = {"classes": classes, "validate": shapes}
    found = import_model(path, tmp_path / "found.onnx", **options)
    assert found.preprocess == "unit" and found.test is not None and found.test.accuracy > 0.9
    wrong = import_model(path, tmp_path / "wrong.onnx", preprocess="none", **options)
    assert any("none is probably wrong" in text for text in wrong.warnings), wrong.warnings
    assert any("goes with unit, not none" in text for text in wrong.warnings)


def test_the_import_needs_no_framework(tmp_path: Path) -> None:
    import subprocess

    path = save(files.ultralytics(), tmp_path / "model.onnx")
    code = (
        "import sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'torch', 'timm'): sys.modules[name] = None\n"
        "from tailorbird.importing import import_model\n"
        f"print(import_model({str(path)!r}, {str(tmp_path / 'out.onnx')!r}).info.classes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(NAMES), done.stderr
