"""Batching: what waits is shared out at once, by model, and what nobody waits for any more costs no
run.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from tailorbird.model.classifier import Outputs
from tailorbird.service.batching import Answer, Batcher
from tailorbird.service.served import Served
from tailorbird.service.web.problems import Problem


class Model:
    """Stands for a classifier: counts what it is given, and answers once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.batches: list[list[int]] = []
        self.with_maps: list[bool] = []

    def outputs(self, images: Any, *, heatmaps: bool = False) -> Outputs:
        self.batches.append([int(image[0, 0, 0]) for image in images])
        self.with_maps.append(heatmaps)
        assert self.may.wait(60)
        rows = np.stack([np.full(2, image[0, 0, 0], np.float32) for image in images])
        maps = np.ones((len(images), 1, 2, 2), np.float32) if heatmaps else None
        return Outputs(rows, maps, (rows[:, 0] / 10).astype(np.float32))


class Numbers:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.gone = 0
        self.waiting: list[int] = []

    def decoded(self, seconds: float) -> None:
        assert seconds >= 0

    def ran(self, photos: int, seconds: float) -> None:
        self.runs.append(photos)

    def dropped(self, photos: int) -> None:
        self.gone += photos

    def waits(self, photos: int) -> None:
        self.waiting.append(photos)


def served(model: Model) -> Served:
    return Served("m", "0" * 64, model, "now")  # type: ignore[arg-type]


def pixels(number: int) -> Any:
    return np.full((2, 2, 3), number, np.uint8)


def ask(
    batcher: Batcher, what: Served, number: int, *, maps: bool = False, seconds: float = 10
) -> asyncio.Task[Answer]:
    return asyncio.ensure_future(
        batcher.classify(what, pixels(number), heatmaps=maps, deadline=time.monotonic() + seconds)
    )


def test_an_idle_service_answers_at_once_and_a_busy_one_shares_out_what_gathered() -> None:
    async def scenario() -> None:
        model, meter = Model(), Numbers()
        batcher = Batcher(threads=2, queue=64, batch=4, decode_seconds=10, meter=meter)
        what = served(model)
        asked = [ask(batcher, what, number) for number in range(9)]
        await asyncio.sleep(0.1)
        # Two runners took the first photos as they came, alone; seven gathered behind them.
        assert sorted(map(tuple, model.batches)) == [(0,), (1,)]
        model.may.set()
        answers = await asyncio.gather(*asked)
        assert [int(answer.probabilities[0]) for answer in answers] == list(range(9))
        scores = [answer.unfamiliarity for answer in answers]
        assert scores == pytest.approx([number / 10 for number in range(9)])
        assert sorted(number for batch in model.batches for number in batch) == list(range(9))
        # Seven are shared out between two runners: four, then half of what is left.
        assert sorted(meter.runs) == [1, 1, 1, 2, 4]
        batcher.close()

    asyncio.run(scenario())


def test_a_run_never_holds_more_than_the_batch_and_never_two_models() -> None:
    async def scenario() -> None:
        model, other, meter = Model(), Model(), Numbers()
        batcher = Batcher(threads=1, queue=64, batch=3, decode_seconds=10, meter=meter)
        first, second = served(model), served(other)
        asked = [ask(batcher, first, number) for number in range(6)] + [
            ask(batcher, second, number) for number in (6, 7)
        ]
        model.may.set()
        other.may.set()
        answers = await asyncio.gather(*asked)
        assert [int(answer.probabilities[0]) for answer in answers] == list(range(8))
        assert model.batches == [[0], [1, 2, 3], [4, 5]] and other.batches == [[6, 7]]
        batcher.close()

    asyncio.run(scenario())


def test_heat_maps_go_to_those_who_asked() -> None:
    async def scenario() -> None:
        model = Model()
        batcher = Batcher(threads=1, queue=64, batch=4, decode_seconds=10, meter=Numbers())
        what = served(model)
        blocker = ask(batcher, what, 0)
        await asyncio.sleep(0.05)
        plain, mapped = ask(batcher, what, 1), ask(batcher, what, 2, maps=True)
        await asyncio.sleep(0.05)
        model.may.set()
        assert (await blocker).heatmaps is None and (await plain).heatmaps is None
        shown = (await mapped).heatmaps
        assert shown is not None and shown.shape == (1, 2, 2)
        assert model.batches == [[0], [1, 2]] and model.with_maps == [False, True]
        batcher.close()

    asyncio.run(scenario())


def test_expired_and_abandoned_photos_cost_no_run() -> None:
    async def scenario() -> None:
        model, meter = Model(), Numbers()
        batcher = Batcher(threads=1, queue=64, batch=4, decode_seconds=10, meter=meter)
        what = served(model)
        blocker = ask(batcher, what, 0)
        await asyncio.sleep(0.05)
        late, left, kept = (
            ask(batcher, what, 1, seconds=0.01),
            ask(batcher, what, 2),
            ask(batcher, what, 3),
        )
        await asyncio.sleep(0.1)
        left.cancel()
        model.may.set()
        with pytest.raises(Problem) as refused:
            await late
        assert refused.value.code == "deadline" and refused.value.status == 503
        assert int((await kept).probabilities[0]) == 3 and await blocker
        assert model.batches == [[0], [3]] and meter.gone == 2
        batcher.close()

    asyncio.run(scenario())


def test_a_failing_run_fails_its_own_photos_only() -> None:
    async def scenario() -> None:
        model, bad = Model(), Model()
        model.may.set()

        def run_out_of_memory(*_: Any, **__: Any) -> Any:
            raise RuntimeError("out of memory")

        bad.outputs = run_out_of_memory  # type: ignore[method-assign]
        batcher = Batcher(threads=1, queue=64, batch=4, decode_seconds=10, meter=Numbers())
        failed, fine = ask(batcher, served(bad), 1), ask(batcher, served(model), 2)
        with pytest.raises(RuntimeError, match="out of memory"):
            await failed
        assert int((await fine).probabilities[0]) == 2
        batcher.close()

    asyncio.run(scenario())


def test_admission_is_all_or_nothing_and_counts_back() -> None:
    async def scenario() -> None:
        meter = Numbers()
        batcher = Batcher(threads=1, queue=4, batch=4, decode_seconds=10, meter=meter)
        with batcher.admitted(3):
            assert not batcher.full and batcher.under_way == 3
            with pytest.raises(Problem) as refused, batcher.admitted(2):
                raise AssertionError("admitted")
            assert refused.value.code == "overloaded" and refused.value.headers["Retry-After"]
            with batcher.admitted(1):
                assert batcher.full
        assert batcher.under_way == 0 and meter.waiting == [3, 4, 3, 0]
        batcher.close()

    asyncio.run(scenario())
