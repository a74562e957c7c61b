"""`TrainableNetwork` in Keras, on any of its backends.

The layers above the cut are called again on an input of their own. They stay the same objects, so
the backbone itself is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.finetune.defaults import NetworkDefaults
from tailorbird.engines.finetune.mixing import mixed, soft_labels
from tailorbird.engines.heads import head_of, initial_weights
from tailorbird.engines.keras import backend, devices, head_layers, optimizers
from tailorbird.engines.keras.backbone import KerasBackbone, input_size, origin, read, write
from tailorbird.engines.keras.head_layers import HeadLayers
from tailorbird.engines.protocol import Arrays, Cut, Mix, Regularisation, Step, Training, Views
from tailorbird.errors import SettingsError
from tailorbird.head import Head
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx

CHUNK = 32
SMALL_CHUNK = 8
"""Images per call of `logits`: two sizes only, padded, as each new shape would be compiled."""

OPTIMIZER = "optimizer/"
"""Prefix of the optimiser's variables in `state`."""


@dataclass(frozen=True)
class _Stage:
    """A stage in training.

    inner: the optimiser whose learning rate is set; `optimizer` is the same, or the loss scaling
    around it.
    """

    training: Training
    model: Any
    inner: Any
    optimizer: Any
    distribution: Any
    dtype: str


