"""Import of Keras classifiers: equal probabilities, exact heat maps, clear refusals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from support.data import SHARED, draw_dataset, needs_shared
from support.documented_json import problems, schemas
from support.jax_backend import jax_environment
from support.keras_classifiers import (
    SIDE,
    WITH_MAPS,
    WITHOUT_MAPS,
    as_keras_2,
    averaged,
    convolutions,
    flattened,
    functional,
    keras,
    lively,
    logits,
    nested_base,
    pooled_by_convolution,
    separable,
    two_class_sigmoid,
)
from support.serving import serving
from tailorbird import images, onnx_files
from tailorbird.demo import draw
from tailorbird.engines.keras import classifier as keras_models
from tailorbird.engines.keras import legacy_configs, model_files
from tailorbird.engines.keras.converter.graph import replay
from tailorbird.engines.keras.recognition import PREPROCESS_NAMES
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.engines.preprocessing import prepare as pixels_for
from tailorbird.errors import (
    DatasetError,
    HubError,
    ModelFileError,
    SettingsError,
    StorageError,
    TrainingError,
)
from tailorbird.explanation import explain
from tailorbird.images import ResizeRule, resize
from tailorbird.importing import import_application, import_model, read_classes
from tailorbird.importing.photos import halves, read_scoring_data
from tailorbird.importing.preprocess import best, compare
from tailorbird.inference import Runner
from tailorbird.metrics.calibration import softmax
from tailorbird.model import Classifier
from tailorbird.model.graph import build

NAMES = ("ant", "bee", "cow", "dog", "eel")
OTHER_BACKEND = os.environ.get("KERAS_BACKEND") == "jax"


def pictures(count: int = 6, side: int = SIDE) -> npt.NDArray[np.uint8]:
    rule = ResizeRule(side)
    return np.stack(
        [resize(draw("dress" if n % 2 else "shoes", n).image, rule) for n in range(count)]
    )


def save(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def probabilities(model: Any, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """What Keras itself says, as probabilities of each class."""
    rows = keras().ops.convert_to_numpy(model(pixels, training=False)).astype(np.float64)
    if rows.shape[1] == 1:
        return np.concatenate([1 - rows, rows], axis=1)
    return (
        rows if np.allclose(rows.sum(axis=1), 1, atol=5e-3) and (rows >= 0).all() else softmax(rows)
    )


def gradients(
    function: Callable[[Any], Any], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """d function(values)[n, class] / d values by the backend's own differentiation: (N, C, ...)."""
    backend = keras().backend.backend()
    outputs = np.asarray(keras().ops.convert_to_numpy(function(values))).shape[1]
    found = []
    for number in range(outputs):
        if backend == "jax":
            import jax

            found.append(np.asarray(jax.grad(lambda x, c=number: function(x)[:, c].sum())(values)))
        else:
            import tensorflow as tf

            variable = tf.Variable(values)
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(function(variable)[:, number])
            found.append(tape.gradient(total, variable).numpy())
    return np.stack(found, axis=1).astype(np.float64)


def reference_maps(
    classifier: keras_models.KerasClassifier, pixels: npt.NDArray[np.float32]
) -> tuple[Any, Any]:
    """Return Grad-CAM (N, C, h, w) by differentiating the Keras layers, and logits."""
    structure, graph = classifier.structure, classifier.graph
    assert structure.feature_map is not None
    feature_map = keras().ops.convert_to_numpy(
        replay(graph.nodes, {graph.inputs[0].key: pixels}, structure.feature_map.key, _calm)
    )
    last: Any = structure.activation

    def rows(values: Any) -> Any:
        def call(node: Any, args: Any, kwargs: Any) -> Any:
            if last is None or node is not last:
                return _calm(node, args, kwargs)
            if last.kind in ("Dense", "Conv2D"):
                kernel, bias = node.operation.kernel, node.operation.bias
                return keras().ops.matmul(args[0], kernel) + bias
            return args[0]

        key = structure.feature_map.key if structure.feature_map else ""
        found = replay(graph.nodes, {key: values}, graph.outputs[0].key, call)
        return (
            keras().ops.concatenate([-found / 2, found / 2], axis=1)
            if found.shape[1] == 1
            else found
        )

    slopes = gradients(rows, feature_map)  # (N, C, h, w, K)
    weights = slopes.mean(axis=(2, 3))
    maps = np.maximum(np.einsum("nck,nhwk->nchw", weights, feature_map.astype(np.float64)), 0)
    return maps, keras().ops.convert_to_numpy(rows(feature_map))


