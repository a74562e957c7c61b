"""Sweeps: the planted setting is found, noise is recognised, workers change nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from typing import Any

import numpy as np
import pytest

from support.experiment_data import blobs, photos_of
from tailorbird import installing
from tailorbird.errors import MissingExtra, SettingsError, TrainingError
from tailorbird.experiments import ExperimentData, Standing, SweepResult, sweep
from tailorbird.experiments.alternatives import train_command
from tailorbird.experiments.cross_validation import Fitter, partitions
from tailorbird.experiments.summaries import sweep_lines
from tailorbird.head import HeadSettings, search

BRIEF: dict[str, list[Any]] = {"epochs": [12], "learning_rate": [0.01]}


def xor(samples: int = 400) -> ExperimentData:
    """Four classes; half of the differences need a head with an inner layer."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((samples, 6))
    bent = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    return photos_of(features, 2 * (features[:, 2] > 0) + bent)


def scores(result: SweepResult) -> list[tuple[int, int, float, float]]:
    return [(fit.setting, fit.partition, fit.accuracy, fit.log_loss) for fit in result.fits]


def test_finds_the_planted_setting_and_says_so() -> None:
    result = sweep(
        xor(),
        {"inner": [(), (24,)], "learning_rate": [1e-5, 2e-2], "epochs": [25], "l2": [1e-3]},
        folds=4,
        seeds=2,
    )
    assert [factor.name for factor in result.factors] == ["learning_rate", "inner"], (
        "learning rate comes first"
    )
    assert result.chosen.settings.inner == (24,) and result.chosen.accuracy > 0.7
    first, second = result.factors[1].settings
    comparison = result.comparison(first, second)
    assert (
        comparison is not None
        and comparison.distinguishable
        and comparison.corrected >= comparison.p
    )
    (line,) = [line for line in sweep_lines(result) if line.startswith("inner")]
    assert line.startswith("inner: 24 is best") and "none is worse (by" in line
    assert result.settings[0] == result.chosen and result.test_photos == 10
    assert result.total == len(result.fits) == 8 * 3, "the setting two factors share is fitted once"


def test_the_smallest_of_equally_good_inner_layers_is_chosen() -> None:
    result = sweep(blobs(distance=5.0), {"inner": [(32,), ()], **BRIEF}, folds=3, seeds=2)
    assert result.chosen.settings.inner == ()
    line = sweep_lines(result)[0]
    assert "cannot be told apart" in line


@pytest.mark.parametrize(
    ("data", "alternatives"),
    [
        (xor(), {"inner": [(), (24,)], "learning_rate": [1e-5, 2e-2], "epochs": [25]}),
        (xor(), {"inner": [(400,)], "learning_rate": [2e-2], "l2": [1e-3], "epochs": [60]}),
        (blobs(), {"learning_rate": [1e-6, 1e-5], "epochs": [2]}),
        (blobs((60, 60)), {"l2": [0.01, 0.03], "inner": [(), (8,), (16,)], **BRIEF}),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "log-loss"])
def test_what_is_recommended_is_never_worse_on_the_folds(
    data: ExperimentData, alternatives: dict[str, list[Any]], metric: Any
) -> None:
    result = sweep(data, alternatives, folds=3, seeds=2, metric=metric)
    merits = [score.merit(metric) for score in (*result.settings, result.default)]
    better = result.default if result.recommended == "default" else result.chosen
    assert better.merit(metric) == max(merits)
    assert result.default.fits == len(result.default_fits) == 6
    plain = "tailorbird train photos -o model.onnx"
    assert (result.command == plain) == (result.recommended == "default")
    said = result.as_dict()
    assert said["recommended"] == result.recommended
    assert said["default"]["accuracy"] == result.default.accuracy
    json.dumps(said, allow_nan=False)


def test_the_last_sentence_says_whether_plain_train_is_better() -> None:
    poor = sweep(
        xor(), {"learning_rate": [1e-6, 1e-5], "epochs": [2]}, folds=3, seeds=2, metric="log-loss"
    )
    assert poor.recommended == "default" and poor.default_comparison.p < 0.001
    line = sweep_lines(poor)[-1]
    assert line.startswith("plain train is better than the best setting: ")
    assert line.endswith("p < 0.001); plain train averages the best of several heads")
    turned = dataclasses.replace(poor, recommended="chosen")
    assert sweep_lines(turned)[-1].startswith("the best setting is better than plain train: ")


