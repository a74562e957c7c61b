"""Training a head: reproducible, early stopping, the best epoch, errors."""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head import EpochLog, Fit, HeadSettings, fit
from tailorbird.head.fit import Run, prepare, start_run, train_epoch
from tailorbird.parallel import one_blas_thread

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


def blobs(samples: int, *, classes: int = 3, spread: float = 1.0, seed: int = 0) -> Arrays:
    """Features (N, 8) around one centre per class, the same centres for every seed; labels (N,)."""
    centres = np.random.default_rng(99).standard_normal((classes, 8))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, samples)
    return (centres[labels] + spread * generator.standard_normal((samples, 8))).astype(
        np.float32
    ), labels


def train(
    settings: HeadSettings, *, seed: int = 0, spread: float = 1.0, on_epoch: object = None
) -> Fit:
    features, labels = blobs(200, spread=spread)
    validation, validation_labels = blobs(100, spread=spread, seed=1)
    return fit(
        features[None], labels, validation, validation_labels,
        classes=3, settings=settings, seed=seed, on_epoch=on_epoch,  # type: ignore[arg-type]
    )  # fmt: skip


def same_bits(one: Fit, other: Fit) -> bool:
    return all(
        a.weight.tobytes() == b.weight.tobytes() and a.bias.tobytes() == b.bias.tobytes()
        for a, b in zip(one.head.layers, other.head.layers, strict=True)
    )


def test_the_seed_decides_every_bit() -> None:
    settings = HeadSettings(inner=(16,), dropout=0.3, batch_norm=True, batch_size=32, epochs=4)
    first = train(settings, seed=5)
    assert same_bits(first, train(settings, seed=5))
    assert not same_bits(first, train(settings, seed=6))


def test_settings_report_every_problem_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        HeadSettings(
            inner=(0,), dropout=1.0, learning_rate=0.0, epochs=0, batch_size=-1, l2=float("nan"),
            batch_norm=1, label_smoothing=-0.1,  # type: ignore[arg-type]
            class_weight="even", schedule="step", patience=0, views=0,  # type: ignore[arg-type]
        )  # fmt: skip
    for name in HeadSettings.__dataclass_fields__:
        assert f"{name} is " in str(raised.value)


def test_stops_early_and_returns_the_best_epoch() -> None:
    seen: list[EpochLog] = []
    settings = HeadSettings(
        inner=(64,),
        epochs=60,
        patience=3,
        learning_rate=0.03,
        l2=0.0,
        schedule="constant",
        batch_size=32,
    )
    result = train(settings, spread=2.0, on_epoch=seen.append)
    losses = [log.validation_loss for log in result.history]
    assert len(result.history) < 60
    assert result.best_epoch == 1 + int(np.argmin(losses))
    assert len(result.history) == result.best_epoch + 3
    assert result.validation_loss == min(losses) < losses[-1]
    assert tuple(seen) == result.history


def test_the_learning_rate_follows_the_schedule() -> None:
    cosine = [log.learning_rate for log in train(HeadSettings(epochs=4)).history]
    assert cosine == pytest.approx([1e-3, 0.5e-3 * (1 + 2**-0.5), 0.5e-3, 0.5e-3 * (1 - 2**-0.5)])
    constant = train(HeadSettings(epochs=2, schedule="constant"))
    assert [log.learning_rate for log in constant.history] == [1e-3, 1e-3]


def test_a_non_finite_loss_is_named_with_epoch_and_step() -> None:
    with pytest.raises(TrainingError, match=r"epoch 1, step 2.*learning rate"):
        train(HeadSettings(inner=(4,), learning_rate=1e30, batch_size=100))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["training", "validation"])
def test_features_that_are_not_finite_are_refused_before_training(value: float, place: str) -> None:
    features, labels = blobs(40)
    damaged = features.copy()
    damaged[3, 2] = value
    training, validation = (damaged, features) if place == "training" else (features, damaged)
    with pytest.raises(TrainingError, match=f"^1 {place} features are infinite or not a number"):
        fit(training[None], labels, validation, labels, classes=3, settings=HeadSettings(), seed=0)