def _calm(node: Any, args: Any, kwargs: Any) -> Any:
    if getattr(node.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


def imported(
    model: Any, tmp_path: Path, suffix: str = ".keras", **options: Any
) -> tuple[Any, Classifier]:
    path = save(model, tmp_path / f"model{suffix}")
    outputs = model.outputs[0].shape[-1]
    options = {"classes": list(NAMES[: max(2, outputs)]), "preprocess": "tf", **options}
    result = import_model(path, tmp_path / "model.onnx", **options)
    return result, Classifier(tmp_path / "model.onnx")


@pytest.mark.parametrize("make", WITH_MAPS, ids=lambda make: make.__name__)
def test_built_in_many_ways_the_answers_and_the_heat_maps_are_those_of_keras(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    keras().utils.set_random_seed(3)
    model = lively(make())
    # The file of Keras 3, or its .h5, by turns; half precision and the rest is below.
    result, classifier = imported(model, tmp_path, ".h5" if make.__name__[0] in "fdm" else ".keras")
    photos = pictures()
    pixels = pixels_for(photos, "tf")
    expected = probabilities(model, pixels)
    found, maps = classifier.run(photos, heatmaps=True)
    assert np.abs(found - expected).max() < 1e-5 and result.agreement < 1e-5
    assert found.std(axis=0).max() > 1e-4, "the pictures must differ"
    reference, rows = reference_maps(keras_models.classifier_of(model, "model"), pixels)
    assert np.abs(softmax(rows) - expected).max() < 1e-5
    top = np.argsort(-found, axis=1, kind="stable")[:, : min(3, found.shape[1])]
    chosen = np.take_along_axis(reference, top[:, :, None, None], axis=1)
    assert maps is not None and maps.shape == chosen.shape and chosen.max() > 0
    assert np.abs(maps - chosen).max() < 1e-4 * chosen.max()


@pytest.mark.parametrize("make", WITHOUT_MAPS, ids=lambda make: make.__name__)
def test_built_otherwise_there_are_no_heat_maps_and_it_is_said_why(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    keras().utils.set_random_seed(3)
    model = lively(make())
    result, classifier = imported(model, tmp_path)
    photos = pictures()
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-5
    )
    assert not result.heatmaps and not classifier.has_heatmaps
    with pytest.raises(
        SettingsError,
        match=r"has no heat maps: between pooling and output stands .*(tanh|Normal|Average)",
    ):
        classifier.predict(photos[0], heatmaps=True)
    with pytest.raises(
        SettingsError,
        match="no product of matrices; train with a backbone that has one, such as pocket",
    ):
        explain(classifier, photos[0])


@pytest.mark.slow
@pytest.mark.skipif(
    OTHER_BACKEND or find_spec("jax") is None,
    reason="this is the other backend, or it is not installed",
)
def test_the_same_on_another_backend() -> None:
    """JAX in a process of its own: Keras has one backend for each."""
    # Those whose ends differ most; JAX compiles each operation anew, which takes seconds a network.
    chosen = "nested_base or two_class_sigmoid or max_pooling"
    options = ["-q", "-p", "no:cacheprovider", "-k", f"built_in and ({chosen})"]
    command = [sys.executable, "-m", "pytest", __file__, *options]
    done = subprocess.run(
        command, env=jax_environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout


@pytest.mark.parametrize("mode", PREPROCESS)
def test_pixels_are_prepared_as_keras_does(mode: str, tmp_path: Path) -> None:
    model = lively(functional())
    _, classifier = imported(model, tmp_path, preprocess=mode)
    photos = pictures(3)
    values: Any = photos.astype(np.float32)
    if mode in ("tf", "torch", "caffe"):
        values = np.asarray(
            keras().applications.imagenet_utils.preprocess_input(
                values.copy(), data_format="channels_last", mode=mode
            )
        )
    elif mode == "unit":
        values = values / 255
    assert np.abs(classifier.probabilities(photos) - probabilities(model, values)).max() < 1e-4


def test_the_names_of_applications_mean_what_keras_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    for module, mode in PREPROCESS_NAMES.items():
        expected = np.asarray(getattr(keras().applications, module).preprocess_input(pixels.copy()))
        assert np.allclose(pixels_for(pixels.astype(np.uint8), mode), expected, atol=1e-4), module
    modules = {
        name
        for name in dir(keras().applications)
        if hasattr(getattr(keras().applications, name), "preprocess_input")
    }
    assert modules - {"imagenet_utils"} == set(PREPROCESS_NAMES)


def test_a_model_of_keras_2_with_everything_keras_3_refuses(tmp_path: Path) -> None:
    keras().utils.set_random_seed(0)
    model = lively(separable())
    as_keras_2(save(model, tmp_path / "new.h5"), tmp_path / "old.h5")
    with pytest.raises(Exception, match=r"groups|TFOpLambda|rng_type|axis"):
        keras().saving.load_model(tmp_path / "old.h5", compile=False)
    before = (tmp_path / "old.h5").read_bytes()
    result = import_model(tmp_path / "old.h5", tmp_path / "model.onnx", classes="ant,bee,cow")
    assert (tmp_path / "old.h5").read_bytes() == before
    assert result.preprocess == "none" and "(Rescaling)" in result.preprocess_reason
    assert any("SeparableConv2D without groups" in note for note in result.notes)
    photos = pictures()
    expected = probabilities(model, photos.astype(np.float32))
    assert np.abs(Classifier(tmp_path / "model.onnx").probabilities(photos) - expected).max() < 1e-5


def test_what_a_rewritten_configuration_keeps() -> None:
    call = [["image", 0, 0, {"y": 2.0, "name": None}]]
    layer = {
        "class_name": "TFOpLambda",
        "name": "half",
        "config": {"name": "half", "function": "math.truediv"},
        "inbound_nodes": call,
    }
    given = {
        "class_name": "Functional",
        "config": {"layers": [layer], "output_layers": [["half", 0, 0]]},
    }
    found, changes = legacy_configs.upgrade(given, "2.9.0", h5=True)
    (made,) = found["config"]["layers"]
    assert made["class_name"] == "Rescaling" and made["config"]["scale"] == 0.5
    assert made["inbound_nodes"] == [[["image", 0, 0, {}]]] and found["config"][
        "output_layers"
    ] == ["half", 0, 0]
    assert changes == ("read as Rescaling: half",) and layer["class_name"] == "TFOpLambda"
    other = {**layer, "config": {"name": "half", "function": "math.tanh"}}
    with pytest.raises(
        ModelFileError, match=r"layers that are not Keras' own: 'half' \(TFOpLambda\)"
    ):
        model_files.check_config(
            legacy_configs.upgrade({"layers": [other]}, "2.9.0", h5=True)[0], "x.h5"
        )
    depthwise = {"class_name": "DepthwiseConv2D", "config": {"name": "d", "groups": 2}}
    assert legacy_configs.upgrade(depthwise, "2.9.0", h5=True)[0] == depthwise, (
        "groups that mean something stay"
    )


def test_half_precision_is_computed_in_full(tmp_path: Path) -> None:
    keras().config.set_dtype_policy("mixed_float16")
    try:
        model = lively(nested_base())
    finally:
        keras().config.set_dtype_policy("float32")
    result, classifier = imported(model, tmp_path)
    assert "computed in float32" in " ".join(result.notes) and result.agreement < 1e-5
    photos = pictures()
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-2
    )


class Custom:
    """Made late: Keras is not imported with the tests."""

    @staticmethod
    def model() -> Any:
        class Doubled(keras().layers.Layer):  # type: ignore[misc]
            def call(self, x: Any) -> Any:
                return 2 * x

        image = keras().Input((SIDE, SIDE, 3))
        x = keras().layers.GlobalAveragePooling2D()(Doubled(name="twice")(convolutions(image)))
        return keras().Model(image, keras().layers.Dense(3)(x))


def with_lambda() -> Any:
    image = keras().Input((SIDE, SIDE, 3))
    x = keras().layers.Lambda(lambda t: t / 2, name="halved")(convolutions(image))
    return keras().Model(image, keras().layers.Dense(3)(keras().layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_is_refused_by_name_before_anything_is_made(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(with_lambda(), tmp_path / f"model{suffix}")
    custom = save(Custom.model(), tmp_path / f"custom{suffix}")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be constructed")

    monkeypatch.setattr(keras().saving, "load_model", never)
    with pytest.raises(
        ModelFileError, match=r"holds program code, .* never run: 'halved' \(Lambda\); build"
    ):
        model_files.load(path)
    with pytest.raises(
        ModelFileError, match=r"layers that are not Keras' own: 'twice' \(Doubled\)"
    ):
        model_files.load(custom)


@pytest.mark.parametrize(
    "item",
    [
        {"module": "builtins", "class_name": "eval", "config": {}},
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": "https://example.org/x"},
        {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "registered_name": "mine>Dense",
            "config": {"name": "d"},
        },
        {"module": "keras", "class_name": "__lambda__", "config": {}},
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"name": "t", "filepath": "/etc"},
        },
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"name": "t"}},
        {"class_name": "function", "config": "my_activation"},
        {"class_name": ["Dense"], "config": {}},
    ],
)
def test_configurations_that_would_make_other_things_are_refused(item: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"program code|not Keras' own"):
        model_files.check_config(
            {"class_name": "Sequential", "config": {"layers": [{"deep": [item]}]}}, "x.keras"
        )


def _rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return target


def test_files_that_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = functional()
    good, old = save(model, tmp_path / "good.keras"), save(model, tmp_path / "good.h5")

    def refused(path: Path, message: str) -> None:
        with pytest.raises(ModelFileError, match=message):
            model_files.load(path)

    refused(tmp_path / "none.keras", "does not exist; give a .keras or .h5 file")
    for name, content, message in (
        ("empty.keras", b"", "is empty"),
        ("text.keras", b"hello", "neither a .keras archive nor an HDF5 file"),
        ("cut.keras", good.read_bytes()[:-200], "damaged or truncated"),
        ("cut.h5", old.read_bytes()[:2000], "damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, message)
    broken = bytearray(good.read_bytes())
    middle = len(broken) // 2
    broken[middle : middle + 50] = b"x" * 50
    (tmp_path / "broken.keras").write_bytes(bytes(broken))
    refused(tmp_path / "broken.keras", "damaged")
    refused(
        _rewrite(good, tmp_path / "a.keras", lambda parts: parts.__delitem__("config.json")),
        "lacks config.json",
    )
    refused(
        _rewrite(good, tmp_path / "b.keras", lambda parts: parts.update({"config.json": b"{"})),
        "is not JSON",
    )
    refused(
        _rewrite(good, tmp_path / "c.keras", lambda parts: parts.update({"config.json": b"[1]"})),
        "not a JSON object",
    )
    refused(
        _rewrite(good, tmp_path / "d.keras", lambda parts: parts.update({"../x": b""})),
        "beside configuration and weights",
    )
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    refused(
        _rewrite(good, tmp_path / "e.keras", lambda parts: parts.update({"config.json": deep})),
        "not JSON|not Keras' own|cannot be read",
    )
    model.save_weights(tmp_path / "model.weights.h5")
    refused(tmp_path / "model.weights.h5", "holds weights alone, not the network")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(tmp_path / "other.h5", "no Keras model: it has no model_config")
    (tmp_path / "saved").mkdir()
    refused(tmp_path / "saved", "is a folder; give the .keras or .h5 file")
    (tmp_path / "saved" / "saved_model.pb").touch()
    refused(tmp_path / "saved", "SavedModel folder.*pip install tf_keras")
    monkeypatch.setattr(model_files, "MOST_BYTES", 4_000)
    refused(old, "at most 4,000 are opened")
    small = tmp_path / "bomb.keras"
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("metadata.json", b"{}")
        archive.writestr("model.weights.h5", b"\0" * 100_000)
    assert small.stat().st_size < 4_000
    refused(small, "unpacks to 100,004 bytes")


def test_weights_that_lead_elsewhere_or_unpack_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save(functional(), tmp_path / "good.h5")

    def altered(name: str, change: Callable[[Any], None]) -> Path:
        path = tmp_path / name
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def external(file: Any) -> None:
        file["model_weights"].create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])

    def linked(file: Any) -> None:
        file["model_weights"]["x"] = h5py.ExternalLink("/tmp/other.h5", "/x")

    def large(file: Any) -> None:
        file["model_weights"].create_dataset(
            "x", (100_000_000_000,), "f4", chunks=(1024,), compression="gzip"
        )

    for name, change, message in (
        ("external.h5", external, "keeps weights in another file"),
        ("linked.h5", linked, "refers to other places by a link"),
        (
            "large.h5",
            large,
            "unpacks to 400,000,0.. bytes or more|unpacks to [0-9,]+ bytes or more",
        ),
    ):
        with pytest.raises(ModelFileError, match=message):
            model_files.load(altered(name, change))


def test_keras_2_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    as_keras_2(save(functional(), tmp_path / "new.h5"), tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["implementation"] = 7
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(
        ModelFileError,
        match=r"was written by Keras 2.15.0, and Keras 3.* cannot read it .*"
        r"pip install tf_keras.*load_weights",
    ):
        model_files.load(tmp_path / "old.h5")


def _shaped(shape: tuple[int | None, ...], units: int = 3, activation: str = "softmax") -> Any:
    image = keras().Input(shape)
    x = keras().layers.GlobalAveragePooling2D()(keras().layers.Conv2D(4, 3)(image))
    return keras().Model(image, keras().layers.Dense(units, activation=activation)(x))


def test_models_that_are_no_classifiers_of_photos() -> None:
    layers = keras().layers

    def refused(
        model: Any, message: str, size: int | None = None, kind: type[Exception] = ModelFileError
    ) -> None:
        with pytest.raises(kind, match=message):
            keras_models.classifier_of(model, "model.keras", size)

    refused(_shaped((SIDE, SIDE, 1)), "takes grey-scale images")
    refused(_shaped((SIDE, SIDE, 4)), "images of 4 channels")
    refused(
        _shaped((32, 48, 3)),
        r"32 x 48 pixels \(height x width\); a tailorbird model takes square ones",
    )
    refused(
        _shaped((SIDE, SIDE, 3), 3, "sigmoid"),
        "sigmoid over 3 outputs, so several labels can be true",
    )
    refused(
        _shaped((SIDE, SIDE, 3), 1, "softmax"), "softmax over a single output, which is always 1"
    )
    refused(
        _shaped((None, None, 3)),
        "any size; give the one it was trained at, such as --size 150",
        kind=SettingsError,
    )
    refused(
        _shaped((SIDE, SIDE, 3)), "--size is 64, but .* takes images of 32 x 32", 64, SettingsError
    )
    one, other = keras().Input((SIDE, SIDE, 3)), keras().Input((SIDE, SIDE, 3))
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Add()([one, other])))
    refused(keras().Model([one, other], x), "a classifier of photos has one, ")
    pooled = layers.GlobalAveragePooling2D()(one)
    refused(keras().Model(one, [layers.Dense(3)(pooled), layers.Dense(2)(pooled)]), "has 2 outputs")
    refused(keras().Model(one, layers.Conv2D(3, 1)(one)), "made for another task")
    vector = keras().Input((7,))
    refused(
        keras().Model(vector, layers.Dense(3)(vector)),
        "has inputs of shape .None, 7.; a classifier of photos",
    )

    class Own(keras().Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    refused(Own(name="own"), "'own' is a subclass")


def test_a_model_of_any_size_is_imported_at_the_size_given(tmp_path: Path) -> None:
    model = lively(_shaped((None, None, 3)))
    result, classifier = imported(model, tmp_path, size=40)
    photos = pictures(4, 40)
    assert classifier.info.resize.size == 40 and result.heatmaps
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-5
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "ant\n\n bee \ncow\n", ("ant", "bee", "cow")),
        ("a.json", '{"bee": 1, "ant": 0}', ("ant", "bee")),
        ("a.json", '["x", "y"]', ("x", "y")),
        ("a.json", '{"0": ["n01", "tench"], "1": ["n02", "crane"]}', ("tench", "crane")),
        ("a.csv", 'wnid,name\nn1,tench\nn2,"great, white"\n', ("tench", "great, white")),
    ],
)
def test_classes_come_in_many_forms(
    name: str, content: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert read_classes(tmp_path / name) == expected


def test_lists_of_classes_that_are_none(tmp_path: Path) -> None:
    assert read_classes("ant, bee") == ("ant", "bee") == read_classes(["ant", "bee"])
    (tmp_path / "twice.txt").write_text("crane\nox\ncrane\ncrane (2)\n")
    assert read_classes(tmp_path / "twice.txt", unique=True) == (
        "crane",
        "ox",
        "crane (3)",
        "crane (2)",
    )
    (tmp_path / "one.txt").write_text("ant\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "gap.json").write_text('{"ant": 0, "bee": 2}')
    for source, message in (
        (tmp_path / "twice.txt", "names 'crane' more than once"),
        (tmp_path / "one.txt", "names 1 classes; at least two"),
        (tmp_path / "bytes.txt", "not text in UTF-8"),
        (tmp_path / "gap.json", "but no list of names"),
        ("missing.txt", "does not exist; give a file"),
        ("ant,,bee", "names 2 classes"),
    ):
        with pytest.raises(SettingsError, match=message):
            read_classes(source)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    path = save(functional(), tmp_path / "model.keras")
    good: dict[str, Any] = {"classes": NAMES, "preprocess": "tf"}
    for changes, message in (
        (
            {"classes": "ant,bee,cow"},
            "has 5 outputs but 3 classes are named .ant, bee, cow.; name each output",
        ),
        (
            {"preprocess": "tflite"},
            "preprocess is 'tflite'; it must be one of tf, caffe, torch, unit, none, or the keras "
            "module",
        ),
        (
            {"preprocess": None},
            "how the pixels were prepared in training is not in the file: give --preprocess",
        ),
        ({"precision": 0.2}, "precision is 0.2"),
        ({"seed": -1}, "seed is -1"),
        ({"output": tmp_path / "model.h5"}, r"must end in \.onnx"),
        ({"output": tmp_path / "no" / "model.onnx"}, "cannot be written"),
    ):
        arguments = {"output": tmp_path / "model.onnx", **good, **changes}
        with pytest.raises(SettingsError, match=message):
            import_model(path, arguments.pop("output"), **arguments)
    one = save(two_class_sigmoid(), tmp_path / "two.keras")
    with pytest.raises(SettingsError, match="has one output, for two classes, but 5"):
        import_model(one, tmp_path / "model.onnx", **good)
    assert not (tmp_path / "model.onnx").exists()


def test_the_preprocessing_is_told_by_the_model(tmp_path: Path) -> None:
    result, _ = imported(lively(nested_base()), tmp_path, preprocess=None)
    assert result.preprocess == "tf" and "keras.applications.xception" in result.preprocess_reason
    assert not result.warnings
    result, _ = imported(nested_base(), tmp_path, preprocess="caffe")
    assert result.preprocess == "caffe" and "goes with tf, not caffe" in result.warnings[0]
    model = keras().Sequential(
        [
            keras().Input((SIDE, SIDE, 3)),
            keras().layers.Rescaling(1 / 127.5, -1, name="scaled"),
            logits(),
        ]
    )
    result, _ = imported(model, tmp_path, preprocess=None)
    assert result.preprocess == "none" and "scaled (Rescaling)" in result.preprocess_reason
    result, _ = imported(model, tmp_path, preprocess="unit")
    assert (
        "prepares its pixels itself, in scaled (Rescaling), after preprocess unit"
        in result.warnings[0]
    )


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("ResNet50", "resnet"),
        ("ResNet50V2", "resnet_v2"),
        ("DenseNet121", "densenet"),
        ("VGG16", "vgg16"),
    ],
)
def test_bases_are_told_by_their_names_and_by_their_layers(name: str, module: str) -> None:
    function = getattr(keras().applications, name)
    image = keras().Input((SIDE, SIDE, 3))
    inlined = function(weights=None, include_top=False, input_tensor=image)
    head = keras().layers.Dense(2)(keras().layers.GlobalAveragePooling2D()(inlined.output))
    found = keras_models.classifier_of(keras().Model(image, head), "x").known_network()
    assert found is not None and found.preprocess == PREPROCESS_NAMES[module]
    nested = keras().Sequential(
        [
            keras().Input((SIDE, SIDE, 3)),
            inlined,
            keras().layers.GlobalAveragePooling2D(),
            keras().layers.Dense(2),
        ]
    )
    told = keras_models.classifier_of(nested, "x").known_network()
    assert told is not None and told.name == f"keras.applications.{module}"


