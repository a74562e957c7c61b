"""The head search: what it varies, that it learns, that the number of cores changes no bit."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from numpy.typing import NDArray

from support.progress import RecordedProgress
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head import Dense, Head, SearchResult, fit, refit, search
from tailorbird.head.network import blend
from tailorbird.head.search import plan_trials

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]

# `tailorbird.head.search` is the function; monkeypatch needs the module of that name.
MODULE = importlib.import_module("tailorbird.head.search")
ONE = {"inner": (8,), "dropout": 0.2, "learning_rate": 0.01, "l2": 1e-3, "epochs": 5}


def xor(samples: int, seed: int) -> Arrays:
    """Features (N, 6), labels (N,): whether the signs of the first two are equal, as in XOR."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((samples, 6)).astype(np.float32)
    return features, (features[:, 0] * features[:, 1] > 0).astype(np.int64)


def line(samples: int, seed: int) -> Arrays:
    """Features (N, 6) and labels (N,) that a plane separates, with noise."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((samples, 6)).astype(np.float32)
    return features, (
        features @ np.array([2, -1, 1, 0, 0, 0]) + 0.3 * generator.standard_normal(samples) > 0
    ).astype(int)


def run(train: Arrays, validation: Arrays, **options: object) -> SearchResult:
    options = {"classes": 2, "seed": 0, **options}
    return search(train[0][None], train[1], *validation, **options)  # type: ignore[arg-type]


def weights(head: Head) -> bytes:
    return b"".join(layer.weight.tobytes() + layer.bias.tobytes() for layer in head.layers)


def accuracy(head: Head, arrays: Arrays) -> float:
    return float(np.mean(head.logits(arrays[0]).argmax(axis=1) == arrays[1]))


def test_learns_what_needs_an_inner_layer() -> None:
    result = run(xor(600, 0), xor(200, 1))
    assert accuracy(result.best.head, xor(500, 2)) > 0.85
    assert all(member.settings.inner for member in result.members)
    straight = run(xor(600, 0), xor(200, 1), fixed={"inner": ()})
    assert accuracy(straight.best.head, xor(500, 2)) < 0.65


def test_learns_what_a_line_separates() -> None:
    assert accuracy(run(line(400, 0), line(200, 1)).best.head, line(500, 2)) > 0.93


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    brief = {"epochs": 4}
    found = []
    for cores in ("1", "3"):
        monkeypatch.setenv("TAILORBIRD_THREADS", cores)
        found.append(run(line(300, 0), line(100, 1), fixed=brief))
    one, three = found
    assert weights(one.best.head) == weights(three.best.head)
    assert [trial.validation_loss for trial in one.trials] == [
        trial.validation_loss for trial in three.trials
    ]
    assert weights(one.best.head) != weights(
        run(line(300, 0), line(100, 1), fixed=brief, seed=1).best.head
    )


def test_the_best_scores_are_those_of_its_head() -> None:
    result = run(line(300, 0), line(100, 1), fixed={"epochs": 8})
    assert result.best.validation_accuracy == pytest.approx(
        accuracy(result.best.head, line(100, 1))
    )
    assert result.best.validation_loss <= min(trial.validation_loss for trial in result.trials)
    assert result.members[0].settings == result.best.settings


def test_fixed_settings_are_respected() -> None:
    result = run(
        line(200, 0), line(100, 1), fixed={"inner": (5,), "epochs": 3, "label_smoothing": 0.1}
    )
    assert len({trial.settings.l2 for trial in result.trials}) > 1
    for trial in result.trials:
        assert (trial.settings.inner, trial.settings.epochs, trial.settings.label_smoothing) == (
            (5,),
            3,
            0.1,
        )
    # A blend would be wider than what was asked for.
    assert result.best.head.layers[0].weight.shape == (6, 5)
    assert len(result.members) == 1


def test_with_everything_fixed_it_is_one_fit() -> None:
    train, validation = line(200, 0), line(100, 1)
    result = run(train, validation, fixed=ONE)
    assert len(result.trials) == 1
    alone = fit(
        train[0][None], train[1], *validation, classes=2, settings=result.best.settings, seed=0
    )
    assert weights(alone.head) == weights(result.best.head)


def test_views_are_tried_only_where_given() -> None:
    assert {settings.views for settings in plan_trials({}, views=1, samples=500)} == {1}
    assert {settings.views for settings in plan_trials({}, views=3, samples=500)} == {1, 3}
    assert {settings.views for settings in plan_trials({"views": 2}, views=3, samples=500)} == {2}


def test_a_failed_configuration_is_recorded_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wild = {"inner": (4,), "learning_rate": 1e30}
    tame = {"inner": (), "learning_rate": 1e-2}
    monkeypatch.setattr(MODULE, "CANDIDATES", (wild, tame))
    result = run(line(300, 0), line(100, 1))
    assert result.trials[0].failure is not None and "epoch 1" in result.trials[0].failure
    assert result.trials[1].failure is None
    assert result.best.settings.inner == ()
    with pytest.raises(TrainingError, match=r"all 1 head configurations failed.* epoch 1"):
        run(line(300, 0), line(100, 1), fixed={"learning_rate": 1e30, "inner": (4,)})


def test_unknown_and_invalid_settings_are_named() -> None:
    with pytest.raises(SettingsError, match="unknown head settings layers; valid: inner"):
        run(line(20, 0), line(20, 1), fixed={"layers": (3,)})
    with pytest.raises(SettingsError, match=r"dropout is 1\.5.*epochs is 0"):
        run(line(20, 0), line(20, 1), fixed={"dropout": 1.5, "epochs": 0})
    with pytest.raises(SettingsError, match="seed is -1"):
        run(line(20, 0), line(20, 1), seed=-1)
    with pytest.raises(SettingsError, match="validation set is empty"):
        run(line(20, 0), line(0, 1))


def test_progress_counts_up_to_the_total() -> None:
    progress = RecordedProgress()
    result = run(line(100, 0), line(50, 1), fixed={"epochs": 2}, progress=progress)
    total = len(result.trials)
    assert progress.stages == ["head"]
    assert progress.steps == [(done, total) for done in range(1, total + 1)]


def test_a_large_set_is_searched_on_a_part_and_trained_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODULE, "SEARCH_SAMPLES", 100)
    progress = RecordedProgress()
    result = run(line(400, 0), line(100, 1), progress=progress)
    assert progress.steps[-1][0] == progress.steps[-1][1] > len(result.trials)
    assert result.best.settings.epochs < max(trial.settings.epochs for trial in result.trials)
    assert accuracy(result.best.head, line(500, 2)) > 0.9


def test_a_blend_gives_the_mean_of_the_logits() -> None:
    generator = np.random.default_rng(0)

    def dense(inputs: int, outputs: int) -> Dense:
        return Dense(
            *(
                generator.standard_normal(shape).astype(np.float32)
                for shape in ((inputs, outputs), outputs)
            )
        )

    straight = [Head((dense(6, 3),)) for _ in range(2)]
    bent = [Head((dense(6, 5), dense(5, 3))), Head((dense(6, 4), dense(4, 3)))]
    features = generator.standard_normal((20, 6)).astype(np.float32)
    for heads, depth in ((straight, 1), (bent, 2), (straight + bent, 2)):
        blended = blend(heads)
        assert len(blended.layers) == depth
        expected = np.mean([head.logits(features) for head in heads], axis=0)
        np.testing.assert_allclose(blended.logits(features), expected, atol=1e-5)


def test_refit_trains_the_winners_on_everything() -> None:
    train, validation, new = line(60, 0), line(400, 1), line(2000, 2)
    found = run(train, validation, fixed={"inner": (), "epochs": 20})
    head = refit(found, train[0][None], train[1], validation[0], validation[1], classes=2, seed=0)
    assert weights(head) != weights(found.best.head)
    assert weights(head) == weights(
        refit(found, train[0][None], train[1], validation[0], validation[1], classes=2, seed=0)
    )
    assert accuracy(head, new) > accuracy(found.best.head, new), "460 samples teach more than 60"


def test_refit_gives_a_blend_of_the_same_shape() -> None:
    train, validation = xor(300, 0), xor(100, 1)
    found = run(train, validation)
    head = refit(found, train[0][None], train[1], validation[0], validation[1], classes=2, seed=0)
    assert [layer.weight.shape for layer in head.layers] == [
        layer.weight.shape for layer in found.best.head.layers
    ]
    assert accuracy(head, xor(500, 2)) > 0.9
