"""`TrainableNetwork` in PyTorch, for networks of timm on a CPU or GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.heads import head_of, initial_weights
from tailorbird.engines.protocol import Arrays, Cut, Mix, Regularisation, Step, Training, Views
from tailorbird.engines.torch import (
    augmenting,
    backend,
    description,
    devices,
    exporting,
    folding,
    head_module,
    launching,
    optimizers,
)
from tailorbird.engines.torch.processes import Processes
from tailorbird.engines.torch.tracing import TracedNetwork
from tailorbird.errors import SettingsError
from tailorbird.head import Head
from tailorbird.model.graph import BackboneGraph
from tailorbird.progress import Progress

if TYPE_CHECKING:
    import onnx

    from tailorbird.engines.finetune.task import FinetuneTask

CHUNK = 64
"""Images per call of `logits`."""

BLOCK_DECAY = 0.75
"""Learning rate of a transformer's block as a fraction of the next one's, as MAE (He et al. 2022)
and BEiT (Bao et al. 2022) fine-tune them."""
CNN_DECAY = 0.5
"""Learning rate of a convolutional network's first layer as a fraction of its last one's."""
MIXING = (0.2, 1.0)
"""Mixup as for ImageNet in Zhang et al. 2018, CutMix as in Yun et al. 2019. Without them, photos of
clothes were learned by heart after four epochs; with them from the start, hand signs took longer
(docs/finetuning.md)."""

BASE, OPTIMIZER, SCALER, GENERATOR = "base/", "optimizer/", "scaler/", "generator"
FINE_TUNED = "fine-tuned"


@dataclass(frozen=True)
class _Stage:
    """A stage in training.

    module: inputs to logits. runner: the same, or the one that shares gradients with other
    processes. trained: parameters that train, by name. dtype: of autocast, or None.
    """

    training: Training
    module: Any
    runner: Any
    trained: dict[str, Any]
    optimizer: Any
    scaler: Any
    dtype: Any


class TorchNetwork:
    """A network of timm with a head; see `protocol.TrainableNetwork`."""

    mixing = MIXING

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Rebuild the network that a backbone file was made from, with the file's weights.

        Raises BackboneError when the file did not come from this engine; MissingExtra.
        """
        torch, timm = backend.load()
        self._proto = proto
        self._size = input_size(proto)
        net, self._architecture = description.rebuild(proto, self._size)
        self._device = devices.device()
        self._layout = _layout(net)
        self._net = net.to(self._device, memory_format=self._layout)
        self._processes = Processes(self._device)
        self.name = onnx_files.metadata(proto).get("name") or self._architecture.name
        self.framework = (
            f"PyTorch {torch.__version__} with timm {timm.__version__} on {self._device.type}"
        )
        on_gpu = self._device.type != "cpu"
        self.lag = devices.LAG if on_gpu else 0
        self.takes_pixels = on_gpu
        # Sampling that repeats the border is not there on every version of Apple's GPUs.
        # On a CPU too a batch of views at once is faster than one after the other with Pillow:
        # benchmarks/finetune_gpu.py, 1.06 to 1.37 times as many images/s in the whole loop.
        self.takes_views = self._device.type != "mps"
        self.single_size = not self._architecture.fixed_size
        self.sixteen_bit = devices.sixteen_bit(self._device, self._layout)
        self.process, self.processes = self._processes.number, self._processes.count
        blocks = getattr(net, "blocks", ()) if hasattr(net, "num_prefix_tokens") else ()
        self.depth_decay = BLOCK_DECAY ** len(blocks) if len(blocks) else CNN_DECAY
        self._parameters = dict(self._net.named_parameters())
        self._traced: dict[int, TracedNetwork] = {}
        self._graphs: dict[int, onnx.ModelProto] = {self._size: proto}
        self._head: Any = None
        self._attached: Arrays = {}
        self._stage: _Stage | None = None
        self._trained: set[str] = set()  # backbone weights that have trained, in any stage
        self._averages: dict[str, Any] = {}
        self._generator = torch.Generator(self._device)
        self._slow_in_bfloat16: dict[int, bool] = {}

    def cuts(self, size: int) -> Sequence[Cut]:
        """Return the cuts at an input size, from the pixels (first) to the features (last)."""
        return [place.cut for place in self._at(size).places]

    def backbone(self, size: int) -> onnx.ModelProto:
        """Return the content of a backbone file with the current weights. Raises BackboneError."""
        import onnx

        if size not in self._graphs:
            about = onnx_files.metadata(self._proto)
            kept = ("name", "source", "licence", "trained_on")
            facts = {key: about[key] for key in kept if key in about}
            net = self._net.to("cpu")
            try:
                self._graphs[size] = exporting.export(net, self._architecture, size, facts)
            finally:
                self._net.to(self._device)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._graphs[size])
        self._write_weights(proto)
        facts = onnx_files.metadata(proto)
        before = facts.get("trained_on", "not stated")
        if self._trained and not before.endswith(FINE_TUNED):
            onnx_files.set_metadata(proto, {**facts, "trained_on": f"{before}, {FINE_TUNED}"})
        return proto

    def _write_weights(self, proto: onnx.ModelProto) -> None:
        """Replace the initialisers of weights that have trained."""
        from onnx import numpy_helper

        for tensor in proto.graph.initializer:
            name = tensor.name.removeprefix(description.PREFIX)
            if name != tensor.name and name in self._trained:
                value = self._parameters[name].detach().float().cpu().numpy()
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))

    def backbone_graph(self, size: int) -> BackboneGraph:
        """Return the graph a model file is built on, with a feature map where possible."""
        proto = self.backbone(size)
        shapes = {
            value.name: [side.dim_value for side in value.type.tensor_type.shape.dim][1:]
            for value in proto.graph.output
        }
        width = shapes["features"][0]
        if "feature_map" not in shapes:
            return BackboneGraph(proto, width, None, "none")
        channels, height, breadth = shapes["feature_map"]
        return BackboneGraph(proto, width, (channels, height, breadth), "mean")

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        """Return the part below a cut, with the output `activations`, channels first."""
        torch, _ = backend.load()
        traced = self._at(size)
        _check_cut(cut, len(traced.places), "frozen_part", lowest=1)
        if cut == len(traced.places) - 1 and size in self._graphs:
            return _features_alone(self.backbone(size))
        self._net.to("cpu")
        try:
            module = exporting.backbone_module(traced.below(cut), self._architecture)
            images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
            proto, _ = exporting.convert(module, images, ["activations"], self.name)
        finally:
            self._net.to(self._device)
        return proto

    def notes(self, training: Training) -> Sequence[str]:
        """Return the device, and where mixed precision would make training slower."""
        share = f", {training.devices} of them" if training.devices > 1 else ""
        found = [f"training with {self.framework} ({devices.name(self._device)}{share})"]
        if training.mixed_precision and self._device.type == "cpu":
            if self.sixteen_bit:
                found.append("bfloat16 is used: this processor has instructions for it")
                return found
            slow, ratio = self._bfloat16_is_slow(training.size)
            verb = "not used: it takes" if slow else "used: it takes"
            found.append(f"bfloat16 is {verb} {ratio:.2f} times as long as float32 here")
        return found

    def attach(
        self, head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
    ) -> None:
        """Put a head on the backbone, with these initial weights; features as in the protocol."""
        weights = initial_weights(head, regularisation, features)
        width, given = self._at(self._size).width, len(weights["head/0/kernel"])
        if width != given:
            raise SettingsError(f"the head takes {given} features, {self.name} gives {width}")
        self._attached = weights
        self._head = self._stage = None

    def head(self) -> Head:
        """Return the head with its current weights, batch normalisation folded in."""
        return head_of(self._head_weights())

    def begin(self, training: Training) -> None:
        """Begin a stage: keep the weights, make a new optimiser. Raises SettingsError."""
        traced = self._at(training.size)
        _check_cut(training.cut, len(traced.places), "the cut")
        weights = self._head_weights()
        if not weights:
            raise SettingsError("there is no head yet: attach one before the first stage begins")
        self._stage = None
        self._generator.manual_seed(training.seed)
        self._head = head_module.build(
            weights,
            training.regularisation,
            self._generator,
            self._device,
            part=(self.process, self.processes),
        )
        place = traced.places[training.cut]
        factors = _factors(place.layers, training)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(BASE + name in factors)
            parameter.grad = None
        trained = {key: self._parameters[key.removeprefix(BASE)] for key in factors}
        trained |= {name: one for name, one in self._head_tensors().items() if one.requires_grad}
        decay = training.regularisation.weight_decay
        optimizer = optimizers.make(training.optimizer, trained, factors, decay)
        dtype = self._precision(training)
        module = self._module(traced, training, dtype)
        self._stage = _Stage(
            training,
            module,
            self._processes.wrap(module),
            trained,
            optimizer,
            _scaler(self._device, dtype),
            dtype,
        )
        self._trained |= {key.removeprefix(BASE) for key in factors}

    def _module(self, traced: TracedNetwork, training: Training, dtype: Any) -> Any:
        """Return the module from a stage's inputs to logits."""
        last = training.cut == len(traced.places) - 1
        pixels = training.cut == 0 or self.takes_pixels
        below = traced.below(training.cut) if pixels and training.cut else None
        above = None if last else traced.above(training.cut)
        if above is not None and dtype is not None and self._device.type == "cpu":
            above = folding.folded(above)
        mean, std = self._architecture.mean, self._architecture.std
        return _stage_module()(
            (mean, std) if pixels else None, below, above, self._head, dtype, self._layout
        ).to(self._device)

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        """Make one optimiser step at this learning rate; arguments as in the protocol."""
        stage = self._begun()
        parts = stage.training.accumulate
        if len(labels) % parts:
            raise SettingsError(
                f"a batch of {len(labels)} photos cannot be worked on in {parts} parts; the batch "
                f"size must be a multiple of {parts}"
            )
        values = self._to_device(inputs, stage.training.size)
        targets = self._targets(labels)
        if mix is not None:
            partners = self._sent(mix.partners)
            values, share = augmenting.mixed(values, mix, partners)
            targets = targets * share + targets[partners] * (1 - share)
        return self.update(values, targets, rate)

    def update(self, values: Any, targets: Any, rate: float) -> Step:
        """Make one optimiser step on tensors that are on the device already.

        values: float32 (B, 3, S, S), 0 to 255, or activations. targets: float32 (B, C), rows sum
            to 1.
        """
        torch, _ = backend.load()
        stage = self._begun()
        parts = stage.training.accumulate
        self._head.train()
        optimizers.set_rate(stage.optimizer, rate)
        losses, correct = [], []
        for number, (part, wanted) in enumerate(
            zip(values.chunk(parts), targets.chunk(parts), strict=True)
        ):
            with self._processes.together(stage.runner, last=number + 1 == parts):
                logits = stage.runner(part)
                loss = self._loss(logits, wanted, stage.training)
                stage.scaler.scale(loss / parts).backward()
            losses.append(loss.detach())
            correct.append((logits.argmax(dim=1) == wanted.argmax(dim=1)).sum())
        if stage.training.clip is not None:
            stage.scaler.unscale_(stage.optimizer)
            torch.nn.utils.clip_grad_norm_(stage.trained.values(), stage.training.clip)
        stage.scaler.step(stage.optimizer)
        stage.scaler.update()
        stage.optimizer.zero_grad(set_to_none=True)
        mean, right = torch.stack(losses).mean(), torch.stack(correct).sum()
        return Step(*self._processes.summed(mean, right))

    def _loss(self, logits: Any, targets: Any, training: Training) -> Any:
        """Return the mean cross-entropy, smoothed and weighted, and the penalty on the head."""
        torch, _ = backend.load()
        options = training.regularisation
        smooth = (
            targets * (1 - options.label_smoothing) + options.label_smoothing / (targets.shape[1])
        )
        losses = -(smooth * torch.log_softmax(logits, dim=1)).sum(dim=1)
        if training.class_weights is not None:
            losses = losses * (targets @ self._sent(np.asarray(training.class_weights, np.float32)))
        penalty = options.l2 * self._head.penalty() if options.l2 else 0.0
        return losses.mean() + penalty

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return logits float32 (B, C) in inference mode; inputs as for `step`."""
        torch, _ = backend.load()
        stage = self._begun()
        self._head.eval()
        found = [np.zeros((0, self._head.dense[-1].out_features), np.float32)]
        with torch.inference_mode(), devices.exact():
            for start in range(0, len(inputs), CHUNK):
                part = self._to_device(inputs[start : start + CHUNK], stage.training.size)
                found.append(stage.module(part, plain=True).float().cpu().numpy())
        return np.concatenate(found)

    def weights(self) -> Arrays:
        """Return a copy of the head's weights and all backbone weights that have trained."""
        return {name: _array(name, tensor) for name, tensor in self._tensors().items()}

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `weights` returned. Raises SettingsError if of another network or head."""
        torch, _ = backend.load()
        if self._head is None:
            raise SettingsError("weights can be loaded only after a stage began: call begin first")
        known = self._head_tensors() | {BASE + name: one for name, one in self._parameters.items()}
        for name, value in weights.items():
            shape = head_module.as_torch(name, value).shape
            if name not in known or tuple(known[name].shape) != shape:
                raise SettingsError(
                    f"the checkpoint holds {name} of shape {value.shape}, which this network does "
                    "not have; it belongs to another network or head"
                )
        with torch.no_grad():
            for name, value in weights.items():
                known[name].copy_(self._sent(head_module.as_torch(name, value)))
        self._trained |= {name.removeprefix(BASE) for name in weights if name.startswith(BASE)}

    def average(self, share: float) -> None:
        """Move the moving averages of the weights by this share towards the weights."""
        torch, _ = backend.load()
        current = {name: tensor.detach() for name, tensor in self._tensors().items()}
        if share == 1:
            self._averages = {name: tensor.clone() for name, tensor in current.items()}
            return
        names = list(current)
        torch._foreach_lerp_(
            [self._averages[name] for name in names], [current[name] for name in names], share
        )

    def averages(self) -> Arrays:
        """Return a copy of the moving averages."""
        return {name: _array(name, tensor) for name, tensor in self._averages.items()}

    def load_averages(self, averages: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `averages` returned."""
        self._averages = {
            name: self._sent(np.array(head_module.as_torch(name, value)))
            for name, value in averages.items()
        }

    def launch(self, task: FinetuneTask, progress: Progress) -> None:
        """Train in as many processes as there are devices wanted, up to the last checkpoint."""
        if task.settings.devices > 1 and self.processes == 1:
            devices.check_count(task.settings.devices)
            launching.launch(task, progress)

    def agree(self, value: float) -> float:
        """Return the value of the first process."""
        return self._processes.agree(value)

    def gather(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rows of all processes."""
        return self._processes.gather(rows)

    def state(self) -> Arrays:
        """Return everything that resuming needs: weights, optimiser, random generator."""
        stage = self._begun()
        moving = optimizers.state(stage.optimizer, stage.trained)
        found = {OPTIMIZER + name: value for name, value in moving.items()}
        found |= {
            SCALER + name: np.asarray(value) for name, value in stage.scaler.state_dict().items()
        }
        found[GENERATOR] = self._generator.get_state().cpu().numpy().copy()
        return self.weights() | found

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `state` returned. Raises SettingsError if of other settings."""
        torch, _ = backend.load()
        stage = self._begun()

        def under(prefix: str) -> Arrays:
            return {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }

        self.load_weights({n: value for n, value in state.items() if n.startswith((BASE, "head/"))})
        optimizers.load_state(stage.optimizer, stage.trained, under(OPTIMIZER))
        scaler = under(SCALER)
        if scaler:
            stage.scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        self._generator.set_state(torch.from_numpy(np.array(state[GENERATOR])))

    def _begun(self) -> _Stage:
        if self._stage is None:
            raise SettingsError("no stage has begun: call begin first")
        return self._stage

    def _at(self, size: int) -> TracedNetwork:
        """Return the network taken apart at a size. Raises SettingsError for one it cannot have."""
        if size != self._size and self._architecture.fixed_size:
            raise SettingsError(
                f"{self.name} has weights for each position and takes images of {self._size} "
                f"pixels, not {size}; pull it for another size: tailorbird backbones pull "
                f"timm:{self._architecture.name} --size {size}"
            )
        if size not in self._traced:
            self._traced[size] = TracedNetwork(self._net, size)
        return self._traced[size]

    def _head_tensors(self) -> dict[str, Any]:
        return head_module.tensors(self._head) if self._head is not None else {}

    def _head_weights(self) -> Arrays:
        if self._head is None:
            return self._attached
        return {name: _array(name, tensor) for name, tensor in self._head_tensors().items()}

    def _tensors(self) -> dict[str, Any]:
        """Return the head's tensors and those of the backbone that have trained, by name."""
        trained = sorted(self._trained)
        return {BASE + name: self._parameters[name] for name in trained} | self._head_tensors()

    def _sent(self, array: npt.NDArray[Any]) -> Any:
        """Return an array on the device; the program does not wait for the copy."""
        torch, _ = backend.load()
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _to_device(self, inputs: npt.NDArray[Any] | Views, size: int) -> Any:
        """Return inputs on the device: pixels float32 (B, 3, S, S), 0 to 255, or activations."""
        if isinstance(inputs, Views):
            return augmenting.augmented(
                self._sent(inputs.pictures),
                self._sent(augmenting.sampling_maps(inputs, size).numpy()),
                self._sent(inputs.brightness),
                self._sent(inputs.erased),
                size,
            )
        values = self._sent(inputs)
        return values.permute(0, 3, 1, 2).float() if inputs.dtype == np.uint8 else values.float()

    def _targets(self, labels: npt.NDArray[np.int64]) -> Any:
        torch, _ = backend.load()
        classes = self._head.dense[-1].out_features
        return torch.nn.functional.one_hot(self._sent(labels), classes).float()

    def _precision(self, training: Training) -> Any:
        if training.mixed_precision and self._device.type == "cpu" and not self.sixteen_bit:
            slow, _ = self._bfloat16_is_slow(training.size)
            return devices.precision(self._device, mixed=not slow)
        return devices.precision(self._device, mixed=training.mixed_precision)

    @cache  # noqa: B019 (few networks, each with few sizes)
    def _bfloat16_is_slow(self, size: int) -> tuple[bool, float]:
        """Return whether bfloat16 is not clearly faster here, and its time over that of float32."""
        torch, _ = backend.load()
        images = torch.zeros(8, 3, size, size).to(memory_format=self._layout)

        images.requires_grad_()
        part = folding.folded(self._at(size).above(0))

        def run(dtype: Any) -> None:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                features = part(images)
            torch.autograd.grad(features.float().sum(), images)

        ratio = devices.time_ratio(partial(run, torch.bfloat16), partial(run, None))
        return ratio > devices.CLEARLY, ratio


def input_size(proto: onnx.ModelProto) -> int:
    """Return S of the input `images`."""
    images = next(value for value in proto.graph.input if value.name == "images")
    return int(images.type.tensor_type.shape.dim[1].dim_value)


def _layout(net: Any) -> Any:
    """Return how feature maps lie in memory: channels last, except where attention reshapes them.

    EfficientNet-Lite2 trains 1.7 times as fast so on a CPU.
    """
    torch, _ = backend.load()
    attends = any("Attention" in type(module).__name__ for module in net.modules())
    return torch.contiguous_format if attends else torch.channels_last


def _array(name: str, tensor: Any) -> npt.NDArray[Any]:
    """Return a copy of a weight as `engines.heads` lays it out."""
    value = tensor.detach().cpu().numpy()
    return np.array(head_module.as_torch(name, value))


def _features_alone(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a backbone whose only output is its features, named `activations`; in place."""
    from onnx import helper

    (features,) = (value for value in proto.graph.output if value.name == "features")
    shape = ["N", features.type.tensor_type.shape.dim[1].dim_value]
    kind = features.type.tensor_type.elem_type
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("activations", kind, shape))
    proto.graph.node.append(helper.make_node("Identity", ["features"], ["activations"]))
    onnx_files.remove_unused(proto)
    return proto


def _check_cut(cut: int, count: int, what: str, *, lowest: int = 0) -> None:
    if not lowest <= cut < count:
        raise SettingsError(f"{what} is {cut}; this network has cuts {lowest} to {count - 1}")


def _factors(layers: Sequence[Any], training: Training) -> dict[str, float]:
    """Return the learning rates of backbone weights as fractions of the head's, by name.

    They fall geometrically from the topmost level to the lowest one that trains.
    """
    if not layers:
        return {}
    lowest, top = layers[0].level, layers[-1].level
    steps = max(1, top - lowest)
    return {
        BASE + name: training.base_rate * training.depth_decay ** ((top - layer.level) / steps)
        for layer in layers
        for name in layer.names
    }


def _scaler(device: Any, dtype: Any) -> Any:
    """Return the scaling of losses, which only float16 needs."""
    torch, _ = backend.load()
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


@cache
def _stage_module() -> Any:
    torch, _ = backend.load()
    base: Any = torch.nn.Module

    class StageModule(base):  # type: ignore[misc]
        """Inputs to logits: normalisation, the frozen part if it runs here, the rest, the head.

        All but the head is always in inference mode.
        """

        def __init__(
            self, normalisation: Any, below: Any, above: Any, head: Any, dtype: Any, layout: Any
        ) -> None:
            super().__init__()
            self.layout = layout
            self.below, self.above, self.head, self.dtype = below, above, head, dtype
            self.normalises = normalisation is not None
            if normalisation is not None:
                mean, std = (torch.tensor(one).reshape(1, 3, 1, 1) for one in normalisation)
                self.register_buffer("scale", 1 / 255 / std)
                self.register_buffer("offset", -mean / std)

        @contextlib.contextmanager
        def _arithmetic(self, inputs: Any, *, plain: bool) -> Iterator[None]:
            use = self.dtype is not None and not plain
            with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=use):
                yield

        def forward(self, inputs: Any, plain: bool = False) -> Any:
            """Return logits; plain: in float32."""
            if self.normalises:
                inputs = inputs * self.scale + self.offset
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=self.layout)
            with self._arithmetic(inputs, plain=plain):
                if self.below is not None:
                    with torch.no_grad():
                        inputs = self.below(inputs)
                features = inputs if self.above is None else self.above(inputs)
            return self.head(features)

    return StageModule