def test_networks_that_prepare_their_pixels_say_so() -> None:
    for name in ("MobileNetV3Small",):
        base = getattr(keras().applications, name)(
            weights=None, include_top=False, input_shape=(SIDE, SIDE, 3), pooling="avg"
        )
        model = keras().Sequential([keras().Input((SIDE, SIDE, 3)), base, keras().layers.Dense(2)])
        assert "Rescaling" in (keras_models.classifier_of(model, "x").own_preprocessing() or "")


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save(functional(), tmp_path / "model.keras").rename(
        tmp_path / "model.zip"
    )  # another suffix: read from a copy
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"the disk is full.*TMPDIR names the folder"):
        import_model(path, tmp_path / "model.onnx", classes=list(NAMES[:5]), preprocess="tf")


@pytest.mark.parametrize(
    "module", ["vgg16", "resnet50", "mobilenet_v2", "densenet"]
)  # caffe's way twice, tf's, torch's
def test_preprocess_input_inside_the_model_is_not_done_twice(module: str, tmp_path: Path) -> None:
    image = keras().Input((SIDE, SIDE, 3))
    x = getattr(keras().applications, module).preprocess_input(image)
    base = keras().Sequential(
        [keras().Input((SIDE, SIDE, 3)), keras().layers.Conv2D(4, 3, activation="relu")],
        name=module,
    )
    pooled = keras().layers.GlobalAveragePooling2D()(base(x))
    model = lively(keras().Model(image, keras().layers.Dense(3, activation="softmax")(pooled)))
    result, classifier = imported(model, tmp_path, preprocess=None)
    assert result.preprocess == "none"
    photos = pictures(3)
    expected = probabilities(model, photos.astype(np.float32))
    assert np.abs(classifier.probabilities(photos) - expected).max() < 1e-4