class KerasNetwork(NetworkDefaults):
    """A backbone with a head in Keras; see `protocol.TrainableNetwork`."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Rebuild the network that a backbone file was made from, with the file's weights.

        Raises BackboneError when the file did not come from this engine; MissingExtra.
        """
        super().__init__()
        self._proto = proto
        self._backbone = KerasBackbone.from_proto(proto, input_size(proto))
        keras = backend.load()
        self.framework = f"keras {keras.__version__} on {keras.config.backend()}"
        self.name = onnx_files.metadata(proto).get("name") or self._backbone.model.name
        self._head: HeadLayers | None = None
        self._attached: Arrays = {}
        self._stage: _Stage | None = None
        # Names of backbone weights that have trained, in this stage or an earlier one.
        self._trained: set[str] = set()
        self._cuts: dict[int, tuple[Cut, ...]] = {}

    def cuts(self, size: int) -> Sequence[Cut]:
        """Return the cuts at an input size, from the pixels (first) to the features (last)."""
        if size not in self._cuts:
            self._cuts[size] = tuple(cut for cut, _ in self._at(size).places)
        return self._cuts[size]

    def backbone(self, size: int) -> onnx.ModelProto:
        """Return the content of a backbone file with the current weights. Raises BackboneError."""
        about = origin(self._proto, tuned=bool(self._trained))
        return self._at(size).to_proto(about)

    def backbone_graph(self, size: int) -> BackboneGraph:
        """Return the graph a model file is built on, with a feature map where possible."""
        return self._at(size).backbone_graph(self.backbone(size))

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        """Return the part below a cut, with the output `activations`, channels last."""
        found = self._at(size)
        _check_cut(cut, len(found.places), "frozen_part", lowest=1)
        tensor = found.places[cut][1]
        return found.part_below(found.output if tensor is None else tensor)

    def notes(self, training: Training) -> Sequence[str]:
        """Return a note where mixed precision makes training slower."""
        if training.mixed_precision and not devices.gpus():
            return ["mixed precision is about six times slower than float32 on a CPU; omit it"]
        return ()

    def attach(
        self, head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
    ) -> None:
        """Put a head on the backbone, with these initial weights; features as in the protocol."""
        weights = initial_weights(head, regularisation, features)
        _check_width(self.name, weights, self._backbone)
        self._attached = weights
        self._head = self._stage = None

    def head(self) -> Head:
        """Return the head with its current weights, batch normalisation folded in."""
        return head_of(self._head_weights())

    def begin(self, training: Training) -> None:
        """Begin a stage: keep the weights, make a new optimiser. Raises SettingsError."""
        _check_cut(training.cut, len(self.cuts(training.size)), "the cut")
        weights = self._head_weights()
        if not weights:
            raise SettingsError("there is no head yet: attach one before the first stage begins")
        distribution = devices.several(training.devices)
        before = None if self._stage is None else self._stage.distribution
        self._stage = None
        with devices.over(distribution):
            found = self._at(training.size, again=distribution is not None or before is not None)
            _check_width(self.name, weights, found)
            self._backbone = found
            policy = devices.precision(training.mixed_precision)
            self._head = head_layers.build(
                weights, training.regularisation, policy, seed=_dropout_seed(training.seed)
            )
            model, nodes = _trained_part(found, training.cut, self._head, policy)
            layers = found.layers(nodes) if nodes else []
            inner, optimizer = _optimizer(model, layers, training, policy)
            _compile(model, optimizer, training.regularisation.label_smoothing)
        trained = {id(variable) for layer in layers for variable in layer.weights}
        self._trained |= {name for name, v in found.variables.items() if id(v) in trained}
        dtype = "uint8" if training.cut == 0 else "float32"
        self._stage = _Stage(training, model, inner, optimizer, distribution, dtype)

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        """Make one optimiser step at this learning rate; arguments as in the protocol."""
        stage = self._begun()
        count, shared = len(labels), stage.training.devices * stage.training.accumulate
        if count % shared:
            raise SettingsError(
                f"a batch of {count} photos cannot be shared by {shared} devices or parts; the "
                f"batch size must be a multiple of {shared}"
            )
        assert not isinstance(inputs, Views), "this network takes pixels or activations"
        share = 1.0
        if mix is not None:
            inputs, share = mixed(inputs, mix)
        targets = soft_labels(labels, stage.model.output_shape[-1], mix, share)
        shares = None
        if stage.training.class_weights is not None:
            weights = np.asarray(stage.training.class_weights, np.float32)
            shares = weights[labels] if mix is None else targets @ weights
        losses, correct, parts = 0.0, 0, stage.training.accumulate
        with devices.over(stage.distribution):
            stage.inner.learning_rate.assign(rate)
            for part in np.arange(count).reshape(parts, -1):
                seen = stage.model.train_on_batch(
                    np.asarray(inputs[part], stage.dtype),
                    targets[part],
                    sample_weight=None if shares is None else shares[part],
                    return_dict=True,
                )
                losses += float(seen["loss"]) / parts
                correct += round(float(seen["accuracy"]) * len(part))
        return Step(loss=losses, correct=correct)

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return logits float32 (B, C) in inference mode; inputs as for `step`."""
        stage = self._begun()
        found = [np.zeros((0, stage.model.output_shape[-1]), np.float32)]
        with devices.over(stage.distribution):
            for start in range(0, len(inputs), CHUNK):
                part = np.asarray(inputs[start : start + CHUNK], stage.dtype)
                full = (SMALL_CHUNK if len(part) <= SMALL_CHUNK else CHUNK) * stage.training.devices
                padding = np.zeros((full - len(part), *part.shape[1:]), part.dtype)
                rows = stage.model.predict_on_batch(np.concatenate([part, padding]))
                found.append(np.asarray(rows, np.float32)[: len(part)])
        return np.concatenate(found)

    def weights(self) -> Arrays:
        """Return a copy of the head's weights and all backbone weights that have trained."""
        trained = {n: v for n, v in self._backbone.variables.items() if n in self._trained}
        return read(trained | (self._head.variables() if self._head is not None else {}))

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `weights` returned. Raises SettingsError if of another network or head."""
        if self._head is None:
            raise SettingsError("weights can be loaded only after a stage began: call begin first")
        write(self._backbone.variables | self._head.variables(), weights, "the checkpoint")
        self._trained |= {name for name in weights if name.startswith("base/")}

    def state(self) -> Arrays:
        """Return everything that resuming needs: weights, optimiser, random generators."""
        return self.weights() | read(self._moving())

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `state` returned. Raises SettingsError if of other settings."""
        moving = self._moving()
        inner = {
            name: array for name, array in state.items() if name.startswith((OPTIMIZER, "seed/"))
        }
        if set(inner) != set(moving):
            raise SettingsError(
                f"the checkpoint's optimiser has {len(inner)} arrays, this stage's has "
                f"{len(moving)}; begin the stage with the settings it was begun with"
            )
        self.load_weights({name: array for name, array in state.items() if name not in inner})
        write(moving, inner, "the checkpoint")

    def _begun(self) -> _Stage:
        if self._stage is None:
            raise SettingsError("no stage has begun: call begin first")
        return self._stage

    def _moving(self) -> dict[str, Any]:
        """Return the stage's variables other than weights: of the optimiser and of dropout."""
        stage = self._begun()
        assert self._head is not None
        variables = enumerate(stage.optimizer.variables)
        found = {f"{OPTIMIZER}{number}": variable for number, variable in variables}
        return found | self._head.seeds()

    def _head_weights(self) -> Arrays:
        return read(self._head.variables()) if self._head is not None else self._attached

    def _at(self, size: int, *, again: bool = False) -> KerasBackbone:
        """Return the backbone at a size with the current weights; again: always new layers."""
        if size == self._backbone.size and not again:
            return self._backbone
        made = KerasBackbone.from_proto(self._proto, size)
        weights = read(self._backbone.variables)
        write(made.variables, weights, f"{self.name} at {self._backbone.size} px")
        return made


