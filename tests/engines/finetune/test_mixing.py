"""Mixup and CutMix: drawn, applied to inputs and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.finetuning import Listener, photos, task  # noqa: F401 (fixtures)
from support.numpy_network import SETTINGS, NumpyNetwork, Task
from tailorbird.engines.finetune.mixing import corners, draw, mixed, soft_labels
from tailorbird.engines.finetune.results import Epoch
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.protocol import Mix, Step, Views


def drawn(seed: int, **widths: float) -> Mix | None:
    return draw(8, **{"mixup": 0.0, "cutmix": 0.0, **widths}, random=np.random.default_rng(seed))


def test_a_batch_is_mixed_only_on_request_and_with_others() -> None:
    assert drawn(0) is None
    assert draw(1, mixup=1.0, cutmix=0.0, random=np.random.default_rng(0)) is None
    mix = drawn(0, mixup=1.0)
    assert mix is not None and mix.box is None and sorted(mix.partners) == list(range(8))
    both = [drawn(seed, mixup=0.2, cutmix=1.0) for seed in range(40)]
    boxes = sum(one is not None and one.box is not None for one in both)
    assert 8 <= boxes <= 32, "each of the two about as often"


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_mixup_is_the_weighted_sum(dtype: Any) -> None:
    inputs = np.array([[[[0.0]]], [[[100.0]]]]).astype(dtype)
    found, share = mixed(inputs, Mix(np.array([1, 0]), 0.75))
    assert share == 0.75 and found.dtype == dtype
    assert found.ravel().tolist() == [25, 75]


def test_cutmix_replaces_a_rectangle_and_counts_its_cells() -> None:
    inputs = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)])
    mix = Mix(np.array([1, 0]), 0.9, (0.0, 0.25, 0.5, 0.75))
    assert corners(mix, 4, 4) == (0, 1, 2, 3)
    found, share = mixed(inputs, mix)
    assert share == 0.75, "4 of 16 cells, whatever was drawn"
    assert (found[0, :2, 1:3] == 9).all() and found[0].sum() == 4 * 3 * 9
    assert inputs[0].sum() == 0, "the inputs are unchanged"


def test_activations_without_a_grid_are_added() -> None:
    rows = np.array([[0.0, 4.0], [8.0, 0.0]], np.float32)
    found, share = mixed(rows, Mix(np.array([1, 0]), 0.5, (0.0, 0.0, 1.0, 1.0)))
    assert share == 0.5 and np.array_equal(found, [[4, 2], [4, 2]])


def test_labels_are_mixed_like_photos() -> None:
    labels = np.array([0, 2, 2])
    assert np.array_equal(soft_labels(labels, 3, None), np.eye(3)[labels])
    targets = soft_labels(labels, 3, Mix(np.array([1, 0, 2]), 0.75), 0.75)
    expected = np.array([[0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 1]])
    assert np.allclose(targets, expected)


class Recording(NumpyNetwork):
    """Records how each batch is mixed."""

    def __init__(self, mixing: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.mixing = mixing
        self.mixes: list[Mix | None] = []

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        self.mixes.append(mix)
        return super().step(inputs, labels, rate)


def test_a_run_mixes_each_batch_anew_and_the_same_way_again(task: Task, tmp_path: Path) -> None:
    settings = replace(SETTINGS, mixup=0.5, epochs=2)
    first, second = Recording(), Recording()
    task.run(first, settings, tmp_path / "a")
    task.run(second, settings, tmp_path / "b")
    shares = [mix.share for mix in first.mixes if mix is not None]
    assert len(shares) == len(first.mixes) == len(set(shares)) == 8
    assert shares == [mix.share for mix in second.mixes if mix is not None]


@pytest.mark.parametrize(
    ("training", "validation", "photos", "expected"),
    [
        (0.929, 0.889, 341, True),  # 0.034 is two standard errors
        (0.919, 0.889, 341, False),
        (0.99, 0.889, 20, False),  # few photos show no difference
        (0.85, 0.889, 341, False),
        (1.0, 1.0, 341, False),
        (None, 0.1, 341, False),
    ],
)
def test_training_photos_are_learned_by_heart_when_recognised_clearly_better(
    training: float | None, validation: float, photos: int, expected: bool
) -> None:
    epoch = Epoch(1, 32, "images", 1, 1e-3, 0.5, training, 0.3, validation, 10.0, 1.0, best=True)
    assert epoch.overfits(photos, best=validation) == expected
    assert not epoch.overfits(photos, best=0.999), "the weights of this epoch are behind"


def overfitting(task: Task) -> dict[str, Any]:
    """Return labels of which those of validation photos are all wrong."""
    labels = task.labels["validation"]
    return {"labels": {**task.labels, "validation": (labels + 1) % 3}}


def test_mixing_begins_when_training_photos_are_learned_by_heart(
    task: Task, tmp_path: Path
) -> None:
    network, listener = Recording(mixing=(0.2, 1.0)), Listener()
    settings = replace(SETTINGS, epochs=6)
    tuned = task.run(network, settings, tmp_path, progress=listener, **overfitting(task))
    count = len(task.labels["validation"])
    highest, heart = tuned.start.accuracy, []
    for epoch in tuned.history:
        highest = max(highest, epoch.validation_accuracy)
        if epoch.epoch:
            heart.append(epoch.overfits(count, highest))
    epochs = [epoch for epoch in tuned.history if epoch.epoch]
    first = heart.index(True) + 1
    steps = len(network.mixes) // len(epochs)
    assert 0 < first < len(epochs)
    assert network.mixes[: first * steps] == [None] * first * steps
    assert None not in network.mixes[first * steps :]
    assert listener.text.count("photos are mixed from now on (mixup 0.2, CutMix 1)") == 1

    stopped, again = Recording(mixing=(0.2, 1.0)), Recording(mixing=(0.2, 1.0))
    interrupt = Listener(interrupt_at=first * steps + 1)
    with pytest.raises(KeyboardInterrupt):
        task.run(stopped, settings, tmp_path / "b", progress=interrupt, **overfitting(task))
    task.run(again, settings, tmp_path / "b", **overfitting(task))
    shares = [mix and mix.share for mix in [*stopped.mixes, *again.mixes]]
    assert shares == [mix and mix.share for mix in network.mixes], "a resumed run goes on mixing"


@pytest.mark.parametrize(
    ("mixing", "settings"),
    [
        ((0.0, 0.0), replace(SETTINGS, epochs=6)),
        ((0.2, 1.0), replace(SETTINGS, epochs=6, mixup=0.0)),
        ((0.2, 1.0), replace(SETTINGS, epochs=6, cutmix=0.0)),
    ],
)
def test_photos_are_not_mixed_where_the_network_or_the_settings_say_so(
    task: Task, tmp_path: Path, mixing: tuple[float, float], settings: FinetuneSettings
) -> None:
    network = Recording(mixing)
    task.run(network, settings, tmp_path, **overfitting(task))
    assert set(network.mixes) == {None}


def test_photos_are_not_mixed_while_validation_photos_are_recognised_as_well(
    task: Task, tmp_path: Path
) -> None:
    network = Recording(mixing=(0.2, 1.0))
    task.run(network, SETTINGS, tmp_path)
    assert set(network.mixes) == {None}