def test_weights_that_are_not_finite_are_found_whatever_the_loss() -> None:
    """On some processors max(NaN, 0) is 0: a damaged hidden unit then leaves the loss finite."""
    features, labels = blobs(40)
    data = prepare(features[None], labels, features, labels, 3)
    run = start_run(data, HeadSettings(inner=(4,)), (0, 0))

    def lossless(run: Run, inputs: object, labels: object) -> tuple[float, int]:
        run.network.layers[0].weight[0, 0] = np.nan
        return 1.25, 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tailorbird.head.fit"], "train_step", lossless)
        with pytest.raises(TrainingError, match="weights are not finite in epoch 1"):
            train_epoch(run, data, 1)


def test_one_blas_thread_holds_until_the_last_user_leaves() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)
    assert threads() == before


def test_arrays_that_do_not_fit_are_refused_together() -> None:
    features, labels = blobs(20)
    with pytest.raises(
        SettingsError, match=r"2 classes.*labels of shape \(19,\).*validation set is empty"
    ):
        fit(
            features[None],
            labels[1:],
            features[:0],
            labels[:0],
            classes=1,
            settings=HeadSettings(),
            seed=0,
        )
    with pytest.raises(SettingsError, match="0 to 1"):
        fit(features[None], labels, features, labels, classes=2, settings=HeadSettings(), seed=0)
    with pytest.raises(SettingsError, match="views is 2"):
        fit(
            features[None],
            labels,
            features,
            labels,
            classes=3,
            settings=HeadSettings(views=2),
            seed=0,
        )


def test_class_weights_find_the_rare_class() -> None:
    generator = np.random.default_rng(0)
    labels = (np.arange(600) % 20 == 0).astype(np.int64)
    features = (generator.standard_normal((600, 4)) + 1.2 * labels[:, None]).astype(np.float32)

    def recall(class_weight: Literal["balanced"] | None) -> float:
        settings = HeadSettings(learning_rate=0.01, class_weight=class_weight)
        result = fit(
            features[None, :300],
            labels[:300],
            features[300:],
            labels[300:],
            classes=2,
            settings=settings,
            seed=0,
        )
        return float(np.mean(result.head.logits(features[300:])[labels[300:] == 1].argmax(axis=1)))

    assert recall("balanced") > recall(None) + 0.2


@pytest.mark.parametrize("class_weight", ["balanced", None])
def test_classes_may_be_absent_from_training_or_validation(
    class_weight: Literal["balanced"] | None,
) -> None:
    features, labels = blobs(120)
    held = labels != 1
    result = fit(
        features[None, held], labels[held], features[~held], labels[~held],
        classes=4, settings=HeadSettings(class_weight=class_weight), seed=0,
    )  # fmt: skip
    assert np.isfinite(result.validation_loss)
    assert result.head.logits(features).shape == (120, 4)


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = blobs(100)
    features[:, 3] = 7.3
    result = fit(
        features[None],
        labels,
        features,
        labels,
        classes=3,
        settings=HeadSettings(inner=(4,)),
        seed=0,
    )
    assert not result.head.layers[0].weight[3].any()
    assert np.isfinite(result.head.logits(features)).all()


def test_further_views_are_used_only_on_request() -> None:
    features, labels = blobs(150)
    views = np.stack([features, -features])
    scores = {}
    for count in (1, 2):
        settings = HeadSettings(inner=(32,), learning_rate=0.01, epochs=20, views=count)
        # The validation photos look like the second view, which the plain one says nothing about.
        result = fit(views, labels, -features, labels, classes=3, settings=settings, seed=0)
        scores[count] = result.validation_accuracy
    assert scores[2] > scores[1] + 0.2