def test_plain_train_is_scored_as_train_would() -> None:
    """On one fold: the search on the photos that train, its blend scored on those held out."""
    data = blobs((40, 40, 40), distance=1.0)
    result = sweep(data, BRIEF, folds=2, seeds=1)
    (part, other) = partitions(data.labels, data.groups, folds=2, seeds=1, seed=0)
    for number, rows in enumerate((part, other)):
        found = search(
            data.features[:, rows.train],
            data.labels[rows.train],
            data.features[0, rows.held_out],
            data.labels[rows.held_out],
            classes=3,
            seed=int(np.random.SeedSequence(rows.seed).generate_state(1)[0]),
        )
        assert result.default_fits[number].accuracy == found.best.validation_accuracy
        assert result.default_fits[number].log_loss == found.best.validation_loss
    rows_of_csv = [row for row in result.fit_rows() if row["setting"] == "default"]
    assert [row["accuracy"] for row in rows_of_csv] == [f.accuracy for f in result.default_fits]
    assert all(row["inner"] == row["learning_rate"] == "" for row in rows_of_csv)


def test_equal_settings_do_not_differ_significantly() -> None:
    result = sweep(blobs(), {"l2": [0.01, 0.0101, 0.0102], **BRIEF}, folds=4, seeds=2)
    assert len(result.comparisons) == 3 and not any(c.distinguishable for c in result.comparisons)
    assert sweep_lines(result)[0].count("cannot be told apart") == 2


@pytest.mark.parametrize(
    "options", [{}, {"grid": True}, {"optuna": 7}], ids=["one", "grid", "optuna"]
)
def test_the_result_is_the_same_for_any_number_of_workers(options: dict[str, Any]) -> None:
    alternatives: dict[str, list[Any]] = {
        "learning_rate": [1e-4, 0.1],
        "dropout": [0.0, 0.7],
        "epochs": [4],
    }
    one, three = (
        sweep(blobs((30, 30)), alternatives, folds=3, seeds=2, workers=workers, **options)
        for workers in (1, 3)
    )
    assert scores(one) == scores(three) and one.command == three.command
    other = sweep(blobs((30, 30)), alternatives, folds=3, seeds=2, seed=1, **options)
    assert scores(one) != scores(other)


def test_the_grid_tries_every_combination() -> None:
    result = sweep(
        blobs((20, 20)),
        {"learning_rate": [1e-3, 1e-2], "dropout": [0.0, 0.5], "epochs": [2, 3]},
        folds=2,
        seeds=1,
        grid=True,
    )
    tried = {
        (s.settings.learning_rate, s.settings.dropout, s.settings.epochs) for s in result.settings
    }
    assert len(tried) == len(result.settings) == 8 and len(result.comparisons) == 28
    assert result.fit_rows()[0]["inner"] == "0" and len(result.fit_rows()) == 16 + 2
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_large_grid_is_compared_with_its_best_only() -> None:
    result = sweep(
        blobs((20, 20)),
        {"l2": [0.001 * n for n in range(1, 41)], "epochs": [1]},
        folds=2,
        seeds=1,
        grid=True,
    )
    assert len(result.comparisons) == 39 and {c.first for c in result.comparisons} == {
        result.chosen.number
    }
    assert all(c.corrected == min(1, 780 * c.p) for c in result.comparisons)


def test_optuna_stops_poor_settings_and_stays_in_the_range() -> None:
    result = sweep(
        blobs((60, 60)),
        {"learning_rate": [1e-6, 0.05], "epochs": [3]},
        folds=5,
        seeds=1,
        optuna=25,
        metric="log-loss",
    )
    assert any(score.pruned and score.fits < 5 for score in result.settings)
    assert not result.chosen.pruned and result.chosen.fits == 5
    assert all(1e-6 <= score.settings.learning_rate <= 0.05 for score in result.settings)
    assert result.chosen.accuracy > 0.8 and len(result.fits) == result.total < 125
    pruned = {score.number for score in result.settings if score.pruned}
    assert not any({c.first, c.second} & pruned for c in result.comparisons)


