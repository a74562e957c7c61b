"""Gradients against finite differences, and the folding that makes training and serving agree."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.head import network as net
from tailorbird.head.fit import HeadSettings, fit
from tailorbird.head.network import Dense, Head
from tailorbird.metrics.calibration import PROBABILITY_FLOOR


@pytest.mark.parametrize("inner", [(), (6,), (6, 5)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("smoothing", "weighted", "l2"), [(0.0, False, 0.0), (0.1, True, 0.3)])
def test_gradients_match_finite_differences(
    inner: tuple[int, ...],
    batch_norm: bool,
    dropout: float,
    smoothing: float,
    weighted: bool,
    l2: float,
) -> None:
    generator = np.random.default_rng(3)
    inputs, labels = generator.standard_normal((12, 4)), generator.integers(0, 3, 12)
    weights = np.array([0.5, 1.0, 2.0]) if weighted else None
    network = net.initialise(
        (4, *inner, 3), batch_norm=batch_norm, generator=generator, dtype=np.float64
    )
    network.flat[:] += 0.3 * generator.standard_normal(network.flat.size)
    gradient = network.like()

    def loss() -> float:
        # The same generator state each time draws the same dropout masks.
        logits, tape = net.forward_training(
            network, inputs, dropout=dropout, generator=np.random.default_rng(7)
        )
        value, upstream = net.cross_entropy(logits, labels, smoothing=smoothing, weights=weights)
        net.backward(network, tape, upstream, gradient)
        return value + net.add_l2(network, gradient, l2)

    loss()
    analytic = gradient.flat.copy()
    numeric = np.empty_like(analytic)
    for index, value in enumerate(network.flat.copy()):
        network.flat[index] = value + 1e-6
        above = loss()
        network.flat[index] = value - 1e-6
        numeric[index] = (above - loss()) / 2e-6
        network.flat[index] = value
    np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("inner", [(), (8,), (8, 6)])
def test_folding_changes_no_logit(inner: tuple[int, ...], batch_norm: bool) -> None:
    generator = np.random.default_rng(0)
    raw = generator.standard_normal((50, 7)).astype(np.float32) * 3 + 5
    network = net.initialise((7, *inner, 4), batch_norm=batch_norm, generator=generator)
    network.flat[:] += generator.standard_normal(network.flat.size).astype(np.float32) * 0.2
    mean, inverse = raw.mean(axis=0), 1 / raw.std(axis=0)
    standardised = (raw - mean) * inverse
    for _ in range(5):
        net.forward_training(network, standardised)  # moves the running statistics off their start
    head = net.fold(network, mean, inverse)
    assert all(layer.weight.dtype == layer.bias.dtype == np.float32 for layer in head.layers)
    np.testing.assert_allclose(head.logits(raw), net.forward(network, standardised), atol=1e-5)


def test_the_exported_head_has_the_validation_scores_of_its_best_epoch() -> None:
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((3, 10)) * 0.6
    labels = generator.integers(0, 3, 300)
    raw = ((centres[labels] + generator.standard_normal((300, 10))) * 4 + 20).astype(np.float32)
    result = fit(
        raw[None, :200], labels[:200], raw[200:], labels[200:],
        classes=3, seed=0,
        settings=HeadSettings(inner=(16,), batch_norm=True, dropout=0.2, epochs=8),
    )  # fmt: skip
    logits = result.head.logits(raw[200:])
    assert net.log_loss(logits, labels[200:]) == pytest.approx(result.validation_loss, abs=1e-5)
    assert np.mean(logits.argmax(axis=1) == labels[200:]) == pytest.approx(
        result.validation_accuracy
    )


def test_dropout_keeps_the_expected_value() -> None:
    mask = net.dropout_mask((400, 500), 0.3, np.dtype(np.float32), np.random.default_rng(0))
    assert mask.dtype == np.float32
    assert mask.mean() == pytest.approx(1.0, abs=0.01)
    assert np.mean(mask == 0) == pytest.approx(0.3, abs=0.01)


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    logits = np.array([[1e4, 0.0]], np.float32)
    assert net.log_loss(logits, np.array([1])) == pytest.approx(-np.log(PROBABILITY_FLOOR))


def test_layers_that_do_not_fit_are_refused() -> None:
    one = Dense(np.zeros((3, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        Head((one, one))
    with pytest.raises(ValueError, match="bias"):
        Dense(np.zeros((3, 2), np.float32), np.zeros(3, np.float32))
