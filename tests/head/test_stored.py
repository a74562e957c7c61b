"""Features on disk give the heads that features in memory give."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head import refit, search
from tailorbird.head.stored import BLOCK_ROWS, StoredRows, logits_of

VIEWS, SAMPLES, VALIDATION, WIDTH, CLASSES = 2, 700, 130, 24, 3


def stored(rows: np.ndarray[Any, Any]) -> StoredRows:
    result = StoredRows(rows.shape)
    for view in range(rows.shape[0]):
        result.write(view, 0, rows[view])
    return result


@pytest.fixture
def data() -> tuple[Any, ...]:
    random = np.random.default_rng(3)
    centres = random.normal(0, 1, (CLASSES, WIDTH))
    labels, held_labels = (random.integers(0, CLASSES, n) for n in (SAMPLES, VALIDATION))
    rows = centres[labels] + random.normal(3, 1, (VIEWS, SAMPLES, WIDTH))
    held = centres[held_labels] + random.normal(3, 1, (VALIDATION, WIDTH))
    return rows.astype(np.float32), labels, held.astype(np.float32), held_labels


@pytest.mark.parametrize(
    "fixed", [{"epochs": 4}, {"inner": (8,), "batch_norm": True, "epochs": 3, "views": 2}]
)
def test_the_head_is_that_of_features_in_memory(
    data: tuple[Any, ...], fixed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where candidates are compared on a part of the samples too."""
    module = importlib.import_module("tailorbird.head.search")
    monkeypatch.setattr(module, "SEARCH_SAMPLES", 300)
    rows, labels, held, held_labels = data
    options: dict[str, Any] = {"classes": CLASSES, "seed": 5}
    here = search(rows, labels, held, held_labels, fixed=fixed, **options)
    on_disk = (stored(rows), labels, stored(held[None]), held_labels)
    there = search(*on_disk, fixed=fixed, **options)
    assert [one.settings for one in there.trials] == [one.settings for one in here.trials]
    expected = here.best.head.logits(held)
    np.testing.assert_allclose(there.best.head.logits(held), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits_of(there.best.head, on_disk[2]), expected, atol=1e-4)
    assert there.best.validation_loss == pytest.approx(here.best.validation_loss, abs=1e-5)
    final = refit(here, rows, labels, held, held_labels, **options)
    again = refit(there, *on_disk, **options)
    np.testing.assert_allclose(again.logits(held), final.logits(held), rtol=1e-4, atol=1e-4)


def test_rows_are_read_as_they_were_written() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, BLOCK_ROWS + 5, 3)).astype(np.float32)
    kept = stored(rows)
    for view in range(2):
        blocks = list(kept.blocks(view))
        assert [part.stop for part, _ in blocks] == [BLOCK_ROWS, BLOCK_ROWS + 5]
        np.testing.assert_array_equal(np.concatenate([found for _, found in blocks]), rows[view])
    out = np.empty((3, 3), np.float32)
    kept.take(np.array([0, BLOCK_ROWS + 5, 2 * BLOCK_ROWS]), out)
    np.testing.assert_array_equal(out, rows.reshape(-1, 3)[[0, BLOCK_ROWS + 5, 2 * BLOCK_ROWS]])
    np.testing.assert_array_equal(kept.mapped(), rows)
    kept.close()


def test_what_is_wrong_is_found_on_disk_too(data: tuple[Any, ...]) -> None:
    rows, labels, held, held_labels = data
    options: dict[str, Any] = {"classes": CLASSES, "seed": 5}
    with pytest.raises(SettingsError, match="training samples have labels of shape"):
        search(stored(rows), labels[1:], stored(held[None]), held_labels, **options)
    with pytest.raises(SettingsError, match="need validation features on disk"):
        search(stored(rows), labels, held, held_labels, **options)
    rows[1, 7, 2] = np.nan
    with pytest.raises(TrainingError, match="1 training features are infinite or not a number"):
        search(stored(rows), labels, stored(held[None]), held_labels, **options)
