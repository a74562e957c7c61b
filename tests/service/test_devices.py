"""A service on a device: large batches in one stream, and answers that go on when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from support.data import encoded, picture
from support.devices import FAKE, FakeDevice
from tailorbird.errors import SettingsError
from tailorbird.service import ServeSettings, create_app
from tailorbird.service.app import Service


def answers(settings: ServeSettings, count: int) -> list[dict[str, Any]]:
    """Send photos in one request."""
    files = [
        ("file", (f"{i}.jpg", encoded(picture("disc", i)), "image/jpeg")) for i in range(count)
    ]
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/predict", files=files)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["results"]
        return found


@pytest.mark.parametrize("wanted", [None, 3])
def test_batches_and_streams_follow_the_device(
    wanted: int | None, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "4")
    FakeDevice().install(monkeypatch)

    def batcher(device: str) -> Any:
        return Service(ServeSettings(model=trained, device=device, batch=wanted)).state.batcher

    on_cpu, there = batcher("cpu"), batcher("fake")
    assert (on_cpu._batch, on_cpu._runs, on_cpu.threads) == (wanted or 2, 4, 4)
    assert (there._batch, there._runs, there.threads) == (wanted or FAKE.batch, 1, 4)
    for one in (on_cpu, there):
        one.close()


def lost_after(runs: int) -> Callable[[int], Exception | None]:
    done = [0]

    def fails(count: int) -> Exception | None:
        done[0] += 1
        return RuntimeError("device removed") if done[0] > runs else None

    return fails


def test_a_device_that_is_lost_while_serving_costs_no_answer(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(ServeSettings(model=trained, device="cpu"), 12)
    fake = FakeDevice(fails=lost_after(4))
    fake.install(monkeypatch)
    found = answers(ServeSettings(model=trained, device="fake"), 12)
    assert fake.runs
    assert [one["label"] for one in found] == [one["label"] for one in expected]


def test_a_device_that_is_not_here_is_refused_at_the_start(trained: Path) -> None:
    with pytest.raises(SettingsError, match="the device nowhere is not available"):
        Service(ServeSettings(model=trained, device="nowhere"))
