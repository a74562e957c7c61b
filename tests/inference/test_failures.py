"""A device that fails in the middle of a run costs no result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from support.devices import FAKE, FakeDevice
from support.tiny_backbone import tiny
from tailorbird.errors import BackboneError
from tailorbird.inference import CPU, Runner

SIZE = 16


def images(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def opened(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> Runner:
    fake.install(monkeypatch)
    return Runner(tiny(), "tiny", BackboneError, device=fake.device)


def expected(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = Runner(tiny(), "tiny", BackboneError).run(pixels, ["features"])[
        0
    ]
    return rows


def features(runner: Runner, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the features as `map` gives them."""
    rows = runner.map(range(len(pixels)), lambda i: (i, pixels[i]), ["features"])
    found = [(number, row[0]) for number, row in rows if row is not None]
    assert [number for number, _ in found] == list(range(len(pixels)))
    return np.stack([row for _, row in found])


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "Failed to allocate memory for requested buffer of size 4294967296",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "E_OUTOFMEMORY",
        "std::bad_alloc",
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(
    message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeDevice(fails=lambda count: RuntimeError(message) if count > 5 else None)
    runner, pixels = opened(fake, monkeypatch), images(50)
    np.testing.assert_allclose(features(runner, pixels), expected(pixels), rtol=1e-5, atol=1e-6)
    assert not runner.lost
    assert sum(fake.runs) == 50 and max(fake.runs) == 4
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert told == [
        "the memory of the device fake is full at 16 images a run; going on with 8",
        "the memory of the device fake is full at 8 images a run; going on with 4",
    ]


def test_memory_that_is_too_small_for_one_image_ends_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeDevice(fails=lambda count: RuntimeError("out of memory"))
    runner, pixels = opened(fake, monkeypatch), images(9)
    np.testing.assert_allclose(features(runner, pixels), expected(pixels), rtol=1e-5, atol=1e-6)
    assert runner.lost
    assert "the CPU does the rest" in caplog.records[-1].getMessage()


def lost_after(runs: int) -> Callable[[int], Exception | None]:
    """Fail in every run after the first ones, as a device that was unplugged does."""
    done = [0]

    def fails(count: int) -> Exception | None:
        done[0] += 1
        return RuntimeError("CUDA failure 999: unknown error") if done[0] > runs else None

    return fails


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_a_lost_device_leaves_the_rest_to_the_cpu_with_one_warning(
    runs: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = opened(FakeDevice(fails=lost_after(runs)), monkeypatch)
    pixels = images(70)
    np.testing.assert_allclose(features(runner, pixels), expected(pixels), rtol=1e-5, atol=1e-6)
    assert runner.lost
    (told,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert told == (
        "the device fake failed while running tiny (CUDA failure 999: unknown error); the CPU does "
        "the rest"
    )


def test_threads_that_meet_a_lost_device_together_open_the_cpu_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = replace(FAKE, streams=4)
    meeting = threading.Barrier(4, timeout=30)

    def fails(count: int) -> Exception:
        meeting.wait()
        return RuntimeError("device removed")

    runner = opened(FakeDevice(device=device, fails=fails), monkeypatch)
    pixels = images(4)
    found: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * 4

    def run(number: int) -> None:
        found[number] = runner.run_batch(pixels[number : number + 1], ["features"])[0][0]

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, expected(pixels), rtol=1e-5, atol=1e-6)
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1


def test_images_that_no_device_can_run_are_an_error_and_the_device_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = opened(FakeDevice(), monkeypatch)
    with pytest.raises(BackboneError, match=r"tiny fails on an input of shape \(1, 9, 9, 3\): "):
        runner.run(np.zeros((1, 9, 9, 3), np.uint8))
    assert not runner.lost and not caplog.records


def test_one_run_at_a_time_enters_a_device_with_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enters(count: int) -> None:
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    fake = FakeDevice(fails=enters)
    runner, pixels = opened(fake, monkeypatch), images(40)
    threads = [threading.Thread(target=runner.run, args=[pixels]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and sum(fake.runs) == 160


def test_large_batches_run_while_every_core_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "4")
    loaders: set[str] = set()
    meeting = threading.Barrier(4, timeout=30)

    def load(number: int) -> tuple[int, npt.NDArray[np.uint8]]:
        if number < 4:
            meeting.wait()  # only four threads that load at once get past this
        loaders.add(threading.current_thread().name)
        return number, images(1)[0]

    fake = FakeDevice()
    runner = opened(fake, monkeypatch)
    assert [number for number, _ in runner.map(range(100), load, ["features"])] == list(range(100))
    assert len(loaders) == 4
    assert fake.runs == [1, 16, 16, 16, 16, 16, 16, 3]


def test_the_cpu_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(tiny(), "tiny", BackboneError, device=CPU)
    with pytest.raises(BackboneError, match="tiny fails on an input"):
        runner.run(np.zeros((1, 9, 9, 3), np.uint8))
    assert not runner.lost
