"""Inputs of a stage: augmented training photos, plain validation photos, cached activations."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.finetuning import Listener, photos, task  # noqa: F401
from support.numpy_network import SETTINGS, SIZE, NumpyNetwork, Task, draw, weights_of
from tailorbird.dataset import picture_of
from tailorbird.engines.finetune import plan as planning
from tailorbird.engines.finetune import views
from tailorbird.engines.finetune.activation_cache import (
    LARGEST,
    ActivationFile,
    clear,
    kept_bytes,
    to_half,
)
from tailorbird.engines.finetune.views import Inputs, order, shape_of_batches
from tailorbird.engines.protocol import Views
from tailorbird.errors import StorageError, StorageFull, UnreadableImage
from tailorbird.images import ResizeRule, draw_view, load, picture_for_views, view_random

ONE = replace(SETTINGS, sizes=(SIZE,))


def inputs(task: Task, folder: Path, *, number: int = 0, seed: int = 0, **options: Any) -> Inputs:
    given = task.given(NumpyNetwork(), replace(ONE, **options), folder, seed=seed)
    (stage,) = given.stages()
    return Inputs(given, stage, number)


def epoch(found: Inputs, number: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows of an epoch, and the photos' numbers."""
    batches = list(found.training(number, start))
    return np.concatenate([np.asarray(rows) for rows, _ in batches]), np.concatenate(
        [numbers for _, numbers in batches]
    )


@pytest.mark.parametrize(
    ("photos", "wanted", "devices", "expected"),
    [
        (60, 15, 1, (4, 15)),
        (3068, 32, 1, (95, 32)),
        (33, 32, 1, (1, 32)),
        (7, 32, 1, (1, 7)),
        (60, 32, 1, (2, 30)),
        (60, 32, 4, (2, 28)),
        (100, 32, 8, (3, 32)),
        (3, 32, 4, (1, 3)),
        (1, 1, 1, (1, 1)),
    ],
)
def test_all_batches_have_one_size_and_leave_few_photos_out(
    photos: int, wanted: int, devices: int, expected: tuple[int, int]
) -> None:
    steps, size = shape_of_batches(photos, wanted, devices)
    assert (steps, size) == expected
    assert size <= wanted and 0 <= photos - steps * size < max(size, steps + devices * steps)


