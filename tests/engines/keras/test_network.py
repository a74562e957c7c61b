"""Fine-tuning in Keras: cuts, steps, precision, resuming; the `core` tests run on JAX as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from support.jax_backend import jax_environment
from support.keras_small import (
    CLASSES,
    SIZE,
    photos,
    run,
    same,
    small_backbone,
    small_head,
    softmax,
)
from tailorbird.engines.finite import non_finite
from tailorbird.engines.keras import backend, devices, optimizers, scratch
from tailorbird.engines.keras.backbone import origin
from tailorbird.engines.keras.network import KerasNetwork
from tailorbird.engines.protocol import Mix, Regularisation, Training
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.model.graph import build

keras = backend.load()
JAX = keras.backend.backend() == "jax"
PLAIN = Regularisation(dropout=0.0, weight_decay=0.0, label_smoothing=0.0)
EXACT = 1e-5
"""Tolerance: Keras and ONNX Runtime sum in different orders; 1e-3 is the documented limit."""


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return small_backbone()


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    return photos(12)


LABELS = np.arange(12) % CLASSES


def network(
    proto: onnx.ModelProto, training: Training | None = None, regularisation: Regularisation = PLAIN
) -> KerasNetwork:
    """Return the network with a head; a stage is begun if one is given."""
    made = KerasNetwork(proto)
    made.attach(small_head(), regularisation, run(proto, photos(40, seed=1)))
    if training is not None:
        made.begin(training)
    return made


def index(made: KerasNetwork, name: str) -> int:
    return [cut.name for cut in made.cuts(SIZE)].index(name)


def cross_entropy(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    smoothing: float,
    weights: npt.NDArray[Any] | None,
) -> float:
    targets = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    losses = -(targets * np.log(softmax(logits.astype(np.float64)))).sum(axis=1)
    return float((losses * (1 if weights is None else weights[labels])).mean())


def test_core_a_written_network_has_the_outputs_of_keras(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    regularisation = Regularisation(batch_norm=True, l2=1e-3)
    made = network(proto, regularisation=regularisation)
    made.begin(Training(size=SIZE, cut=0, regularisation=regularisation))
    start = softmax(made.logits(images))
    assert start.std(axis=0).min() > 0.01, "the same answer to everything says nothing"
    np.testing.assert_allclose(start, softmax(small_head().logits(run(proto, images))), atol=EXACT)
    for _ in range(4):
        made.step(images, LABELS, 3e-3)
    after = softmax(made.logits(images))
    assert np.abs(after - start).max() > 0.02
    written = made.backbone(SIZE)
    np.testing.assert_allclose(softmax(made.head().logits(run(written, images))), after, atol=EXACT)
    metadata = {entry.key: entry.value for entry in written.metadata_props}
    assert metadata["name"] == made.name == "small"
    assert metadata["trained_on"] == "chance, fine-tuned"
    assert origin(written, tuned=True)["trained_on"] == "chance, fine-tuned", "said once"
    assert metadata["pooling"] == "mean" and "keras" in metadata
    # What was written can be opened and trained again.
    again = KerasNetwork(written)
    again.attach(made.head(), PLAIN, run(written, images))
    again.begin(Training(size=SIZE, cut=0, regularisation=PLAIN))
    np.testing.assert_allclose(softmax(again.logits(images)), after, atol=EXACT)


def test_core_a_resumed_network_trains_on_identically(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    regularisation = Regularisation(dropout=0.4, batch_norm=True)
    training = Training(size=SIZE, cut=0, regularisation=regularisation, seed=5)
    made = network(proto, training, regularisation)
    for _ in range(3):
        made.step(images, LABELS, 1e-2)
    state = made.state()
    assert all(isinstance(value, np.ndarray) for value in state.values())
    first = [made.step(images, LABELS, 1e-2) for _ in range(3)]
    other = network(proto, training, regularisation)
    other.restore(state)
    second = [other.step(images, LABELS, 1e-2) for _ in range(3)]
    assert len({step.loss for step in first}) == 3
    np.testing.assert_allclose(
        [step.loss for step in second], [step.loss for step in first], rtol=1e-5
    )
    for name, value in made.weights().items():
        np.testing.assert_allclose(other.weights()[name], value, atol=1e-5, err_msg=name)


def test_frozen_and_trained_parts_together_equal_the_network(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN))
    whole = made.logits(images)
    for cut in range(1, len(made.cuts(SIZE))):
        made.begin(Training(size=SIZE, cut=cut, regularisation=PLAIN))
        activations = run(made.frozen_part(SIZE, cut), images, "activations")
        assert activations[0].size == made.cuts(SIZE)[cut].values
        np.testing.assert_allclose(
            made.logits(activations), whole, atol=1e-4, err_msg=made.cuts(SIZE)[cut].name
        )


def test_core_only_layers_above_the_cut_are_trained(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto)
    cut = index(made, "sum")
    made.begin(Training(size=SIZE, cut=cut, regularisation=PLAIN, base_rate=0.5))
    before, activations = made.weights(), run(made.frozen_part(SIZE, cut), images, "activations")
    for _ in range(3):
        made.step(activations, LABELS, 1e-2)
    after = made.weights()
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert {name.rpartition("/")[2] for name in after if name.startswith("base/")} == {
        "kernel",
        "bias",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    }
    assert moved == {name for name in after if "moving" not in name}, "statistics of the base stay"
    lower = run(made.frozen_part(SIZE, cut), images, "activations")
    np.testing.assert_array_equal(lower, activations)


def test_core_two_devices_give_the_results_of_one(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    if not JAX:
        made = network(proto)
        with pytest.raises(SettingsError, match=r"JAX backend only, .* set KERAS_BACKEND=jax"):
            made.begin(Training(size=SIZE, cut=0, devices=2))
        return
    one = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN))
    two = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN, devices=2))
    for _ in range(3):
        single, double = one.step(images, LABELS, 1e-2), two.step(images, LABELS, 1e-2)
        assert (
            double.loss == pytest.approx(single.loss, rel=1e-4) and double.correct == single.correct
        )
    np.testing.assert_allclose(two.logits(images), one.logits(images), atol=1e-3)
    np.testing.assert_allclose(two.logits(images[:5]), one.logits(images[:5]), atol=1e-3)
    np.testing.assert_allclose(
        softmax(two.head().logits(run(two.backbone(SIZE), images))),
        softmax(two.logits(images)),
        atol=EXACT,
    )
    kernel = two._backbone.model.weights[0].value
    assert len(kernel.sharding.device_set) == 2
    with pytest.raises(SettingsError, match="a batch of 5 photos cannot be shared by 2 devices"):
        two.step(images[:5], LABELS[:5], 1e-2)
    with pytest.raises(SettingsError, match="JAX sees 2 here"):
        one.begin(Training(size=SIZE, cut=0, devices=3))
    two.begin(Training(size=SIZE, cut=0, regularisation=PLAIN))
    assert two.step(images, LABELS, 1e-2).loss > 0
    assert len(two._backbone.model.weights[0].value.sharding.device_set) == 1


def test_a_batch_in_parts_gives_the_result_of_the_whole(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    count = len(images) - len(images) % 2
    whole = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN, clip=0.1))
    parts = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN, clip=0.1, accumulate=2))
    for _ in range(3):
        one = whole.step(images[:count], LABELS[:count], 1e-2)
        two = parts.step(images[:count], LABELS[:count], 1e-2)
        assert two.loss == pytest.approx(one.loss, rel=1e-3) and two.correct == one.correct
    np.testing.assert_allclose(parts.logits(images), whole.logits(images), atol=5e-3)


def test_clipped_gradients_move_the_weights_less(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    moved = []
    for clip in (None, 1e-3):
        made = network(
            proto, Training(size=SIZE, cut=0, regularisation=PLAIN, optimizer="sgd", clip=clip)
        )
        before = made.weights()
        made.step(images, LABELS, 1.0)
        after = made.weights()
        total = sum(float(np.square(after[name] - before[name]).sum()) for name in before)
        moved.append(total**0.5)
    assert moved[0] > 2e-3 and moved[1] <= 1.01e-3


def test_a_mixed_batch_has_the_mixed_loss(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN))
    partners = np.roll(np.arange(len(images)), 1)
    mix = Mix(partners, 0.75)
    mixed = np.rint(images * 0.75 + images[partners] * 0.25).astype(np.uint8)
    logits = made.logits(mixed)
    own, other = (cross_entropy(logits, labels, 0.0, None) for labels in (LABELS, LABELS[partners]))
    seen = made.step(images, LABELS, 1e-3, mix)
    assert seen.loss == pytest.approx(0.75 * own + 0.25 * other, rel=1e-3)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimiser_learns(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8], name: str
) -> None:
    made = network(proto)
    cut = len(made.cuts(SIZE)) - 1
    made.begin(Training(size=SIZE, cut=cut, regularisation=PLAIN, optimizer=name))
    features = run(proto, images)
    losses = [made.step(features, LABELS, 0.02).loss for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_mixed_precision_keeps_float32_weights(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN, mixed_precision=True))
    rough = softmax(made.logits(images))
    exact = softmax(small_head().logits(run(proto, images)))
    assert 1e-6 < np.abs(rough - exact).max() < 0.05, "bfloat16 has 8 bits"
    losses = [made.step(images, LABELS, 1e-2).loss for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert {value.dtype for value in made.weights().values()} == {np.dtype(np.float32)}
    written = softmax(made.head().logits(run(made.backbone(SIZE), images)))
    assert np.abs(written - softmax(made.logits(images))).max() < 0.05
    made.begin(Training(size=SIZE, cut=0, regularisation=PLAIN))
    np.testing.assert_allclose(softmax(made.logits(images)), written, atol=EXACT)


def test_float16_is_trained_with_a_scaled_loss(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train in float16 as on a GPU, but on the CPU."""
    monkeypatch.setattr(devices, "precision", lambda mixed: "mixed_float16" if mixed else "float32")
    training = Training(size=SIZE, cut=0, regularisation=PLAIN, mixed_precision=True)
    made = network(proto, training)
    expected = cross_entropy(made.logits(images), LABELS, 0.0, None)
    first = made.step(images, LABELS, 1e-2)
    assert first.loss == pytest.approx(expected, rel=1e-2), "told without the scale"
    state = made.state()
    assert (
        2.0**10
        <= max(float(v) for n, v in state.items() if n.startswith("optimizer/") and v.ndim == 0)
        <= 2.0**16
    )
    after = [made.step(images, LABELS, 1e-2).loss for _ in range(4)]
    assert np.isfinite(after).all() and after[-1] < first.loss
    other = network(proto, training)
    other.restore(state)
    np.testing.assert_allclose(
        [other.step(images, LABELS, 1e-2).loss for _ in range(4)], after, rtol=1e-3
    )
    assert {value.dtype for value in other.weights().values()} == {np.dtype(np.float32)}


