"""Devices and runners: batches, order, bounded memory, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from support.tiny_backbone import tiny
from tailorbird.errors import BackboneError
from tailorbird.inference import CPU, Runner, map_batches

SIZE = 16


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(tiny(), "tiny", BackboneError)


def images(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 8, 9, 50])
def test_any_number_of_images_gives_the_rows_of_single_runs(runner: Runner, count: int) -> None:
    pixels = images(count)
    features, maps = runner.run(pixels, ["features", "feature_map"])
    alone = [runner.run_batch(image[None], ["features"])[0][0] for image in pixels]
    np.testing.assert_allclose(features, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features, maps.mean(axis=(2, 3)), rtol=1e-5, atol=1e-5)


def test_every_output_is_returned_by_default_in_the_order_of_the_names(runner: Runner) -> None:
    assert runner.outputs == ("features", "feature_map")
    assert [output.ndim for output in runner.run_batch(images(2))] == [2, 4]


def test_rows_come_in_order_and_items_that_cannot_be_loaded_give_none(runner: Runner) -> None:
    pixels = images(30)

    def load(number: int) -> tuple[int, npt.NDArray[np.uint8] | None]:
        return number, None if number % 7 == 3 else pixels[number]

    found = list(runner.map(range(30), load, ["features"]))
    assert [number for number, _ in found] == list(range(30))
    expected = runner.run(pixels, ["features"])[0]
    for number, row in found:
        if number % 7 == 3:
            assert row is None
        else:
            assert row is not None
            np.testing.assert_allclose(row[0], expected[number], rtol=1e-5, atol=1e-6)


def test_items_are_read_only_as_results_are_taken() -> None:
    read = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    device = replace(CPU, batch=4, streams=2)
    results = map_batches(endless(), lambda item: (item, item), lambda items: items, device=device)
    assert [next(results) for _ in range(20)] == [(number, number) for number in range(20)]
    assert len(read) <= 20 + 4 * 2 * 3
    results.close()  # type: ignore[attr-defined]


def test_a_device_says_how_many_run_at_once_and_how_many_images_go_into_a_run() -> None:
    sizes: list[int] = []
    together: list[int] = []
    running = 0
    lock = threading.Lock()

    def run(items: list[int]) -> list[int]:
        nonlocal running
        with lock:
            running += 1
            together.append(running)
            sizes.append(len(items))
        with lock:
            running -= 1
        return items

    device = replace(CPU, batch=5, streams=3)
    list(map_batches(range(101), lambda item: (None, item), run, device=device))
    assert max(sizes) == 5 and sizes.count(5) == 20
    assert max(together) <= 3


def test_an_error_while_loading_ends_the_map(runner: Runner) -> None:
    def load(number: int) -> npt.NDArray[np.uint8]:
        raise ValueError(f"photo {number}")

    with pytest.raises(ValueError, match="photo 0"):
        list(runner.rows(range(3), load, "features"))


def test_a_graph_the_runtime_refuses_raises_the_error_given() -> None:
    model = tiny()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BackboneError, match="it cannot be run by ONNX Runtime"):
        Runner(model, "it", BackboneError)


def test_a_run_that_fails_names_the_shape(
    runner: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackboneError, match=r"tiny fails on an input of shape \(1, 9, 9, 3\): "):
        runner.run(np.zeros((1, 9, 9, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


def test_bytes_and_a_parsed_graph_are_the_same(runner: Runner) -> None:
    same = Runner(tiny().SerializeToString(), "tiny", BackboneError)
    assert (same.run(images(3))[0] == runner.run(images(3))[0]).all()
    assert isinstance(tiny(), onnx.ModelProto)