LABELS = ("box", "cross", "disc")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 drawn pictures the classifier below has not seen."""
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
    )  # three times too sure, for calibration to find
    return save(model, tmp_path_factory.mktemp("fitted") / "model.keras")


def test_photos_calibrate_and_score(fitted: Path, drawn: Path, tmp_path: Path) -> None:
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
    photos = pictures()
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


def test_a_wrong_preprocess_is_noticed_and_the_right_one_found(
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


def test_comparing_ways_to_prepare_pixels() -> None:
    labels = np.zeros(100, np.int64)
    right, wrong = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    rows = {
        "tf": np.array([right] * 60 + [wrong] * 40),
        "torch": np.array([right] * 90 + [wrong] * 10),
        "unit": np.array([wrong] * 10 + [right] * 89 + [wrong]),
        "none": np.array([right] * 62 + [wrong] * 38),
    }
    found = compare(rows, labels, "tf")
    assert found.better is not None and found.better.preprocess == "torch" and found.accuracy == 0.6
    assert "import again with --preprocess torch" in (found.warning or "")
    alone = compare({name: rows[name] for name in ("tf", "none")}, labels, "tf")
    assert alone.better is None and alone.warning is None, "two photos more are chance"
    sure = {**rows, "unit": 3 * rows["torch"] * (rows["torch"] == 2.0) / 2}
    chosen, why = best({name: sure[name] for name in ("torch", "unit", "tf")}, labels)
    assert chosen in ("torch", "unit") and "cannot be told from it" in why and "tf 60.0%" in why


def test_classes_in_the_wrong_order_and_photos_of_others(
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


def _parts(folder: Path) -> tuple[int, int, str]:
    found = read_scoring_data(folder, LABELS, 0)
    return len(found.calibration), len(found.test), found.how


def test_splits_are_honoured(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "test", LABELS, count=6, seed=1)
    draw_dataset(tmp_path / "train", LABELS, count=4, seed=2)
    calibration, test, how = _parts(tmp_path)
    assert (calibration, test) == (
        9,
        9,
    ) and how == "calibrated on one half of test, scored on the other"
    draw_dataset(tmp_path / "val", LABELS, count=5, seed=3)
    assert _parts(tmp_path) == (15, 18, "calibrated on validation, scored on test")
    only = tmp_path / "only"
    draw_dataset(only / "train", LABELS, count=4, seed=2)
    assert "if the model was trained on these photos" in _parts(only)[2]


def test_halves_keep_copies_together_and_each_class_in_both(tmp_path: Path) -> None:
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


def test_a_network_that_onnx_computes_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(lively(functional()), tmp_path / "model.keras")
    true = keras_models.KerasClassifier.logits

    def other(*arguments: Any) -> Any:
        return true(*arguments) * [1.05, 1, 1, 1, 1] + [0.1, 0, 0, 0, 0]

    monkeypatch.setattr(keras_models.KerasClassifier, "logits", other)
    with pytest.raises(
        TrainingError,
        match=r"the network in ONNX and Keras itself differ by up to .*nothing was written",
    ):
        import_model(path, tmp_path / "model.onnx", classes=NAMES, preprocess="tf")
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_was_not_scored_says_so_everywhere(
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


def test_the_keras_description_of_a_backbone_stays_in_its_models(tmp_path: Path) -> None:
    from tailorbird.engines.registry import carried
    from tailorbird.model.file import write

    path = save(lively(functional()), tmp_path / "model.keras")
    result = import_model(path, tmp_path / "model.onnx", classes=NAMES, preprocess="tf")
    classifier = keras_models.open_classifier(path)
    backbone_graph, head = classifier.backbone_graph("tf")
    onnx_files.set_metadata(
        backbone_graph.proto, {"keras": '{"a": 1}', "name": "x", "tailorbird": "not ours"}
    )
    photos = pictures(2)
    expected = softmax(classifier.logits(photos, "tf"))
    write(
        tmp_path / "b.onnx",
        build(backbone_graph, head, 1.0),
        result.info,
        images=photos,
        expected=expected,
        extra=carried(backbone_graph.proto),
    )
    kept = onnx_files.metadata(onnx.load(tmp_path / "b.onnx"))
    assert kept["keras"] == '{"a": 1}' and set(kept) == {"keras", "tailorbird"}
    info = Classifier(tmp_path / "b.onnx").info
    assert info.self_test and replace(info, self_test=()) == replace(result.info, self_test=())


@pytest.mark.parametrize(
    "make", [nested_base, flattened, pooled_by_convolution], ids=lambda make: make.__name__
)
def test_the_network_below_the_head_can_be_had_again(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    from tailorbird.engines.keras.description import rebuild

    model = lively(make())
    _, classifier = imported(model, tmp_path)
    base, mode = rebuild(onnx.load(classifier.path), SIDE)
    opened = keras_models.classifier_of(model, "x")
    _, head = opened.backbone_graph("tf")
    photos = pixels_for(pictures(), mode)
    features = keras().ops.convert_to_numpy(base(photos, training=False))
    assert (
        mode == "tf"
        and np.abs(softmax(head.logits(features)) - probabilities(model, photos)).max() < 1e-5
    )


def test_averaged_probabilities_are_taken_as_logarithms(tmp_path: Path) -> None:
    model = lively(averaged())
    backbone_graph, head = keras_models.classifier_of(model, "x").backbone_graph("tf")
    (found,) = Runner(build(backbone_graph, head, 2.0), "x", ModelFileError).run(pictures())
    expected = np.sqrt(probabilities(model, pixels_for(pictures(), "tf")))
    assert np.abs(found - expected / expected.sum(axis=1, keepdims=True)).max() < 1e-5


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailorbird", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command(fitted: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(LABELS))
    made = tmp_path / "model.onnx"
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
        drawn,
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


WEIGHTS = SHARED / "weights"


@needs_shared
def test_imagenet_classes_as_keras_decodes_them(tmp_path: Path) -> None:
    result = import_application(
        "keras:mobilenetv2",
        tmp_path / "imagenet.onnx",
        classes=WEIGHTS / "imagenet_classes.csv",
        weights=WEIGHTS / "mobilenetv2_imagenet.weights.h5",
    )
    assert len(result.info.classes) == 1000 == len(set(result.info.classes)) and result.heatmaps
    assert "crane (2)" in result.info.classes and "maillot (2)" in result.info.classes
    model = keras().applications.MobileNetV2(weights=None)
    model.load_weights(WEIGHTS / "mobilenetv2_imagenet.weights.h5")
    names = [
        line.split(",", 1)[1].strip('"')
        for line in (WEIGHTS / "imagenet_classes.csv").read_text().splitlines()[1:]
    ]
    classifier = Classifier(tmp_path / "imagenet.onnx")
    for path in sorted((SHARED / "data" / "clothing-dataset-small").glob("test/*/*.jpg"))[:40:10]:
        pixels = images.load(path, ResizeRule(224)).astype(np.float32)[None]
        prepared = keras().applications.mobilenet_v2.preprocess_input(pixels)
        expected = keras().ops.convert_to_numpy(model(prepared, training=False))[0]
        order = np.argsort(-expected)[:5]
        top = classifier.predict(path, top=5).top
        assert [label.split(" (")[0] for label, _ in top] == [names[number] for number in order]
        assert (
            np.abs(np.array([probability for _, probability in top]) - expected[order]).max() < 1e-3
        )


def test_an_application_with_its_classes(tmp_path: Path) -> None:
    model = lively(keras().applications.MobileNet(weights=None))
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "names.txt").write_text(
        "\n".join("crane" if n in (3, 7) else f"class {n}" for n in range(1000))
    )
    result = import_application(
        "keras:MobileNet",
        tmp_path / "imagenet.onnx",
        classes=tmp_path / "names.txt",
        weights=tmp_path / "own.weights.h5",
    )
    assert result.heatmaps and result.info.classes[7] == "crane (2)" and result.preprocess == "tf"
    photos = pictures(2, 224)
    expected = probabilities(model, pixels_for(photos, "tf"))
    assert (
        np.abs(Classifier(tmp_path / "imagenet.onnx").probabilities(photos) - expected).max() < 1e-4
    )


def test_names_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras().applications.imagenet_utils, "decode_predictions", offline)
    with pytest.raises(
        HubError, match=r"could not be downloaded .URL fetch failure.*--classes FILE"
    ):
        import_application("keras:MobileNetV2", tmp_path / "x.onnx")