def _compile(model: Any, optimizer: Any, label_smoothing: float) -> None:
    keras = backend.load()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    model.compile(
        optimizer,
        loss,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=devices.compilation(),
    )


def _dropout_seed(seed: int) -> int:
    """Return the first dropout's seed; Keras keeps seeds in 64, 32 or 31 bits, by backend."""
    spare = 1000
    most = int(np.iinfo(str(backend.load().random.SeedGenerator(0).state.dtype)).max)
    return spare * (seed + 1) % (most - spare)


def _check_width(name: str, head: Arrays, found: KerasBackbone) -> None:
    width = len(head["head/0/kernel"])
    if width != found.width:
        raise SettingsError(
            f"the head takes {width} features, {name} gives {found.width} at {found.size} px; they "
            "must be the same: a network whose features depend on positions keeps the size that "
            "its head was made for"
        )


def _check_cut(cut: int, count: int, what: str, *, lowest: int = 0) -> None:
    if not lowest <= cut < count:
        raise SettingsError(f"{what} is {cut}; this network has cuts {lowest} to {count - 1}")


def _trained_part(
    found: KerasBackbone, cut: int, head: HeadLayers, policy: str
) -> tuple[Any, tuple[Any, ...]]:
    """Return the Keras model from the cut to the logits, and the backbone's nodes in it."""
    keras = backend.load()
    place = found.places[cut][1]
    if place is None:
        inputs = keras.Input((found.width,), name="features")
        return keras.Model(inputs, head(inputs)), ()
    nodes = found.above(place)
    for node in nodes:
        if isinstance(node.operation, keras.layers.Layer):
            node.operation.trainable = True
            node.operation.dtype_policy = policy
    # uint8 is copied to the device as it is, a quarter of float32.
    kind, name = ("uint8", "images") if cut == 0 else ("float32", "activations")
    inputs = keras.Input(place.shape[1:], dtype=kind, name=name)
    return keras.Model(inputs, head(found.part_above(place)(inputs))), nodes


def _optimizer(
    model: Any, layers: Sequence[Any], training: Training, policy: str
) -> tuple[Any, Any]:
    """Return the optimiser, and the same or the loss scaling around it.

    Every variable of `model` has its own learning rate and weight decay.

    layers: backbone layers that train, lowest first; rates fall geometrically from the top.
    """
    keras = backend.load()
    steps = max(1, len(layers) - 1)
    rates = {
        id(variable): training.base_rate
        * training.depth_decay ** ((len(layers) - 1 - number) / steps)
        for number, layer in enumerate(layers)
        for variable in layer.trainable_variables
    }
    decay = training.regularisation.weight_decay if training.optimizer == "adamw" else 0.0
    variables = model.trainable_variables
    inner = optimizers.make(
        training.optimizer,
        [rates.get(id(variable), 1.0) for variable in variables],
        [decay if len(variable.shape) > 1 else 0.0 for variable in variables],
        clip=training.clip,
        accumulate=training.accumulate,
    )
    # Gradients of a float16 loss underflow; bfloat16 has the range of float32.
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if policy == "mixed_float16" else inner
    optimizer.build(variables)
    return inner, optimizer