def test_without_optuna_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=re.escape(installing.install("optuna"))):
        sweep(blobs(), optuna=3)


def test_a_setting_that_diverges_is_last_and_never_chosen() -> None:
    result = sweep(
        blobs((30, 30)),
        {"learning_rate": [1e-2, 1e30], "inner": [(4,)], "epochs": [3]},
        folds=2,
        seeds=1,
    )
    assert result.settings[-1].failed == 2 and result.chosen.settings.learning_rate == 1e-2
    assert "1e+30 diverged" in sweep_lines(result)[0]
    assert result.as_dict()["settings"][-1]["accuracy"] is None
    with pytest.raises(TrainingError, match="every setting diverged"):
        sweep(blobs((30, 30)), {"learning_rate": [1e30], "inner": [(4,)]}, folds=2, seeds=1)


def test_ctrl_c_returns_what_is_known() -> None:
    def stop(standing: Standing) -> None:
        if standing.done == 7:
            raise KeyboardInterrupt

    result = sweep(
        blobs(), {"learning_rate": [1e-4, 1e-3, 1e-2], "epochs": [2]}, folds=3, seeds=2, on_fit=stop
    )
    assert result.interrupted and len(result.fits) == 7 and result.total == 18
    assert sorted(score.fits for score in result.settings) == [2, 2, 3], (
        "fold by fold, so that what is left can be compared"
    )
    assert "learning rate" in sweep_lines(result)[0]

    def at_once(_: Standing) -> None:
        raise KeyboardInterrupt

    assert len(sweep(blobs(), BRIEF, folds=2, seeds=1, on_fit=at_once).fits) == 1


def test_standings_are_best_first_with_the_time_left() -> None:
    seen: list[Standing] = []
    result = sweep(
        blobs(),
        {"learning_rate": [1e-4, 1e-2], "epochs": [3]},
        folds=2,
        seeds=1,
        on_fit=seen.append,
    )
    assert [s.done for s in seen] == [1, 2, 3, 4] and {s.total for s in seen} == {4}
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    assert seen[-1].settings == result.settings


def test_every_problem_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        sweep(blobs(), {"layers": [3], "dropout": [0.1, 1.5], "l2": []})
    for words in ("no setting 'layers'", "dropout is 1.5", "l2 is []"):
        assert words in str(caught.value)
    with pytest.raises(SettingsError, match="no setting 'fold'; valid settings: seed, backbone"):
        sweep(blobs(), fold=3)
    with pytest.raises(SettingsError, match=r"metric is 'f1'.*not both"):
        sweep(blobs(), metric="f1", grid=True, optuna=3)
    with pytest.raises(SettingsError, match="views is 3, but the photos were read with 1"):
        sweep(blobs(), {"views": [1, 3]})
    with pytest.raises(SettingsError, match="the grid has 10,000 settings"):
        sweep(
            blobs(),
            {"l2": [n / 1e4 for n in range(100)], "dropout": [n / 100 for n in range(100)]},
            grid=True,
        )
    with pytest.raises(SettingsError, match="workers is 0"):
        sweep(blobs(), workers=0)


def test_the_train_command_line_says_the_choice() -> None:
    photos = blobs()
    settings = HeadSettings(
        inner=(100, 50), dropout=0.2, learning_rate=0.003, l2=0.01, batch_norm=True, epochs=9
    )
    assert train_command(photos, settings, ["epochs"]) == (
        "tailorbird train photos -o model.onnx --inner 100x50 --dropout 0.2 "
        "--learning-rate 0.003 --l2 0.01 --epochs 9 --batch-norm"
    )
    assert train_command(photos, None, ["epochs"]) == "tailorbird train photos -o model.onnx"


def test_memory_is_bounded_and_partitions_prepared_again_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = sweep(blobs(), BRIEF, folds=5, seeds=1)
    monkeypatch.setattr(
        importlib.import_module("tailorbird.experiments.cross_validation"), "CACHED_BYTES", 1
    )
    assert scores(sweep(blobs(), BRIEF, folds=5, seeds=1)) == scores(plain)
    assert Fitter(blobs(), [])._prepared._most == 2
