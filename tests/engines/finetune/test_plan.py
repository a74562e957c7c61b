"""Plan of a fine-tuning run: settings, stages, learning rates, EMA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.numpy_network import NumpyNetwork
from tailorbird.engines.finetune import schedules
from tailorbird.engines.finetune.ema import EMA, Averages
from tailorbird.engines.finetune.plan import (
    Stage,
    apportion,
    default_sizes,
    plan,
    single_size,
)
from tailorbird.engines.finetune.schedules import Plateau
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.protocol import Cut, Regularisation
from tailorbird.errors import SettingsError

PHOTOS = {"train": 3000, "validation": 300}
# (name, layers above, parameters above, halvings of the side below, channels), as in MobileNetV2.
LAYERS = (
    ("block_2", 43, 2_200_000, 2, 24),
    ("block_5", 34, 2_190_000, 3, 32),
    ("block_9", 22, 2_040_000, 4, 64),
    ("block_12", 13, 1_690_000, 4, 96),
    ("block_14", 7, 1_220_000, 5, 160),
)


class Deep(NumpyNetwork):
    """A deep network, of which only the cuts are used."""

    name = "deep"

    def cuts(self, size: int) -> Sequence[Cut]:
        cuts = [Cut("images", 52, 2_224_000, size * size * 3)]
        cuts += [
            Cut(name, above, held, (size >> halved) ** 2 * width)
            for name, above, held, halved, width in LAYERS
        ]
        return [*cuts, Cut("features", 0, 0, 1280)]


def stages(disk: int = 2**40, **options: Any) -> tuple[Stage, ...]:
    return plan(Deep(), FinetuneSettings(**options), PHOTOS, size=224, disk=disk)


def test_settings_report_every_problem_at_once() -> None:
    bad: dict[str, Any] = {
        "dropout": 1.0,
        "batch_norm": 2,
        "l2": -1.0,
        "weight_decay": -1.0,
        "label_smoothing": 1.0,
    }
    wrong: dict[str, Any] = {
        "sizes": (224, 160),
        "unfreeze": -1,
        "epochs": 0,
        "budget": 0.0,
        "batch_size": 0,
        "learning_rate": float("inf"),
        "base_rate": 1.5,
        "depth_decay": 0.0,
        "schedule": "step",
        "warm_up": 1.0,
        "optimizer": "lion",
        "class_weight": "even",
        "ema": 1.0,
        "mixup": -1.0,
        "cutmix": float("nan"),
        "accumulate": 0,
        "clip": 0.0,
        "patience": 0,
        "mixed_precision": 1,
        "plain_first": 1,
        "devices": 0,
        "augmentation": "flip",
        "views": 0,
        "checkpoint_seconds": -1.0,
        "regularisation": Regularisation(**bad),
    }
    with pytest.raises(SettingsError) as raised:
        FinetuneSettings(**wrong)
    names = {*FinetuneSettings.__dataclass_fields__, *Regularisation.__dataclass_fields__} - {
        "regularisation"
    }
    for name in names:
        assert f"{name} is " in str(raised.value), name


def test_unaugmented_photos_come_first_on_request() -> None:
    plain, augmented = stages(sizes=(160,), unfreeze="all", plain_first=True)
    assert (plain.augmented, plain.views, plain.epochs) == (
        False,
        1,
        5,
    ) and "unaugmented photos" in plain.sentence()
    assert augmented.augmented and (augmented.cut, augmented.epochs) == (plain.cut, 5)
    assert len(stages(sizes=(160,), unfreeze="all", plain_first=True, augmentation=None)) == 1


@pytest.mark.parametrize("unfreeze", [True, 1.5, "some"])
def test_unfreeze_is_a_word_or_a_number(unfreeze: Any) -> None:
    with pytest.raises(SettingsError, match=r"unfreeze is .* 'gradual', 'all' or a whole number"):
        FinetuneSettings(unfreeze=unfreeze)


def test_more_devices_than_photos_in_a_batch() -> None:
    with pytest.raises(
        SettingsError, match="batch_size is 2, but 4 devices need at least one photo each"
    ):
        FinetuneSettings(batch_size=2, devices=4)


def test_gradual_goes_from_small_to_large_and_from_the_top_down_and_spares_the_first_layers() -> (
    None
):
    found = stages()
    assert [(stage.size, stage.cut_name) for stage in found] == [
        (160, "block_12"),
        (160, "block_5"),
        (224, "block_5"),
    ]
    assert [stage.epochs for stage in found] == [2, 3, 5] and sum(
        stage.epochs for stage in found
    ) == 10
    assert [stage.learning_rate for stage in found] == [1.5e-3, 1.5e-3, 0.75e-3]
    # Lower layers have lower rates, and a layer has the same rate in all stages of a size.
    assert found[0].depth_decay == pytest.approx(0.5 ** (13 / 52)) and found[
        1
    ].depth_decay == pytest.approx(0.5 ** (34 / 52))
    assert (
        found[1]
        .sentence()
        .startswith(
            "160 px, the top 34 of 52 layers (above block_5) and the head, 3 epochs, "
            "learning rate 0.0015"
        )
    )


def test_gradual_on_a_network_without_cuts_between_is_one_stage_a_size() -> None:
    class Shallow(Deep):
        def cuts(self, size: int) -> Sequence[Cut]:
            every = super().cuts(size)
            return [every[0], every[-1]]

    found = plan(Shallow(), FinetuneSettings(), PHOTOS, size=224)
    assert [(stage.size, stage.cut, stage.epochs) for stage in found] == [(160, 0, 5), (224, 0, 5)]


def test_a_network_too_deep_for_a_smaller_size_trains_at_its_own() -> None:
    class Demanding(Deep):
        def cuts(self, size: int) -> Sequence[Cut]:
            if size < 71:
                raise SettingsError(f"size = {size}; Demanding takes images of 71 pixels and more")
            return super().cuts(size)

    assert {stage.size for stage in plan(Demanding(), FinetuneSettings(), PHOTOS, size=96)} == {96}
    with pytest.raises(SettingsError, match="size = 64"):  # but not where 64 was asked for
        plan(Demanding(), FinetuneSettings(sizes=(64, 96)), PHOTOS, size=96)


def test_all_trains_everything_and_keeps_nothing() -> None:
    found = stages(unfreeze="all", sizes=(96, 160, 224), epochs=20)
    assert [(stage.size, stage.cut, stage.layers, stage.disk) for stage in found] == [
        (96, 0, 52, 0),
        (160, 0, 52, 0),
        (224, 0, 52, 0),
    ]
    assert sum(stage.epochs for stage in found) == 20 and not any(
        stage.keep or stage.keep_validation for stage in found
    )
    assert "all 52 layers and the head" in found[0].sentence()


@pytest.mark.parametrize(
    ("layers", "cut"),
    [(0, "features"), (1, "block_14"), (7, "block_14"), (8, "block_12"), (44, "images")],
)
def test_a_number_trains_at_least_that_many_layers(layers: int, cut: str) -> None:
    assert {stage.cut_name for stage in stages(unfreeze=layers)} == {cut}


def test_more_layers_than_there_are() -> None:
    with pytest.raises(
        SettingsError,
        match=r"unfreeze is 53, but deep has 52 layers with weights; give a smaller number",
    ):
        stages(unfreeze=53)


def test_activations_are_kept_where_that_saves_runs_and_there_is_room() -> None:
    (stage,) = stages(unfreeze=8, sizes=(224,), epochs=12)
    assert stage.views == 4 and stage.keep and stage.keep_validation
    row = 14 * 14 * 96 * 2
    assert stage.disk == row * (3000 * 4 + 300)
    assert "the layers below run once for 4 views of each photo" in stage.sentence()
    (full,) = stages(unfreeze=8, sizes=(224,), epochs=12, disk=stage.disk - 1)
    assert full.views == 4 and not full.keep and full.keep_validation, (
        "the disk decides what is kept, not what is trained on"
    )
    assert "the disk has no room" in full.sentence()
    (few,) = stages(unfreeze=8, sizes=(224,), epochs=7)
    assert few.views == 7 and not few.keep, "few epochs: a new view each, and nothing to keep"
    (plain,) = stages(unfreeze=8, sizes=(224,), epochs=3, augmentation=None)
    assert plain.views == 1 and plain.keep


def test_sizes_when_none_are_given() -> None:
    assert (
        default_sizes(224) == (160, 224)
        and default_sizes(299) == (224, 299)
        and default_sizes(96) == (64, 96)
    )
    assert default_sizes(32) == (32,)


@pytest.mark.parametrize(
    ("side", "size"), [(2000, 224), (224, 224), (200, 224), (180, 192), (100, 128), (28, 128)]
)
def test_one_size_depends_on_the_size_of_the_photos(side: int, size: int) -> None:
    assert single_size(Deep(), 260, side) == size


def test_one_size_of_a_network_too_deep_for_a_smaller_one_is_its_own() -> None:
    class Demanding(Deep):
        def cuts(self, size: int) -> Sequence[Cut]:
            if size < 100:
                raise SettingsError(f"size = {size}; Demanding takes images of 100 pixels and more")
            return super().cuts(size)

    assert single_size(Deep(), 128, 500) == 96
    assert single_size(Demanding(), 128, 500) == 128
    assert single_size(Deep(), 32, 500) == 32


def test_epochs_by_shares() -> None:
    assert apportion(10, [0.2, 0.5, 0.3]) == [2, 5, 3]
    assert apportion(2, [0.2, 0.5, 0.3]) == [0, 1, 1] and apportion(1, [0.2, 0.5, 0.3]) == [0, 0, 1]
    for epochs in range(1, 60):
        counts = apportion(epochs, [0.2, 0.5, 0.3])
        assert sum(counts) == epochs and (epochs < 3 or min(counts) >= 1)
        assert all(
            abs(count - epochs * share) < 2
            for count, share in zip(counts, [0.2, 0.5, 0.3], strict=True)
        )
    assert [stage.size for stage in stages(epochs=1)] == [224]


def test_schedules() -> None:
    assert schedules.factor("constant", 0.9, warm_up=0.1) == 1
    assert schedules.factor("constant", 0.05, warm_up=0.1) == pytest.approx(0.5)
    assert schedules.factor("cosine", 0.1, warm_up=0.1) == 1 and schedules.factor(
        "cosine", 0.55, warm_up=0.1
    ) == pytest.approx(0.5)
    assert schedules.factor("cosine", 1.0) == 0
    assert schedules.factor("plateau", 0.5, plateau=0.3) == 0.3
    falling = [schedules.factor("cosine", at / 50, warm_up=0.1) for at in range(5, 51)]
    assert falling == sorted(falling, reverse=True)


def test_progress_is_by_steps_or_by_time_whichever_is_further() -> None:
    assert schedules.progress(49, 99) == 0.5
    assert schedules.progress(0, 100, seconds=30, budget=60) == 0.5
    assert schedules.progress(75, 100, seconds=30, budget=60) == 0.755
    assert (
        schedules.progress(0, 100, seconds=90, budget=60)
        == 1
        == schedules.progress(0, 100, seconds=0, budget=0.0)
    )


def test_a_plateau_lowers_the_rate() -> None:
    state, factors = Plateau(), []
    for score in (1.0, 0.9, 0.95, 0.91, 0.92, 0.93, 0.5, 0.6):
        state = state.after(score)
        factors.append(state.factor)
    assert factors == pytest.approx([1, 1, 1, 0.3, 0.3, 0.09, 0.09, 0.09])
    for _ in range(100):
        state = state.after(1.0)
    assert state.factor == schedules.PLATEAU_LEAST


def test_ema_is_that_of_the_formula() -> None:
    random, decay = np.random.default_rng(0), 0.8
    updates = [random.standard_normal(5).astype(np.float32) for _ in range(12)]
    ema, averages = EMA(decay), Averages()
    for number, weights in enumerate(updates, start=1):
        averages.update({"w": weights, "n": np.array(number)}, ema.share())
        shares = decay ** np.arange(number - 1, -1, -1)
        expected = (shares[:, None] * np.array(updates[:number])).sum(axis=0) / shares.sum()
        assert np.allclose(averages.arrays["w"], expected, atol=1e-6)
        assert averages.arrays["w"].dtype == np.float32
        assert averages.arrays["n"] == number, "integers keep their last value"
        if number == 6:  # as after a resume
            ema, before = EMA(decay, ema.updates), averages.arrays
            averages = Averages()
            averages.load(before)


def test_the_learning_rates_of_a_network_with_its_own_depth_decay() -> None:
    class Transformer(Deep):
        depth_decay = 0.1

    (stage,) = plan(Transformer(), FinetuneSettings(sizes=(160,), unfreeze="all"), PHOTOS, size=224)
    assert stage.depth_decay == 0.1
    given = FinetuneSettings(sizes=(160,), unfreeze="all", depth_decay=0.3)
    (stage,) = plan(Transformer(), given, PHOTOS, size=224)
    assert stage.depth_decay == 0.3


def test_nothing_is_cached_for_a_network_that_takes_pixels() -> None:
    class OnItsDevice(Deep):
        takes_pixels = True

    for stage in plan(OnItsDevice(), FinetuneSettings(epochs=40), PHOTOS, size=224):
        assert not (stage.keep or stage.keep_validation or stage.disk)
        assert stage.views == stage.epochs, "a new view in each epoch, as nothing is repeated"


def test_what_a_stage_tells_the_network() -> None:
    settings = FinetuneSettings(
        optimizer="sgd",
        mixed_precision=True,
        devices=2,
        sizes=(160,),
        unfreeze="all",
        accumulate=4,
        clip=1.0,
    )
    (stage,) = plan(Deep(), settings, PHOTOS, size=224)
    told = stage.training(settings, 5, (1.0, 2.0))
    assert (told.size, told.cut, told.optimizer, told.mixed_precision, told.devices, told.seed) == (
        160,
        0,
        "sgd",
        True,
        2,
        5,
    )
    assert told.depth_decay == 0.5 and told.class_weights == (1.0, 2.0)
    assert told.accumulate == 4 and told.clip == 1.0
    assert replace(stage, layers=0).sentence().startswith("160 px, the head alone")
