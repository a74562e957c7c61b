"""Complete and interrupted fine-tuning runs, and their comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.finetuning import Listener
from support.numpy_network import (
    SETTINGS,
    NumpyNetwork,
    Task,
    weights_of,
)
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.engines.finetune.settings import FinetuneSettings

STEPS = 6 * 4
"""Steps of a run with `SETTINGS`: six epochs of 60 photos in batches of 15."""


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, bytes]:
    """Return the result of an uninterrupted run with `SETTINGS`, and its weights."""
    network = NumpyNetwork()
    tuned = task.run(network, SETTINGS, tmp_path_factory.mktemp("whole"))
    return tuned, weights_of(network)


def same_result(tuned: FinetuneResult, other: FinetuneResult) -> bool:
    """Return whether two results are the same, apart from durations."""

    def plain(result: FinetuneResult) -> str:
        history = [
            replace(epoch, seconds=0, images_per_second=None).as_dict() for epoch in result.history
        ]
        return json.dumps(
            [history, result.best.as_dict(), result.best.logits.tolist(), result.stopped]
        )

    return plain(tuned) == plain(other)


def interrupted(
    task: Task, folder: Path, step: int, settings: FinetuneSettings = SETTINGS, **options: Any
) -> Listener:
    """Run until Ctrl-C after a number of steps."""
    progress = Listener(step)
    with pytest.raises(KeyboardInterrupt):
        task.run(NumpyNetwork(), settings, folder, progress=progress, **options)
    return progress