def test_each_epoch_has_its_order_and_each_photo_once(task: Task, tmp_path: Path) -> None:
    orders = [
        tuple(order(60, seed=seed, stage=stage, epoch=epoch))
        for seed in (0, 1)
        for stage in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 8 and all(sorted(found) == list(range(60)) for found in orders)
    assert tuple(order(60, seed=0, stage=0, epoch=0)) == orders[0]
    _, numbers = epoch(inputs(task, tmp_path), 0)
    assert tuple(numbers) == orders[0]


def test_pixels_are_views_for_training_and_plain_for_validation(task: Task, tmp_path: Path) -> None:
    found = inputs(task, tmp_path, unfreeze="all")
    assert found.made == 0
    plain = np.stack([load(sample.path, ResizeRule(SIZE)) for sample in task.parts["validation"]])
    batches = list(found.validation())
    assert [batch.shape for batch in batches] == [(15, SIZE, SIZE, 3)] * 2 and batches[
        0
    ].dtype == np.uint8
    assert np.array_equal(np.concatenate(batches)[:24], plain)
    assert np.array_equal(batches[1][9:], np.repeat(batches[1][8:9], 6, axis=0)), (
        "filled up with the last"
    )
    rows, numbers = epoch(found, 0)
    unchanged = np.stack(
        [load(task.parts["train"][number].path, ResizeRule(SIZE)) for number in numbers]
    )
    assert rows.shape == unchanged.shape and all(
        np.any(row != same) for row, same in zip(rows, unchanged, strict=True)
    )
    others = [
        epoch(found, 1),
        epoch(inputs(task, tmp_path, unfreeze="all", number=1), 0),
        epoch(inputs(task, tmp_path, unfreeze="all", seed=1), 0),
    ]
    for other, its_numbers in others:
        assert not np.array_equal(other[np.argsort(its_numbers)], rows[np.argsort(numbers)])
    again, _ = epoch(inputs(task, tmp_path, unfreeze="all"), 0, start=2)
    assert np.array_equal(again, rows[30:]), "from a step on, in another process: the same"
    bare, numbers = epoch(inputs(task, tmp_path, unfreeze="all", augmentation=None), 3)
    assert np.array_equal(bare[0], load(task.parts["train"][numbers[0]].path, ResizeRule(SIZE)))


class OnItsDevice(NumpyNetwork):
    """Takes pixels at any cut, and pictures with the views to make of them."""

    takes_pixels = takes_views = True


def test_a_network_that_augments_receives_pictures_and_their_views(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = task.given(OnItsDevice(), ONE, tmp_path / "b")
    found = views.Inputs(given, given.stages()[0], 0)
    assert found.made == 0, "the network runs the frozen part itself"
    rule, augmentation = ResizeRule(SIZE), given.settings.augmentation
    assert augmentation is not None
    batches = list(found.training(1))
    assert len(batches) == 4
    batch, numbers = batches[0]
    assert isinstance(batch, Views) and len(batch) == 15
    for place, number in enumerate(numbers):
        sample = task.parts["train"][number]
        random = view_random(bytes.fromhex(sample.digest), 2)
        view = draw_view(rule, augmentation, random)
        assert np.allclose(batch.maps[place], view.map, atol=1e-5)
        assert batch.brightness[place] == np.float32(view.brightness)
        picture = picture_for_views(picture_of(sample, rule.least_side), rule, augmentation)
        assert np.array_equal(batch.pictures[place], np.asarray(picture))
    monkeypatch.setattr(views, "picture_of", None)  # decoded photos are kept in memory
    monkeypatch.setattr(views, "pixels_of", None)
    (again, _), *_ = found.training(1)
    assert isinstance(again, Views) and np.array_equal(again.pictures, batch.pictures)


def test_photos_that_do_not_fit_into_memory_are_decoded_again(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 4096}  # 4 GiB
    container = tmp_path / "memory.max"
    monkeypatch.setattr(os, "sysconf", pages.get)
    monkeypatch.setattr(views, "CONTAINER", container)
    for limit, allowed in ((None, 2**29), ("max\n", 2**29), (f"{2**30}\n", 2**27)):
        if limit is not None:
            container.write_text(limit)
        assert views.memory_bytes() == allowed
    pages["SC_PHYS_PAGES"] = 16
    given = task.given(OnItsDevice(), ONE, tmp_path / "b")
    found = views.Inputs(given, given.stages()[0], 0)
    decoded: list[Any] = []

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments)
        return picture_of(*arguments)

    monkeypatch.setattr(views, "picture_of", counted)
    for _ in range(2):
        assert sum(len(batch) for batch, _ in found.training(0)) == 60
    assert len(decoded) == 120


def test_several_processes_share_every_batch_and_the_validation_photos(
    task: Task, tmp_path: Path
) -> None:
    settings = replace(ONE, unfreeze="all", devices=2, batch_size=20)
    numbers: list[int] = []
    given = task.given(NumpyNetwork(), settings, tmp_path / "w")
    whole = views.Inputs(given, given.stages()[0], 0)
    everything = [(np.asarray(rows), chosen) for rows, chosen in whole.training(0)]
    plain = np.concatenate(list(whole.validation()))[:24]
    halves = []
    for process in (0, 1):
        network = NumpyNetwork()
        network.process, network.processes = process, 2
        part = task.given(network, settings, tmp_path / str(process))
        half = views.Inputs(part, part.stages()[0], 0)
        halves.append(np.concatenate(list(half.validation()))[:12])
        for (rows, chosen), (all_rows, all_chosen) in zip(
            half.training(0), everything, strict=True
        ):
            assert np.array_equal(np.asarray(rows), all_rows[process::2])
            assert np.array_equal(chosen, all_chosen[process::2])
            numbers += chosen.tolist()
    assert sorted(numbers) == list(range(60))
    assert np.array_equal(np.stack(halves, axis=1).reshape(plain.shape), plain)


def test_nothing_augmented_reaches_validation_in_a_run(task: Task, tmp_path: Path) -> None:
    plain = np.stack([load(sample.path, ResizeRule(SIZE)) for sample in task.parts["validation"]])
    network = NumpyNetwork()
    task.run(network, replace(ONE, unfreeze="all", epochs=3), tmp_path)
    seen = np.concatenate(network.seen).reshape(3, 30, SIZE, SIZE, 3)
    assert all(np.array_equal(once[:24], plain) for once in seen), (
        "three epochs; the start is scored by ONNX Runtime"
    )


def test_activations_are_what_the_frozen_part_makes_of_the_views(
    task: Task, tmp_path: Path
) -> None:
    pixels, numbers = epoch(inputs(task, tmp_path / "a", unfreeze="all"), 0)
    found = inputs(task, tmp_path / "b", unfreeze=1)
    rows, same_numbers = epoch(found, 0)
    assert (
        np.array_equal(numbers, same_numbers)
        and rows.shape == (60, 4, 4, 3)
        and rows.dtype == np.float16
    )
    grid = (
        pixels.astype(np.float64).reshape(60, 4, 8, 4, 8, 3).mean(axis=(2, 4))
        / 255
        * [1.1, 0.9, 1.0]
    )
    assert np.abs(rows - grid).max() < 1e-3


def test_the_frozen_part_runs_once_a_view_not_once_an_epoch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, runs = threading.Lock(), Counter[tuple[str, bytes]]()
    run = views.FrozenPart._run

    def counting(frozen: Any, pixels: np.ndarray) -> np.ndarray:
        with lock:
            runs[
                str(frozen.shape) if hasattr(frozen, "shape") else "probe",
                hashlib.sha256(pixels.tobytes()).digest(),
            ] += 1
        return run(frozen, pixels)

    monkeypatch.setattr(views.FrozenPart, "_run", counting)
    folder = tmp_path / "run"
    tuned = task.run(NumpyNetwork(), replace(ONE, epochs=8), folder)
    assert tuned.stages[0].keep and tuned.stages[0].views == 2 and len(tuned.history) == 8
    at_the_cut = [count for (kind, _), count in runs.items() if kind == "(4, 4, 3)"]
    assert len(at_the_cut) == 2 * 60 + 24 and set(at_the_cut) == {1}, (
        "eight epochs of two views, nine validations of none"
    )
    assert sum(count for (kind, _), count in runs.items() if kind == "(16,)") == 24, (
        "the start, once"
    )


def test_kept_or_not_the_numbers_are_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    for disk in (planning.DISK_BYTES, 0):
        monkeypatch.setattr("tailorbird.engines.finetune.task.DISK_BYTES", disk)
        networks.append(NumpyNetwork())
        progress = Listener()
        tuned = task.run(networks[-1], ONE, tmp_path / str(disk), progress=progress)
        assert tuned.stages[0].keep == (disk > 0) and ("no room" in progress.text) == (disk == 0)
    assert weights_of(networks[0]) == weights_of(networks[1])


def test_kept_activations_are_found_again_and_those_of_other_stages_go(
    task: Task, tmp_path: Path
) -> None:
    first = inputs(task, tmp_path)
    rows, _ = epoch(first, 0)
    list(first.validation())
    assert first.made == 60 + 24
    first.close()
    second = inputs(task, tmp_path)
    assert np.array_equal(epoch(second, 0)[0], rows) and second.made == 0
    epoch(second, 2)
    assert second.made == 0, "the third epoch has the first one's view again"
    epoch(second, 1)
    assert second.made == 60 and kept_bytes(tmp_path) > 0
    second.close()
    inputs(task, tmp_path, number=1)
    assert kept_bytes(tmp_path) == 0


def test_a_row_of_the_file_is_there_or_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.f16"
    file = ActivationFile(path, 3, 4)
    values = to_half(np.array([1.5, -1e9, 1e9, 65504.0], np.float32))
    assert values.tolist() == [1.5, -LARGEST, LARGEST, LARGEST]
    assert file.get(1) is None and 1 not in file
    file.put(1, values)
    file.close()
    again = ActivationFile(path, 3, 4)
    found = again.get(1)
    assert (
        1 in again
        and found is not None
        and np.array_equal(found, values)
        and again.get(0) is None
        and again.get(2) is None
    )
    again.close()
    data = bytearray(path.read_bytes())
    data[3 * 8 + 4 * 2 + 1] ^= 1
    path.write_bytes(data)
    damaged = ActivationFile(path, 3, 4)
    assert damaged.get(1) is None and damaged.get(1) is None
    damaged.put(1, values)
    assert damaged.get(1) is not None
    damaged.close()
    path.write_bytes(b"short")
    assert ActivationFile(path, 3, 4).get(1) is None
    clear(tmp_path)
    assert not path.exists()


def test_threads_share_a_file(tmp_path: Path) -> None:
    file = ActivationFile(tmp_path / "rows.f16", 400, 50)
    random = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float16)

    def work(part: int) -> None:
        for row in range(part, 400, 4):
            file.put(row, random[row])
            assert file.get(row) is not None

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [file.get(row) for row in range(400)]
    assert all(
        row is not None and np.array_equal(row, r) for row, r in zip(rows, random, strict=True)
    )


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full"
)
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.f16"
    path.symlink_to("/dev/full")
    file = ActivationFile(path, 4, 100)
    with pytest.raises(
        StorageFull, match=r"the disk is full: .*rows\.f16 could not be written; free some space"
    ):
        file.put(0, np.zeros(100, np.float16))


