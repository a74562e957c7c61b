"""An imported classifier has the probabilities and heat maps of the Keras model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from support.importing import (
    NAMES,
    drawn_pixels,
    import_and_open,
    pooled_classifier,
    probabilities,
    save,
)
from support.jax_backend import jax_environment
from support.keras_classifiers import (
    SIDE,
    WITH_MAPS,
    WITHOUT_MAPS,
    as_keras_2,
    averaged,
    flattened,
    functional,
    keras,
    lively,
    nested_base,
    pooled_by_convolution,
    separable,
)
from tailorbird import onnx_files
from tailorbird.engines.keras import classifier as keras_models
from tailorbird.engines.keras import legacy_configs, model_files
from tailorbird.engines.keras.converter.graph import replay
from tailorbird.engines.preprocessing import prepare as pixels_for
from tailorbird.errors import (
    ModelFileError,
    SettingsError,
    TrainingError,
)
from tailorbird.explanation import explain
from tailorbird.importing import import_model
from tailorbird.inference import Runner
from tailorbird.metrics.calibration import softmax
from tailorbird.model import Classifier
from tailorbird.model.graph import build

OTHER_BACKEND = os.environ.get("KERAS_BACKEND") == "jax"


def gradients(
    function: Callable[[Any], Any], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return d function(values)[n, class] / d values, from the backend's autodiff: (N, C, ...)."""
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
        replay(
            graph.nodes,
            {graph.inputs[0].key: pixels},
            structure.feature_map.key,
            call_for_inference,
        )
    )
    last: Any = structure.activation

    def rows(values: Any) -> Any:
        def call(node: Any, args: Any, kwargs: Any) -> Any:
            if last is None or node is not last:
                return call_for_inference(node, args, kwargs)
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


def call_for_inference(node: Any, args: Any, kwargs: Any) -> Any:
    if getattr(node.operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return node.operation(*args, **kwargs)


@pytest.mark.parametrize("make", WITH_MAPS, ids=lambda make: make.__name__)
def test_probabilities_and_heat_maps_equal_those_of_keras(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    keras().utils.set_random_seed(3)
    model = lively(make())
    # Some in the .keras format, some in .h5.
    result, classifier = import_and_open(
        model, tmp_path, ".h5" if make.__name__[0] in "fdm" else ".keras"
    )
    photos = drawn_pixels()
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
def test_unsupported_heads_import_without_heat_maps_and_the_reason_is_reported(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    keras().utils.set_random_seed(3)
    model = lively(make())
    result, classifier = import_and_open(model, tmp_path)
    photos = drawn_pixels()
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-5
    )
    assert not result.heatmaps and not classifier.has_heatmaps
    with pytest.raises(
        SettingsError,
        match=r"has no heat maps: .*(tanh|Normal|Average).* between pooling and output is not",
    ):
        classifier.predict(photos[0], heatmaps=True)
    with pytest.raises(
        SettingsError,
        match="Grad-CAM can be computed; train with a backbone that has one, such as lite",
    ):
        explain(classifier, photos[0])


@pytest.mark.slow
@pytest.mark.skipif(
    OTHER_BACKEND or find_spec("jax") is None,
    reason="JAX is not installed, or is the backend of this process",
)
def test_results_are_equal_on_the_jax_backend() -> None:
    """Run them in a new process, because Keras has one backend per process."""
    # The three heads that differ most: JAX compiles each operation, seconds per network.
    chosen = "nested_base or two_class_sigmoid or max_pooling"
    options = ["-q", "-p", "no:cacheprovider", "-k", f"equal_those_of_keras and ({chosen})"]
    command = [sys.executable, "-m", "pytest", __file__, *options]
    done = subprocess.run(
        command, env=jax_environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout


def test_a_keras_2_model_that_keras_3_cannot_load_is_imported(tmp_path: Path) -> None:
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
    photos = drawn_pixels()
    expected = probabilities(model, photos.astype(np.float32))
    assert np.abs(Classifier(tmp_path / "model.onnx").probabilities(photos) - expected).max() < 1e-5


def test_upgrading_a_keras_2_configuration() -> None:
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
        "groups other than 1 are kept"
    )


def test_a_float16_model_is_computed_in_float32(tmp_path: Path) -> None:
    keras().config.set_dtype_policy("mixed_float16")
    try:
        model = lively(nested_base())
    finally:
        keras().config.set_dtype_policy("float32")
    result, classifier = import_and_open(model, tmp_path)
    assert "computed in float32" in " ".join(result.notes) and result.agreement < 1e-5
    photos = drawn_pixels()
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-2
    )


def test_a_model_without_a_fixed_input_size_is_imported_at_the_given_size(tmp_path: Path) -> None:
    model = lively(pooled_classifier((None, None, 3)))
    result, classifier = import_and_open(model, tmp_path, size=40)
    photos = drawn_pixels(4, 40)
    assert classifier.info.resize.size == 40 and result.heatmaps
    assert (
        np.abs(
            classifier.probabilities(photos) - probabilities(model, pixels_for(photos, "tf"))
        ).max()
        < 1e-5
    )


def test_nothing_is_written_when_onnx_and_keras_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(lively(functional()), tmp_path / "model.keras")
    true = keras_models.KerasClassifier.logits

    def other(*arguments: Any) -> Any:
        return true(*arguments) * [1.05, 1, 1, 1, 1] + [0.1, 0, 0, 0, 0]

    monkeypatch.setattr(keras_models.KerasClassifier, "logits", other)
    with pytest.raises(
        TrainingError,
        match=r"the converted network and the source itself differ by up to .*nothing was written",
    ):
        import_model(path, tmp_path / "model.onnx", classes=NAMES, preprocess="tf")
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_keeps_the_keras_description_of_its_backbone(tmp_path: Path) -> None:
    from tailorbird.engines.registry import carried
    from tailorbird.model.file import write

    path = save(lively(functional()), tmp_path / "model.keras")
    result = import_model(path, tmp_path / "model.onnx", classes=NAMES, preprocess="tf")
    classifier = keras_models.open_classifier(path)
    backbone_graph, head = classifier.backbone_graph("tf")
    onnx_files.set_metadata(
        backbone_graph.proto, {"keras": '{"a": 1}', "name": "x", "tailorbird": "not ours"}
    )
    photos = drawn_pixels(2)
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
def test_the_network_below_the_head_can_be_rebuilt(make: Callable[[], Any], tmp_path: Path) -> None:
    from tailorbird.engines.keras.description import rebuild

    model = lively(make())
    _, classifier = import_and_open(model, tmp_path)
    base, mode = rebuild(onnx.load(classifier.path), SIDE)
    opened = keras_models.classifier_of(model, "x")
    _, head = opened.backbone_graph("tf")
    photos = pixels_for(drawn_pixels(), mode)
    features = keras().ops.convert_to_numpy(base(photos, training=False))
    assert (
        mode == "tf"
        and np.abs(softmax(head.logits(features)) - probabilities(model, photos)).max() < 1e-5
    )


def test_averaged_probabilities_become_log_probabilities(tmp_path: Path) -> None:
    model = lively(averaged())
    backbone_graph, head = keras_models.classifier_of(model, "x").backbone_graph("tf")
    (found,) = Runner(build(backbone_graph, head, 2.0), "x", ModelFileError).run(drawn_pixels())
    expected = np.sqrt(probabilities(model, pixels_for(drawn_pixels(), "tf")))
    assert np.abs(found - expected / expected.sum(axis=1, keepdims=True)).max() < 1e-5
