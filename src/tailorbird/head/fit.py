"""Train one head: settings, fit, epoch and step.

Shapes as in `network`; V views of the same N samples are features (V, N, K), the plain view first.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head import network as net
from tailorbird.head.network import Floats, Head, Labels, Network
from tailorbird.head.stored import StoredRows
from tailorbird.parallel import one_blas_thread
from tailorbird.validation import Problems


@dataclass(frozen=True)
class HeadSettings:
    """Hyperparameters of one training run."""

    inner: tuple[int, ...] = ()
    """Widths of the hidden ReLU layers, nearest the features first; () is logistic regression."""
    dropout: float = 0.0
    """Dropout rate in [0, 1) before each dense layer but the first, or before the only one."""
    learning_rate: float = 1e-3
    """Adam's initial learning rate, > 0."""
    epochs: int = 30
    """Maximum number of epochs; early stopping may end sooner."""
    batch_size: int = 128
    l2: float = 1e-2
    """Weight decay: adds l2 / 2 * (sum of squared weights, on scaled features) to the loss.

    It is scikit-learn's 1 / (C * samples).
    """
    batch_norm: bool = False
    label_smoothing: float = 0.0
    """Label smoothing in [0, 1): share of the target that is spread over all classes."""
    class_weight: Literal["balanced"] | None = None
    """`balanced` weights a class by N / (classes present * its count)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    patience: int = 5
    """Epochs without a lower validation loss after which training stops."""
    views: int = 1
    """Number of cached views to train on; 1 is the plain view."""

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems("invalid head settings: ") as problems:
            widths = isinstance(self.inner, tuple) and all(map(_is_width, self.inner))
            problems.need(
                widths,
                f"inner is {self.inner!r}; it must be a tuple of layer widths of at least 1, such "
                "as (100,) or ()",
            )
            problems.number("dropout", self.dropout, 0, 1, below=True)
            problems.number("learning_rate", self.learning_rate, 0, above=True)
            problems.number("l2", self.l2, 0)
            problems.number("label_smoothing", self.label_smoothing, 0, 1, below=True)
            for name in ("epochs", "batch_size", "patience", "views"):
                problems.whole(name, getattr(self, name), 1)
            for name, valid in (
                ("batch_norm", (True, False)),
                ("class_weight", ("balanced", None)),
                ("schedule", ("cosine", "constant")),
            ):
                value = getattr(self, name)
                known = any(
                    value is one or (isinstance(one, str) and value == one) for one in valid
                )
                options = " or ".join(map(repr, valid))
                problems.need(known, f"{name} is {value!r}; it must be {options}")


def _is_width(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


@dataclass(frozen=True)
class EpochLog:
    """One epoch. Losses are mean log-losses in nats.

    `loss` includes label smoothing, class weights and L2. Training loss and accuracy are means over
    the epoch while the weights change, with dropout.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Fit:
    """A trained head with the weights of its epoch of lowest validation loss.

    best_epoch counts from 1.
    """

    head: Head
    settings: HeadSettings
    history: tuple[EpochLog, ...]
    best_epoch: int
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Data:
    """Checked data, scaled as `(raw - mean) * scale`, shared by all fits of a search.

    stored, stored_validation: the raw features (V, N, K) and (1, M, K) where they are on disk;
    `features` and `validation_features` are empty then.
    """

    features: Floats
    labels: Labels
    validation_features: Floats
    validation_labels: Labels
    classes: int
    mean: Floats
    scale: Floats
    stored: StoredRows | None = None
    stored_validation: StoredRows | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The (V, N, K) of the training features."""
        return self.stored.shape if self.stored is not None else self.features.shape

    def take(self, picked: NDArray[np.int64], out: Floats) -> None:
        """Copy scaled rows into `out` (n, K); row v * N + n is sample n in view v."""
        if self.stored is None:
            views, samples, width = self.features.shape
            rows = self.features.reshape(views * samples, width)
            np.take(rows, picked, axis=0, out=out, mode="clip")
            return
        self.stored.take(picked, out)
        out -= self.mean
        out *= self.scale

    def validation_logits(self, network: Network) -> Floats:
        """Return the logits (M, C) of the validation features."""
        if self.stored_validation is None:
            return net.forward(network, self.validation_features)
        blocks = self.stored_validation.blocks()
        return np.concatenate(
            [net.forward(network, (rows - self.mean) * self.scale) for _, rows in blocks]
        )


def prepare(
    features: NDArray[np.float32],
    labels: Labels,
    validation_features: NDArray[np.float32],
    validation_labels: Labels,
    classes: int,
) -> Data:
    """Check the arrays of `fit` and scale them by mean and deviation of the plain training view.

    Raises:
        SettingsError: arrays do not fit each other.
        TrainingError: a feature is infinite or not a number.
    """
    _check(features, labels, validation_features, validation_labels, classes)
    for name, values in (("training", features), ("validation", validation_features)):
        _refuse_not_finite(name, values.size - int(np.count_nonzero(np.isfinite(values))))
    mean = features[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = np.subtract(features, mean, dtype=np.float32)
    variance = np.einsum("nk,nk->k", centred[0], centred[0], dtype=np.float64) / len(labels)
    scale = _pareto_scale(mean, np.sqrt(variance)).astype(np.float32)
    centred *= scale
    return Data(
        features=centred,
        labels=np.asarray(labels, np.int64),
        validation_features=np.subtract(validation_features, mean, dtype=np.float32) * scale,
        validation_labels=np.asarray(validation_labels, np.int64),
        classes=classes,
        mean=mean,
        scale=scale,
    )


def prepare_stored(
    features: StoredRows,
    labels: Labels,
    validation: StoredRows,
    validation_labels: Labels,
    classes: int,
) -> Data:
    """Do what `prepare` does for features on disk, without reading them all into memory.

    Raises as `prepare` does.
    """
    width = features.shape[2]
    _check(
        np.broadcast_to(np.float32(0), features.shape),
        labels,
        np.broadcast_to(np.float32(0), validation.shape[1:]),
        validation_labels,
        classes,
    )
    for name, stored in (("training", features), ("validation", validation)):
        bad = sum(
            rows.size - int(np.count_nonzero(np.isfinite(rows)))
            for view in range(stored.shape[0])
            for _, rows in stored.blocks(view)
        )
        _refuse_not_finite(name, bad)
    total = np.zeros(width)
    for _, rows in features.blocks():
        total += rows.sum(axis=0, dtype=np.float64)
    mean = (total / len(labels)).astype(np.float32)
    squares = np.zeros(width)
    for _, rows in features.blocks():
        rows -= mean
        squares += np.einsum("nk,nk->k", rows, rows, dtype=np.float64)
    scale = _pareto_scale(mean, np.sqrt(squares / len(labels))).astype(np.float32)
    return Data(
        features=np.empty((features.shape[0], 0, width), np.float32),
        labels=np.asarray(labels, np.int64),
        validation_features=np.empty((0, width), np.float32),
        validation_labels=np.asarray(validation_labels, np.int64),
        classes=classes,
        mean=mean,
        scale=scale,
        stored=features,
        stored_validation=validation,
    )


def _refuse_not_finite(name: str, bad: int) -> None:
    if bad:
        raise TrainingError(
            f"{bad:,} {name} features are infinite or not a number: the backbone or its cache "
            "is damaged; clear the cache (tailorbird cache clear) or use another backbone"
        )


def _pareto_scale(mean: Floats, deviation: Floats) -> Floats:
    """Return factors (K,) proportional to 1 / sqrt(deviation) that make the mean variance 1.

    Pareto scaling (van den Berg et al. 2006) leaves noisy columns that rarely fire smaller than the
    others; standardisation would make them equal. A column that is constant in training gets the
    factor 0, and so a zero weight in the exported head.
    """
    varied = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    if not varied.any():
        return np.zeros_like(deviation)
    common = np.sqrt(deviation[varied].mean())
    return np.where(varied, 1.0 / (common * np.sqrt(np.where(varied, deviation, 1.0))), 0.0)


def _check(
    features: NDArray[np.float32],
    labels: Labels,
    validation_features: NDArray[np.float32],
    validation_labels: Labels,
    classes: int,
) -> None:
    problems = []
    if classes < 2:
        problems.append(f"a classifier needs at least 2 classes, not {classes}")
    if features.ndim != 3 or 0 in features.shape:
        problems.append(
            "training features must have the shape (views, samples, features), none of them 0, "
            f"not {features.shape}"
        )
    elif labels.shape != features.shape[1:2]:
        problems.append(f"{features.shape[1]} training samples have labels of shape {labels.shape}")
    if len(validation_features) == 0:
        problems.append(
            "the validation set is empty: early stopping needs it, at least one photo per class"
        )
    elif validation_features.ndim != 2 or validation_features.shape[1:] != features.shape[2:]:
        problems.append(
            f"validation features have shape {validation_features.shape}, "
            f"training features {features.shape}"
        )
    elif validation_labels.shape != validation_features.shape[:1]:
        problems.append(
            f"{len(validation_features)} validation samples have labels of shape "
            f"{validation_labels.shape}"
        )
    for name, values in (("training", labels), ("validation", validation_labels)):
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < classes:
            problems.append(
                f"{name} labels must be 0 to {classes - 1}, not {values.min()} to {values.max()}"
            )
    if problems:
        raise SettingsError("; ".join(problems))


def fit(
    features: NDArray[np.float32],
    labels: Labels,
    validation_features: NDArray[np.float32],
    validation_labels: Labels,
    *,
    classes: int,
    settings: HeadSettings,
    seed: int,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> Fit:
    """Train one head on cached features.

    Args:
        features: float32 (V, N, K), the plain view first.
        labels: int64 (N,), 0 to classes - 1. A class may be absent.
        validation_features: float32 (M, K), M at least 1.
        validation_labels: int64 (M,).
        classes: at least 2.
        settings: hyperparameters.
        seed: at least 0; the same seed gives the same bits on any number of cores.
        on_epoch: called after each epoch.

    Raises:
        SettingsError: arrays do not fit each other, there are no validation samples, or fewer views
            than the settings ask for.
        TrainingError: a feature, a weight or the loss is infinite or not a number.
    """
    data = prepare(features, labels, validation_features, validation_labels, classes)
    with one_blas_thread():
        return fit_prepared(data, settings, (seed, 0), on_epoch)


@dataclass
class Run:
    """State of a training run."""

    settings: HeadSettings
    network: Network
    gradient: Network
    moment: Floats
    squared: Floats
    scratch: Floats
    batch: Floats
    class_weights: Floats | None
    generator: np.random.Generator
    total_steps: int
    steps: int = 0
    history: list[EpochLog] = field(default_factory=list)


def fit_prepared(
    data: Data,
    settings: HeadSettings,
    seed: tuple[int, int],
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> Fit:
    """Run `fit` on prepared data, inside the caller's `one_blas_thread`.

    seed: (seed, number of the trial).
    """
    started = time.perf_counter()
    run = start_run(data, settings, seed)
    best, best_loss, best_epoch = run.network.like(), math.inf, 0
    for number in range(1, settings.epochs + 1):
        log = train_epoch(run, data, number)
        run.history.append(log)
        if on_epoch is not None:
            on_epoch(log)
        if log.validation_loss < best_loss:
            best_loss, best_epoch = log.validation_loss, number
            best.copy_from(run.network)
        elif number - best_epoch >= settings.patience:
            break
    return Fit(
        head=net.fold(best, data.mean, data.scale),
        settings=settings,
        history=tuple(run.history),
        best_epoch=best_epoch,
        validation_loss=best_loss,
        validation_accuracy=run.history[best_epoch - 1].validation_accuracy,
        seconds=time.perf_counter() - started,
    )


def start_run(data: Data, settings: HeadSettings, seed: tuple[int, int]) -> Run:
    """Return an initialised network with its optimiser state.

    Raises:
        SettingsError: a negative seed, or more views than are cached.
    """
    views, samples, width = data.shape
    if min(seed) < 0:
        raise SettingsError(f"seed is {seed[0]}, but must be at least 0")
    if settings.views > views:
        raise SettingsError(
            f"views is {settings.views}, but only {views} are cached; lower it or compute more"
        )
    generator = np.random.default_rng(seed)
    network = net.initialise(
        (width, *settings.inner, data.classes), batch_norm=settings.batch_norm, generator=generator
    )
    return Run(
        settings=settings,
        network=network,
        gradient=network.like(),
        moment=np.zeros_like(network.flat),
        squared=np.zeros_like(network.flat),
        scratch=np.empty_like(network.flat),
        batch=np.empty((min(settings.batch_size, samples), width), np.float32),
        class_weights=_balanced(data.labels, data.classes) if settings.class_weight else None,
        generator=generator,
        total_steps=settings.epochs * len(batches(samples, settings.batch_size)),
    )


def _balanced(labels: Labels, classes: int) -> Floats:
    """Return class weights float32 (C,) with mean 1 over the samples; 0 without samples."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0).astype(np.float32)