def test_a_full_disk_in_a_run_keeps_the_checkpoint(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = NumpyNetwork()
    task.run(reference, ONE, tmp_path / "whole")
    folder, put = tmp_path / "run", ActivationFile.put

    def full(self: ActivationFile, row: int, values: Any) -> None:
        if "view" in self.path.name and kept_bytes(folder) > 60 * 8 * 2 + 24 * 8 + (24 + 70) * 96:
            raise StorageFull("the disk is full")
        put(self, row, values)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationFile, "put", full)
        with pytest.raises(StorageFull):
            task.run(NumpyNetwork(), ONE, folder)
    assert list(folder.glob("state-*.json"))
    network = NumpyNetwork()
    assert task.run(network, ONE, folder).resumed_from == (1, 1, 0) and weights_of(
        network
    ) == weights_of(reference)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_may_not_be_written(task: Task, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not be written"):
        inputs(task, tmp_path / "below")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_photo_that_changed_or_went_since(tmp_path: Path, split: str) -> None:
    own = Task(draw(tmp_path / "photos", train=5, validation=5))
    victim = own.parts[split][3].path
    kept = victim.read_bytes()
    victim.write_bytes(own.parts[split][4].path.read_bytes())
    with pytest.raises(
        UnreadableImage,
        match=rf"{victim.name}: the file has changed since; it was fine when .* run again",
    ):
        own.run(NumpyNetwork(), ONE, tmp_path / "run")
    victim.unlink()
    with pytest.raises(UnreadableImage, match=f"{victim.name}: no such file; it was fine"):
        own.run(NumpyNetwork(), ONE, tmp_path / "run")
    victim.write_bytes(kept)
    assert own.run(NumpyNetwork(), ONE, tmp_path / "run").stopped == "finished"


def test_photos_are_resized_by_the_rule_of_the_backbone(task: Task, tmp_path: Path) -> None:
    crop = ResizeRule(SIZE, keep_aspect=True, share=0.8, filter="bicubic")
    given = replace(task.given(NumpyNetwork(), ONE, tmp_path, seed=0), rule=crop.at(2 * SIZE))
    found = Inputs(given, given.stages()[0], 0, pixels=True)
    plain = np.stack([load(sample.path, crop) for sample in task.parts["validation"]])
    assert np.array_equal(np.concatenate(list(found.validation()))[: len(plain)], plain)
    found.close()
