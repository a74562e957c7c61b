"""`TorchNetwork`: cuts, frozen parts, steps, weights, and what is written, on small networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from support.timm_networks import CNN, CONVNEXT, VIT, network
from tailorbird.engines.finetune.mixing import share_kept
from tailorbird.engines.protocol import Mix, Regularisation, Training, Views
from tailorbird.engines.torch import augmenting, backend, devices, exporting, networks, optimizers
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.head import Dense, Head
from tailorbird.images import Augmentation, ResizeRule, draw_view, from_array, warp
from tailorbird.inference import Runner

if TYPE_CHECKING:
    import onnx

SIZE = 64
CLASSES = 3
PLAIN = Regularisation(dropout=0.0, weight_decay=0.0, label_smoothing=0.0)
LABELS = np.arange(12) % CLASSES
IMAGES = np.random.default_rng(5).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)


@cache
def proto(name: str = CNN) -> onnx.ModelProto:
    size = 160 if name == VIT else SIZE
    state = network(name).state_dict()
    architecture = networks.find(name)
    kept = {key: value for key, value in state.items() if not key.startswith("head.")}
    blank = networks.build(architecture, size).state_dict()
    net = networks.build(
        architecture, size, weights={key: kept.get(key, value) for key, value in blank.items()}
    )
    return exporting.export(net, architecture, size, {"name": name, "trained_on": "nothing"})


def images_for(name: str) -> npt.NDArray[np.uint8]:
    return IMAGES.repeat(3, axis=1).repeat(3, axis=2)[:, :160, :160] if name == VIT else IMAGES


def run(
    graph: onnx.ModelProto, images: npt.NDArray[np.uint8], output: str = "features"
) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = Runner(graph, "test", BackboneError).run(images, [output])[0]
    return rows


def head_for(width: int, *, inner: int | None = None) -> Head:
    random = np.random.default_rng(3)
    sides = [width, *([inner] if inner else []), CLASSES]
    return Head(
        tuple(
            Dense(
                (random.standard_normal((i, o)) / i**0.5).astype(np.float32),
                np.zeros(o, np.float32),
            )
            for i, o in itertools.pairwise(sides)
        )
    )


def begun(training: Training, name: str = CNN, *, inner: int | None = None) -> TorchNetwork:
    made = TorchNetwork(proto(name))
    features = run(proto(name), images_for(name))
    made.attach(head_for(features.shape[1], inner=inner), training.regularisation, features)
    made.begin(training)
    return made


@pytest.mark.parametrize("name", [CNN, CONVNEXT, VIT])
def test_the_parts_of_a_network_give_its_features(name: str) -> None:
    made, images = TorchNetwork(proto(name)), images_for(name)[:4]
    size = images.shape[1]
    cuts = made.cuts(size)
    assert cuts[0].name == "images" and cuts[0].values == size * size * 3
    assert cuts[-1].name == "features" and cuts[-1].layers == 0 and len(cuts) >= 5
    layers, parameters = [cut.layers for cut in cuts], [cut.parameters for cut in cuts]
    assert layers == sorted(layers, reverse=True) and len(set(layers)) == len(layers)
    assert parameters == sorted(parameters, reverse=True)
    assert made.depth_decay == (0.75 ** len(made._net.blocks) if name == VIT else 0.5)
    features = run(proto(name), images)
    head = head_for(features.shape[1])
    made.attach(head, PLAIN, None)
    for number in (1, len(cuts) // 2, len(cuts) - 1):
        lower = run(made.frozen_part(size, number), images, "activations")
        assert lower[0].size == cuts[number].values
        made.begin(Training(size=size, cut=number, regularisation=PLAIN))
        np.testing.assert_allclose(
            made.logits(lower), head.logits(features), atol=1e-3 * np.abs(features).max()
        )
        trained = [key for key in made.weights() if key.startswith("base/")]
        assert bool(trained) == (number < len(cuts) - 1 or number > 1)


def test_a_network_that_cannot_be_traced_trains_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.engines.torch import tracing

    monkeypatch.setattr(tracing, "_traced", lambda net: None)
    made = TorchNetwork(proto())
    whole, features = made.cuts(SIZE)
    assert (whole.name, features.name) == ("images", "features")
    assert whole.parameters == sum(value.numel() for value in made._net.parameters())
    made = begun(Training(size=SIZE, cut=0, regularisation=PLAIN))
    assert made.step(IMAGES, LABELS, 1e-3).loss > 0


def test_only_what_is_above_the_cut_changes_and_statistics_stay() -> None:
    made = TorchNetwork(proto())
    cut = len(made.cuts(SIZE)) // 2
    before = {name: value.clone() for name, value in made._net.state_dict().items()}
    lower = run(made.frozen_part(SIZE, cut), IMAGES, "activations")
    made = begun(Training(size=SIZE, cut=cut, regularisation=PLAIN))
    for _ in range(3):
        made.step(lower, LABELS, 1e-2)
    after = made._net.state_dict()
    changed = {name for name in after if not after[name].equal(before[name])}
    trained = {name.removeprefix("base/") for name in made.weights() if name.startswith("base/")}
    assert changed == trained and not any("running" in name for name in changed)
    assert 0 < len(changed) < len(list(made._net.parameters()))
    again = run(made.frozen_part(SIZE, cut), IMAGES, "activations")
    np.testing.assert_array_equal(again, lower)


@pytest.mark.parametrize("name", [CNN, VIT])
def test_what_is_written_gives_the_answers_of_pytorch(name: str) -> None:
    images = images_for(name)
    size = images.shape[1]
    made = begun(Training(size=size, cut=0, regularisation=PLAIN), name, inner=8)
    for _ in range(2):
        made.step(images, LABELS, 1e-3)
    expected = made.logits(images)
    graph = made.backbone_graph(size)
    assert "trained_on" in {one.key for one in graph.proto.metadata_props}
    assert {one.value for one in graph.proto.metadata_props if one.key == "trained_on"} == {
        "nothing, fine-tuned"
    }
    features = run(graph.proto, images)
    np.testing.assert_allclose(made.head().logits(features), expected, atol=1e-3)
    assert np.abs(features - run(proto(name), images)).max() > 1e-3, "it has been trained"
    if name == CNN:
        assert graph.pooling == "mean" and graph.feature_map is not None
        smaller = made.backbone(32)
        assert run(smaller, IMAGES[:, :32, :32].copy()).shape == features.shape
    again = TorchNetwork(made.backbone(size))
    again.attach(made.head(), PLAIN, None)
    again.begin(Training(size=size, cut=0, regularisation=PLAIN))
    np.testing.assert_allclose(again.logits(images), expected, atol=1e-4)


def test_a_restored_stage_goes_on_with_the_same_numbers() -> None:
    options = Regularisation(batch_norm=True)
    training = Training(size=SIZE, cut=0, seed=4, regularisation=options)
    first = begun(training, inner=8)
    for _ in range(2):
        first.step(IMAGES, LABELS, 1e-3)
    state = first.state()
    expected = [float(first.step(IMAGES, LABELS, 1e-3).loss) for _ in range(3)]
    second = begun(training, inner=8)
    second.restore({name: value.copy() for name, value in state.items()})
    found = [float(second.step(IMAGES, LABELS, 1e-3).loss) for _ in range(3)]
    assert found == expected and len(set(found)) == 3
    other = Training(size=SIZE, cut=len(first.cuts(SIZE)) - 1, regularisation=options)
    with pytest.raises(SettingsError, match="does not train in this stage"):
        begun(other, inner=8).restore(state)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimiser_learns(name: str) -> None:
    made = TorchNetwork(proto())
    cut = len(made.cuts(SIZE)) - 1
    made = begun(Training(size=SIZE, cut=cut, regularisation=PLAIN, optimizer=name))
    features = 30 * run(proto(), IMAGES)
    rate = 1e-4 if name == "sgd" else 0.02
    losses = [float(made.step(features, LABELS, rate).loss) for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(SettingsError, match="it must be one of adamw, adam, sgd, rmsprop"):
        made.begin(Training(size=SIZE, cut=cut, optimizer="lion"))


def test_the_loss_is_smoothed_weighted_and_penalised() -> None:
    weights = (1.0, 2.0, 0.5)
    options = Regularisation(dropout=0.0, l2=0.1, label_smoothing=0.2)
    made = begun(Training(size=SIZE, cut=0, regularisation=options, class_weights=weights))
    logits = made.logits(IMAGES).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    targets = np.eye(CLASSES)[LABELS] * 0.8 + 0.2 / CLASSES
    kernel = made.head().layers[0].weight
    expected = (-(targets * logs).sum(axis=1) * np.array(weights)[LABELS]).mean()
    expected += 0.05 * np.square(kernel).sum()
    seen = made.step(IMAGES, LABELS, 1e-4)
    assert float(seen.loss) == pytest.approx(expected, rel=1e-4)
    assert int(seen.correct) == int((logits.argmax(axis=1) == LABELS).sum())


def test_rates_fall_from_the_top_and_are_equal_within_a_block() -> None:
    made = begun(Training(size=160, cut=0, base_rate=0.5, depth_decay=0.1), VIT)
    stage = made._stage
    assert stage is not None
    rates = {
        id(value): group["factor"]
        for group in stage.optimizer.param_groups
        for value in group["params"]
    }
    named = {name: rates[id(value)] for name, value in stage.trained.items()}
    assert named["head/0/kernel"] == 1.0
    blocks = sorted({name.split(".")[1] for name in named if name.startswith("base/blocks.")})
    falling: list[float] = []
    for number in blocks:
        inside = {v for n, v in named.items() if n.startswith(f"base/blocks.{number}.attn")}
        assert len(inside) == 1
        falling += inside
    assert falling == sorted(falling) and min(named.values()) == pytest.approx(0.05)
    decays = {
        parameter.ndim > 1: group["weight_decay"]
        for group in stage.optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {True: 0.1, False: 0.0}


def test_a_batch_in_parts_gives_the_result_of_the_whole() -> None:
    whole = begun(Training(size=SIZE, cut=0, regularisation=PLAIN, clip=0.1))
    parts = begun(Training(size=SIZE, cut=0, regularisation=PLAIN, clip=0.1, accumulate=3))
    for _ in range(2):
        one, two = whole.step(IMAGES, LABELS, 1e-3), parts.step(IMAGES, LABELS, 1e-3)
        assert float(two.loss) == pytest.approx(float(one.loss), rel=1e-3)
        assert int(two.correct) == int(one.correct)
    np.testing.assert_allclose(parts.logits(IMAGES), whole.logits(IMAGES), atol=2e-2)
    with pytest.raises(SettingsError, match="must be a multiple of 3"):
        parts.step(IMAGES[:4], LABELS[:4], 1e-3)


def test_clipped_gradients_move_the_weights_less() -> None:
    moved = []
    for clip in (None, 1e-3):
        made = begun(Training(size=SIZE, cut=0, regularisation=PLAIN, optimizer="sgd", clip=clip))
        before = made.weights()
        made.step(IMAGES, LABELS, 1.0)
        after = made.weights()
        moved.append(sum(float(np.square(after[n] - before[n]).sum()) for n in before) ** 0.5)
    assert moved[0] > 2e-3 and moved[1] <= 1.01e-3


@pytest.mark.parametrize("box", [None, (0.0, 0.25, 0.5, 0.75)])
def test_a_mixed_batch_has_the_mixed_loss(box: Any) -> None:
    made = begun(Training(size=SIZE, cut=0, regularisation=PLAIN))
    mix = Mix(np.roll(np.arange(12), 1), 0.75, box)
    mixed = IMAGES.astype(np.float32) * 0.75 + IMAGES[mix.partners].astype(np.float32) * 0.25
    if box is not None:
        mixed = IMAGES.copy()
        mixed[:, :32, 16:48] = IMAGES[mix.partners, :32, 16:48]
    share = share_kept(mix, (SIZE, SIZE))
    stage = made._stage
    torch, _ = backend.load()
    assert stage is not None
    made._head.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(mixed).permute(0, 3, 1, 2).float()
        logs = torch.log_softmax(stage.module(pixels), dim=1).numpy()
    rows = np.arange(12)
    own, other = -logs[rows, LABELS].mean(), -logs[rows, LABELS[mix.partners]].mean()
    seen = made.step(IMAGES, LABELS, 1e-3, mix)
    assert float(seen.loss) == pytest.approx(share * own + (1 - share) * other, rel=1e-4)


def test_averages_move_by_their_share_and_are_kept() -> None:
    made = begun(Training(size=SIZE, cut=0, regularisation=PLAIN))
    assert made.averages() == {}
    first = made.weights()
    made.average(1.0)
    made.step(IMAGES, LABELS, 1e-2)
    second = made.weights()
    made.average(0.25)
    for name, value in made.averages().items():
        np.testing.assert_allclose(value, first[name] * 0.75 + second[name] * 0.25, atol=1e-6)
    other = begun(Training(size=SIZE, cut=0, regularisation=PLAIN))
    other.load_averages(made.averages())
    assert all(
        np.array_equal(value, made.averages()[name]) for name, value in other.averages().items()
    )
    other.load_averages({})
    assert other.averages() == {}


def test_bfloat16_keeps_float32_weights_and_is_used_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(size=SIZE, cut=0, regularisation=PLAIN, mixed_precision=True)
    ratios = iter([0.5, 2.0, 0.95])
    monkeypatch.setattr(devices, "time_ratio", lambda one, other: next(ratios))
    monkeypatch.setattr(devices, "_bfloat16_instructions", lambda: False)
    made = begun(training)
    assert made._stage is not None and made._stage.dtype is backend.load()[0].bfloat16
    (_, said) = made.notes(training)
    assert said == "bfloat16 is used: it takes 0.50 times as long as float32 here"
    losses = [float(made.step(IMAGES, LABELS, 1e-3).loss) for _ in range(8)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert {value.dtype for value in made.weights().values()} == {np.dtype(np.float32)}
    features = run(made.backbone(SIZE), IMAGES)
    np.testing.assert_allclose(made.head().logits(features), made.logits(IMAGES), atol=1e-3)
    slow = begun(training)
    assert slow._stage is not None and slow._stage.dtype is None
    assert slow.notes(training)[1].startswith("bfloat16 is not used: it takes 2.00 times")
    close = begun(training)
    assert close.notes(training)[1].startswith("bfloat16 is not used: it takes 0.95 times")


def test_a_comparison_of_times_withstands_other_work_on_the_machine() -> None:
    """Each run advances a clock; some of them are held up, and the machine grows slower."""
    now, runs = 0.0, []

    def run(name: str, seconds: float, spoilt: dict[int, float]) -> Callable[[], None]:
        def go() -> None:
            nonlocal now
            runs.append(name)
            number = runs.count(name)
            now += seconds * (1 + number) + spoilt.get(number, 0.0)

        return go

    fast, slow = run("fast", 1, {2: 50, 5: 9}), run("slow", 2, {})
    ratio = devices.time_ratio(fast, slow, pairs=7, clock=lambda: now)
    assert ratio == pytest.approx(0.5, abs=0.01)
    assert runs[2:8] == ["slow", "fast", "fast", "slow", "slow", "fast"], "in turns"
    assert devices.time_ratio(lambda: None, lambda: None, clock=lambda: now) == 0


@pytest.mark.parametrize("name", [CNN, VIT])
def test_bfloat16_is_the_default_on_processors_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(devices, "_bfloat16_instructions", lambda: True)
    made = TorchNetwork(proto(name))
    assert made.sixteen_bit is (name == CNN)
    if made.sixteen_bit:
        training = Training(size=SIZE, cut=0, mixed_precision=True)
        assert made.notes(training)[1].startswith("bfloat16 is used: this processor has")
    monkeypatch.setattr(devices, "_bfloat16_instructions", lambda: False)
    assert not TorchNetwork(proto(name)).sixteen_bit


def test_logits_are_computed_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch, _ = backend.load()
    made = begun(Training(size=SIZE, cut=0, regularisation=PLAIN))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    forward = made._head.forward

    def recording(rows: Any) -> Any:
        seen.append(torch.backends.cudnn.allow_tf32)
        return forward(rows)

    monkeypatch.setattr(made._head, "forward", recording)
    made.logits(IMAGES)
    assert seen == [False] and torch.backends.cudnn.allow_tf32
    made.step(IMAGES, LABELS, 1e-3)
    assert seen == [False, True]


def test_views_on_the_device_are_those_of_pillow() -> None:
    rows, columns = np.mgrid[:96, :96]
    smooth = np.stack([rows * 2, columns * 2, (rows + columns)], axis=2) + 20
    smooth[30:50, 40:70] = 240
    image = from_array(smooth.astype(np.uint8))
    rule, augmentation = ResizeRule(48), Augmentation(erase=0.7)
    seeds = range(16)
    drawn = [draw_view(rule, augmentation, np.random.default_rng(seed)) for seed in seeds]
    side = drawn[0].side
    picture = np.asarray(image.resize((side, side), 2))
    views = Views(
        np.stack([picture] * 16),
        np.stack([one.map for one in drawn]).astype(np.float32),
        np.array([one.brightness for one in drawn], np.float32),
        np.array([one.erased or (0, 0, 0, 0) for one in drawn], np.int64),
    )
    torch, _ = backend.load()
    found = augmenting.augmented(
        torch.from_numpy(views.pictures),
        augmenting.sampling_maps(views, 48),
        torch.from_numpy(views.brightness),
        torch.from_numpy(views.erased),
        48,
    )
    made = found.permute(0, 2, 3, 1).numpy()
    expected = np.stack(
        [warp(image, rule, augmentation, np.random.default_rng(seed)) for seed in seeds]
    )
    difference = np.abs(made - expected)
    assert difference.mean() < 1 and np.quantile(difference, 0.999) <= 4
    assert sum(one.erased is not None for one in drawn) >= 6


def test_a_device_that_takes_pixels_and_views_trains_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, but on the CPU: the frozen part runs in PyTorch, on pixels."""
    made = TorchNetwork(proto())
    assert made.takes_views, "a CPU too makes the views of a batch at once"
    cut = len(made.cuts(SIZE)) // 2
    lower = run(made.frozen_part(SIZE, cut), IMAGES, "activations")
    training = Training(size=SIZE, cut=cut, regularisation=PLAIN)
    cached, other = begun(training), TorchNetwork(proto())
    other.takes_pixels = other.takes_views = True
    other.attach(head_for(lower.shape[0] and cached.cuts(SIZE)[-1].values), PLAIN, None)
    other.begin(training)
    identity = np.array([[[1, 0, 0], [0, 1, 0]]] * 12, np.float32)
    plain = Views(IMAGES, identity, np.ones(12, np.float32), np.zeros((12, 4), np.int64))
    for _ in range(2):
        one, two = cached.step(lower, LABELS, 1e-3), other.step(plain, LABELS, 1e-3)
        assert float(two.loss) == pytest.approx(float(one.loss), rel=1e-2)
    assert other.weights().keys() == cached.weights().keys()
    np.testing.assert_allclose(other.logits(IMAGES), cached.logits(lower), atol=5e-2)


def test_what_does_not_fit_is_refused() -> None:
    made = TorchNetwork(proto(VIT))
    with pytest.raises(SettingsError, match=r"takes images of 160 pixels, not 96; pull it"):
        made.cuts(96)
    with pytest.raises(SettingsError, match="the head takes 7 features"):
        made.attach(head_for(7), PLAIN, None)
    with pytest.raises(SettingsError, match="there is no head yet"):
        made.begin(Training(size=160, cut=0))
    with pytest.raises(SettingsError, match="no stage has begun"):
        made.state()
    with pytest.raises(SettingsError, match="call begin first"):
        made.load_weights({})
    ready = begun(Training(size=SIZE, cut=0))
    with pytest.raises(SettingsError, match="belongs to another network or head"):
        ready.load_weights({"base/other": np.zeros(3, np.float32)})
    with pytest.raises(SettingsError, match="this network has cuts 0 to"):
        ready.begin(Training(size=SIZE, cut=999))