def batches(samples: int, batch_size: int) -> list[slice]:
    """Return batches of nearly equal size.

    A last batch of one or two samples would make a noisy step, and batch norm undefined.
    """
    count = math.ceil(samples / batch_size)
    edges = [round(index * samples / count) for index in range(count + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def train_epoch(run: Run, data: Data, number: int) -> EpochLog:
    """Train on every sample once, shuffled, each in a random view; then score validation.

    Raises:
        TrainingError: the loss or a weight is infinite or not a number.
    """
    samples = data.shape[1]
    order = run.generator.permutation(samples)
    picked = order
    if run.settings.views > 1:
        picked = order + samples * run.generator.integers(run.settings.views, size=samples)
    rate = _learning_rate(run)
    loss = correct = 0.0
    for step, part in enumerate(batches(samples, run.settings.batch_size), start=1):
        inputs = run.batch[: part.stop - part.start]
        data.take(picked[part], inputs)
        batch_loss, batch_correct = train_step(run, inputs, data.labels[order[part]])
        if not math.isfinite(batch_loss):
            raise TrainingError(_diverged(f"loss became {batch_loss}", number, step, run.settings))
        loss += batch_loss * len(inputs)
        correct += batch_correct
    # The loss may stay finite: max(NaN, 0) is 0 on some processors.
    if not np.isfinite(run.network.flat).all():
        raise TrainingError(_diverged("weights are not finite", number, step, run.settings))
    logits = data.validation_logits(run.network)
    return EpochLog(
        epoch=number,
        learning_rate=rate,
        loss=loss / samples,
        accuracy=correct / samples,
        validation_loss=net.log_loss(logits, data.validation_labels),
        validation_accuracy=float(np.mean(logits.argmax(axis=1) == data.validation_labels)),
    )


def train_step(run: Run, inputs: Floats, labels: Labels) -> tuple[float, int]:
    """Train on one batch (B, K), (B,); return its loss and its number of correct predictions."""
    settings = run.settings
    # `train_epoch` reports overflow with its epoch and step, so NumPy's warning is not needed.
    with np.errstate(over="ignore", invalid="ignore"):
        logits, tape = net.forward_training(
            run.network, inputs, dropout=settings.dropout, generator=run.generator
        )
        loss, upstream = net.cross_entropy(
            logits, labels, smoothing=settings.label_smoothing, weights=run.class_weights
        )
        net.backward(run.network, tape, upstream, run.gradient)
        loss += net.add_l2(run.network, run.gradient, settings.l2)
        _adam(run)
    return loss, int(np.count_nonzero(logits.argmax(axis=1) == labels))


def _learning_rate(run: Run) -> float:
    """Return the rate of the next step: constant, or a cosine that ends at zero.

    Loshchilov and Hutter 2017, without restarts.
    """
    if run.settings.schedule == "constant":
        return run.settings.learning_rate
    return 0.5 * run.settings.learning_rate * (1 + math.cos(math.pi * run.steps / run.total_steps))


def _adam(run: Run, *, first: float = 0.9, second: float = 0.999, epsilon: float = 1e-8) -> None:
    """Update the weights by Adam (Kingma and Ba 2015, algorithm 1) in place.

    Both bias corrections are moved into the step size and epsilon.
    """
    rate = _learning_rate(run)
    run.steps += 1
    gradient, scratch = run.gradient.flat, run.scratch
    run.moment *= first
    np.multiply(gradient, 1 - first, out=scratch)
    run.moment += scratch
    run.squared *= second
    np.square(gradient, out=scratch)
    scratch *= 1 - second
    run.squared += scratch
    correction = math.sqrt(1 - second**run.steps)
    np.sqrt(run.squared, out=scratch)
    scratch += epsilon * correction
    np.divide(run.moment, scratch, out=scratch)
    scratch *= rate * correction / (1 - first**run.steps)
    np.subtract(run.network.flat, scratch, out=run.network.flat)


def _diverged(what: str, epoch: int, step: int, settings: HeadSettings) -> str:
    return (
        f"the training {what} in epoch {epoch}, step {step}: the learning rate "
        f"{settings.learning_rate:g} is too high for this data; try a tenth of it"
    )