def test_cuts_range_from_the_pixels_to_the_features(proto: onnx.ModelProto) -> None:
    cuts = KerasNetwork(proto).cuts(SIZE)
    assert [cut.name for cut in cuts] == ["images", "stem", "stem_relu", "sum", "wide", "features"]
    assert [cut.layers for cut in cuts] == [6, 5, 4, 2, 1, 0]
    assert [cut.values for cut in cuts] == [3 * 32 * 32, 8 * 256, 8 * 256, 8 * 256, 12 * 64, 12]
    assert cuts[0].parameters == 216 + 32 + 72 + 32 + (864 + 12) + 48
    assert KerasNetwork(proto).cuts(64)[1].values == 4 * cuts[1].values


def test_the_loss_is_the_smoothed_weighted_cross_entropy_and_the_count_is_exact(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    regularisation = Regularisation(dropout=0.0, l2=0.02, label_smoothing=0.2)
    weights = (0.5, 1.0, 2.0)
    made = network(
        proto, Training(size=SIZE, cut=0, regularisation=regularisation, class_weights=weights)
    )
    for count in (12, 12, 7):
        logits = made.logits(images[:count])
        labels = (LABELS[:count] + 1) % CLASSES
        penalty = sum(
            0.01 * float((v**2).sum())
            for n, v in made.weights().items()
            if n.startswith("head/") and "kernel" in n
        )
        step = made.step(images[:count], labels, 1e-3)
        assert step.loss == pytest.approx(
            cross_entropy(logits, labels, 0.2, np.array(weights)) + penalty, rel=1e-4
        )
        assert step.correct == int((logits.argmax(axis=1) == labels).sum())


def test_rates_fall_with_depth(proto: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> None:
    """The first SGD step is rate * gradient, so two runs differ by the ratio of their rates."""

    def moved(base_rate: float, depth_decay: float) -> dict[str, float]:
        training = Training(
            size=SIZE,
            cut=0,
            regularisation=PLAIN,
            optimizer="sgd",
            base_rate=base_rate,
            depth_decay=depth_decay,
        )
        made = network(proto, training)
        before = made.weights()
        made.step(images, LABELS, 1e-3)
        return {
            name: float(np.abs(value - before[name]).max())
            for name, value in made.weights().items()
        }

    even, falling = moved(1.0, 1.0), moved(0.5, 0.01)
    ratio = {name: falling[name] / even[name] for name in even if even[name] > 1e-7}
    kernels = [
        ratio[name]
        for name in sorted(ratio)
        if name.startswith("base/") and name.endswith("kernel")
    ]
    assert ratio["head/0/kernel"] == pytest.approx(1, rel=1e-2)
    # Six layers with weights; kernels are those of the first, third and fifth.
    np.testing.assert_allclose(kernels, [0.5 * 0.01, 0.5 * 0.01**0.6, 0.5 * 0.01**0.2], rtol=0.03)


def test_weight_decay_is_decoupled_and_applies_to_kernels_only() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(
        inputs, keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones")(inputs)
    )
    optimizer = optimizers.make("adamw", [0.5, 0.5], [0.1, 0.0])
    optimizer.learning_rate.assign(0.2)
    optimizer.apply(
        [keras.ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables
    )
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel, 1 - 0.2 * 0.5 * 0.1, rtol=1e-6)
    np.testing.assert_allclose(bias, 1.0)


def test_step_uses_the_given_learning_rate(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN, optimizer="sgd"))
    made.step(images, LABELS, 0.0)
    before = made.weights()
    made.step(images, LABELS, 0.0)
    assert same(made.weights(), before)
    made.step(images, LABELS, 1e-3)
    assert not same(made.weights(), before)


def test_dropout_acts_in_training_only(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(
        proto,
        Training(size=SIZE, cut=0, regularisation=Regularisation(dropout=0.6), optimizer="sgd"),
    )
    assert np.array_equal(made.logits(images), made.logits(images))
    assert len({made.step(images, LABELS, 0.0).loss for _ in range(4)}) == 4
    np.testing.assert_allclose(made.logits(images[:9])[:3], made.logits(images[:3]), atol=EXACT)
    assert made.logits(images[:0]).shape == (0, CLASSES)


def test_core_dropout_accepts_every_seed_of_a_run(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    """Seeds of a stage have 31 bits; Keras keeps a dropout's seed in 31 or more, by backend."""
    for seed in (0, 1, 1_484_405_855, 2**31 - 1):
        made = network(proto, Training(SIZE, 0, seed=seed), Regularisation())
        assert np.isfinite(made.step(images, LABELS, 1e-3).loss)


@pytest.mark.parametrize("what", ["features", "weight", "gradient"])
def test_core_non_finite_values_are_in_the_state_after_a_step(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8], what: str
) -> None:
    """The loss may stay finite, depending on the processor's ReLU; the state does not."""
    weights = (1.0, 1.0, float("inf")) if what == "gradient" else None
    made = network(proto)
    cut = len(made.cuts(SIZE)) - 1
    made.begin(Training(size=SIZE, cut=cut, regularisation=PLAIN, class_weights=weights))
    features = run(proto, images)
    made.step(features, LABELS, 0.0) if what != "gradient" else None
    assert what == "gradient" or not non_finite(made.state())
    if what == "features":
        features[3, 2] = np.nan
    if what == "weight":
        kernel = made.weights()["head/0/kernel"]
        kernel[2, 1] = np.nan
        made.load_weights({"head/0/kernel": kernel})
    made.step(features, LABELS, 1e-3)
    assert "head/0/kernel" in non_finite(made.state())


def test_non_finite_weights_are_not_converted(proto: onnx.ModelProto) -> None:
    made = KerasNetwork(proto)
    made._backbone.model.layers[1].kernel.assign(np.full((3, 3, 3, 8), np.nan))
    with pytest.raises(BackboneError, match="holds NaN or infinity in 'keras/0000/stem/kernel'"):
        made.backbone(SIZE)


def test_stages_of_growing_size_keep_the_weights(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = network(proto, Training(size=SIZE, cut=0, regularisation=PLAIN))
    made.step(images, LABELS, 1e-2)
    early = made.weights()
    large = photos(6, 48)
    made.begin(Training(size=48, cut=index(made, "sum"), regularisation=PLAIN))
    assert same(made.weights(), early), "what trained in an earlier stage stays part of the weights"
    made.step(run(made.frozen_part(48, index(made, "sum")), large, "activations"), LABELS[:6], 1e-2)
    written = made.backbone(48)
    made.begin(Training(size=48, cut=0, regularisation=PLAIN))
    np.testing.assert_allclose(
        softmax(made.head().logits(run(written, large))), softmax(made.logits(large)), atol=EXACT
    )
    assert not same(made.weights(), early)
    made.load_weights(early)
    assert same(made.weights(), early)


def test_invalid_calls_are_refused_with_the_reason(
    proto: onnx.ModelProto, images: npt.NDArray[np.uint8]
) -> None:
    made = KerasNetwork(proto)
    with pytest.raises(SettingsError, match="no head yet"):
        made.begin(Training(size=SIZE, cut=0))
    with pytest.raises(SettingsError, match="the head takes 5 features, small gives 12"):
        made.attach(small_head(width=5), PLAIN, np.zeros((2, 5), np.float32))
    made.attach(small_head(), PLAIN, np.zeros((2, 12), np.float32))
    for call in (lambda: made.step(images, LABELS, 1e-3), lambda: made.logits(images), made.state):
        with pytest.raises(SettingsError, match="call begin first"):
            call()
    with pytest.raises(SettingsError, match="the cut is 6; this network has cuts 0 to 5"):
        made.begin(Training(size=SIZE, cut=6))
    with pytest.raises(SettingsError, match="frozen_part is 0; this network has cuts 1 to 5"):
        made.frozen_part(SIZE, 0)
    with pytest.raises(
        SettingsError, match="optimizer is 'lion'; it must be one of adamw, adam, sgd, rmsprop"
    ):
        made.begin(Training(size=SIZE, cut=0, optimizer="lion"))
    with pytest.raises(SettingsError, match="devices is 0"):
        made.begin(Training(size=SIZE, cut=0, devices=0))
    made.begin(Training(size=SIZE, cut=0, regularisation=PLAIN))
    state = made.state()
    with pytest.raises(SettingsError, match="begin the stage with the settings it was begun with"):
        made.restore({name: value for name, value in state.items() if name != "optimizer/3"})
    with pytest.raises(
        SettingsError, match=r"weights that this network does not have, such as 'base/99/0/kernel'"
    ):
        made.load_weights({"base/99/0/kernel": np.zeros(3, np.float32)})
    with pytest.raises(
        SettingsError, match=r"head/0/kernel of shape \(2, 2\), the network has \(12, 6\)"
    ):
        made.load_weights({"head/0/kernel": np.zeros((2, 2), np.float32)})
    assert same(made.state(), state), "nothing was changed by what was refused"
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    with pytest.raises(BackboneError, match="not made by the Keras engine"):
        KerasNetwork(bare)


def test_the_cnn_trains_from_scratch_with_heat_maps() -> None:
    made, head = scratch.scratch_network(2, size=16, seed=3)
    twin, twin_head = scratch.scratch_network(2, size=16, seed=3)
    assert np.array_equal(head.layers[0].weight, twin_head.layers[0].weight)
    pictures = photos(12, 16)
    labels = (pictures.mean(axis=(1, 2, 3)) > np.median(pictures.mean(axis=(1, 2, 3)))).astype(
        np.int64
    )
    assert np.array_equal(run(made.backbone(16), pictures), run(twin.backbone(16), pictures))
    made.attach(head, PLAIN, np.zeros((2, 32 * 49), np.float32))
    made.begin(Training(size=16, cut=0, base_rate=1.0, optimizer="sgd", regularisation=PLAIN))
    losses = [made.step(pictures, labels, 5e-3).loss for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    written = made.backbone(16)
    answers = softmax(made.logits(pictures))
    np.testing.assert_allclose(
        softmax(made.head().logits(run(written, pictures))), answers, atol=EXACT
    )
    backbone_graph = made.backbone_graph(16)
    assert (backbone_graph.pooling, backbone_graph.feature_map, backbone_graph.width) == (
        "flatten",
        (32, 7, 7),
        32 * 49,
    )
    model = build(backbone_graph, made.head(), 1.0)
    np.testing.assert_allclose(run(model, pictures, "probabilities"), answers, atol=EXACT)
    maps = run(model, pictures, "heatmaps")
    assert maps.shape == (12, 2, 7, 7) and maps.max() > 0
    with pytest.raises(SettingsError, match="takes 1568 features, cnn gives 3872 at 24 px"):
        made.begin(Training(size=24, cut=0, regularisation=PLAIN))
    with pytest.raises(SettingsError, match="must be 8 to 512"):
        scratch.scratch_network(2, size=4)


def test_the_graph_of_a_backbone_with_mean_pooling(proto: onnx.ModelProto) -> None:
    backbone_graph = KerasNetwork(proto).backbone_graph(SIZE)
    assert (backbone_graph.pooling, backbone_graph.feature_map) == ("mean", (12, 8, 8))


def test_devices_of_the_backend() -> None:
    assert devices.precision(False) == "float32"
    assert devices.precision(True) == ("mixed_float16" if devices.gpus() else "mixed_bfloat16")
    expected: dict[str, bool | str] = {
        "tensorflow": "auto" if devices.gpus() else False,
        "jax": True,
        "torch": False,
    }
    assert devices.compilation() == expected[keras.backend.backend()]


@pytest.mark.slow
@pytest.mark.skipif(JAX, reason="this is the other backend")
def test_the_core_holds_on_jax_over_two_devices() -> None:
    environment = jax_environment("--xla_force_host_platform_device_count=2")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-k",
            "core and not holds",
            "-p",
            "no:cacheprovider",
            str(Path(__file__)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
