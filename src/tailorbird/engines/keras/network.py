"""A Keras network that fine-tuning can cut, train from the cut on, and hand over: `engines.network.Network` on any backend of Keras.

The layers above the cut are called again on an input of their own. They stay the same objects, so what trains is the base itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines.keras import backend, devices, head_layers, optimizers, rebuilt
from tailorbird.engines.keras.backbone import KerasBackbone, read, write
from tailorbird.engines.protocol import Arrays, Cut, Regularisation, Step, Training
from tailorbird.errors import SettingsError
from tailorbird.head import Head
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx


CHUNK = 32
SMALL_CHUNK = 8
"""Images `logits` computes at once. Two sizes only, the last batch filled up: every new shape would be traced and compiled again."""

OPTIMIZER = "optimizer/"
"""What the names of the optimiser's variables in `state` begin with."""


@dataclass(frozen=True)
class _Stage:
    """A stage in training. inner: the optimiser whose rate is set; `optimizer` is it, or the loss scaling around it."""

    training: Training
    model: Any
    inner: Any
    optimizer: Any
    distribution: Any
    dtype: str


class KerasNetwork:
    """`engines.network.Network` in Keras. Not for several threads at once."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Open at the file's own input size; other sizes are rebuilt on need, with the weights of now."""
        self._proto = proto
        self._base = rebuilt.base(proto, rebuilt.input_size(proto))
        keras = backend.load()
        self.framework = f"keras {keras.__version__} on {keras.config.backend()}"
        self.name = onnx_files.metadata(proto).get("name") or self._base.model.name
        self._stack: head_layers.Stack | None = None
        self._attached: Arrays = {}
        self._stage: _Stage | None = None
        # Names of the base's weights that have trained, in this stage or an earlier one.
        self._trained: set[str] = set()
        self._cuts: dict[int, tuple[Cut, ...]] = {}

    def cuts(self, size: int) -> Sequence[Cut]:
        """Where it can be cut at this input size, from the pixels (cut 0) to the pooled features (last)."""
        if size not in self._cuts:
            self._cuts[size] = tuple(cut for cut, _ in self._at(size).places)
        return self._cuts[size]

    def backbone(self, size: int) -> onnx.ModelProto:
        """The base with its weights of now, at an input size: the backbone's contract, metadata included. Raises BackboneError."""
        return rebuilt.backbone(
            self._at(size), rebuilt.about(self._proto, tuned=bool(self._trained))
        )

    def backbone_graph(self, size: int) -> BackboneGraph:
        """The base with its weights of now as what a model file's head sits on, with a feature map where heat maps can be made."""
        return rebuilt.backbone_graph(self.backbone(size))

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        """What lies below a cut: input `images` uint8 (N, S, S, 3), output `activations` float32 (N, ...), channels last."""
        base = self._at(size)
        places = base.places
        _check_cut(cut, len(places), "frozen_part", lowest=1)
        tensor = places[cut][1]
        return rebuilt.below(base, base.output.key if tensor is None else tensor.key)

    def attach(
        self, head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
    ) -> None:
        """Put a head on the base, starting from these weights.

        features: float32 (N, K) of training photos, for batch norm to start as the identity; None: it starts from mean 0, variance 1.
        """
        weights = head_layers.start(head, regularisation, features)
        _check_width(self.name, weights, self._base)
        self._attached = weights
        self._stack = self._stage = None

    def head(self) -> Head:
        """The head with its weights of now, batch normalisation folded in."""
        return head_layers.folded(self._head_weights())

    def begin(self, training: Training) -> None:
        """Make ready for a stage: the part above the cut trains, with a new optimiser. Weights stay. Raises SettingsError."""
        _check_cut(training.cut, len(self.cuts(training.size)), "the cut")
        weights = self._head_weights()
        if not weights:
            raise SettingsError("there is no head yet: attach one before the first stage begins")
        keras = backend.load()
        distribution = devices.several(training.devices)
        before = None if self._stage is None else self._stage.distribution
        self._stage = None
        with devices.over(distribution):
            base = self._at(training.size, again=distribution is not None or before is not None)
            _check_width(self.name, weights, base)
            self._base = base
            policy = devices.precision(training.mixed_precision)
            self._stack = head_layers.build(
                weights, training.regularisation, policy, seed=_dropout_seed(training.seed)
            )
            model, nodes = _trained_part(self._base, training.cut, self._stack, policy)
            layers = self._base.layers(nodes) if nodes else []
            inner, optimizer = _optimizer(model, layers, training, policy)
            model.compile(
                optimizer,
                keras.losses.CategoricalCrossentropy(
                    from_logits=True, label_smoothing=training.regularisation.label_smoothing
                ),
                metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
                jit_compile=devices.compilation(),
            )
        self._trained |= {
            name
            for name, v in self._base.variables.items()
            if any(v is w for la in layers for w in la.weights)
        }
        dtype = "uint8" if training.cut == 0 else "float32"
        self._stage = _Stage(training, model, inner, optimizer, distribution, dtype)

    def step(self, inputs: npt.NDArray[Any], labels: npt.NDArray[np.int64], rate: float) -> Step:
        """One optimiser step at this learning rate. inputs: uint8 images for cut 0, else activations; labels (B,) in 0..C-1."""
        stage = self._begun()
        count = len(labels)
        if count % stage.training.devices:
            raise SettingsError(
                f"a batch of {count} photos cannot be shared by {stage.training.devices} devices; "
                f"the batch size must be a multiple of {stage.training.devices}"
            )
        targets = np.zeros((count, stage.model.output_shape[-1]), np.float32)
        targets[np.arange(count), labels] = 1
        weights = stage.training.class_weights
        shares = None if weights is None else np.asarray(weights, np.float32)[labels]
        with devices.over(stage.distribution):
            stage.inner.learning_rate.assign(rate)
            seen = stage.model.train_on_batch(
                np.asarray(inputs, stage.dtype), targets, sample_weight=shares, return_dict=True
            )
        return Step(loss=float(seen["loss"]), correct=round(float(seen["accuracy"]) * count))

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits float32 (B, C) as in use: no dropout. inputs as for `step`."""
        stage = self._begun()
        found = [np.zeros((0, stage.model.output_shape[-1]), np.float32)]
        with devices.over(stage.distribution):
            for start in range(0, len(inputs), CHUNK):
                part = np.asarray(inputs[start : start + CHUNK], stage.dtype)
                full = (SMALL_CHUNK if len(part) <= SMALL_CHUNK else CHUNK) * stage.training.devices
                filled = np.concatenate(
                    [part, np.zeros((full - len(part), *part.shape[1:]), part.dtype)]
                )
                found.append(
                    np.asarray(stage.model.predict_on_batch(filled), np.float32)[: len(part)]
                )
        return np.concatenate(found)

    def weights(self) -> Arrays:
        """A copy of every weight that has trained, in this stage or an earlier one, and of the head, by name."""
        return read(self._live())

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `weights` gave, in this process or another. Raises SettingsError for weights of another network or head."""
        if self._stack is None:
            raise SettingsError("weights can be loaded only after a stage began: call begin first")
        write(self._base.variables | self._stack.variables(), weights, "the checkpoint")
        self._trained |= {name for name in weights if name.startswith("base/")}

    def state(self) -> Arrays:
        """All that is needed to go on in another process after `attach` and `begin`: weights, optimiser, random generators."""
        return self.weights() | read(self._moving())

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` gave. Raises SettingsError when it came from another network or another stage's settings."""
        moving = self._moving()
        inner = {
            name: array for name, array in state.items() if name.startswith((OPTIMIZER, "seed/"))
        }
        if set(inner) != set(moving):
            raise SettingsError(
                f"the checkpoint's optimiser has {len(inner)} arrays, this stage's has {len(moving)}; "
                "begin the stage with the settings it was begun with"
            )
        self.load_weights({name: array for name, array in state.items() if name not in inner})
        write(moving, inner, "the checkpoint")

    def _begun(self) -> _Stage:
        if self._stage is None:
            raise SettingsError("no stage has begun: call begin first")
        return self._stage

    def _live(self) -> dict[str, Any]:
        """The variables that `weights` gives, by name."""
        base = {name: v for name, v in self._base.variables.items() if name in self._trained}
        return base | (self._stack.variables() if self._stack is not None else {})

    def _moving(self) -> dict[str, Any]:
        """Variables of the stage that are no weights, by name: the optimiser's, with its loss scale, and dropout's generators."""
        stage = self._begun()
        assert self._stack is not None
        found = {
            f"{OPTIMIZER}{number}": variable
            for number, variable in enumerate(stage.optimizer.variables)
        }
        return found | self._stack.seeds()

    def _head_weights(self) -> Arrays:
        return read(self._stack.variables()) if self._stack is not None else self._attached

    def _at(self, size: int, *, again: bool = False) -> KerasBackbone:
        """The base at a size with the weights of now; `again`: new layers also where the size is the same."""
        if size == self._base.size and not again:
            return self._base
        made = rebuilt.base(self._proto, size)
        write(made.variables, read(self._base.variables), f"{self.name} at {self._base.size} px")
        return made


def _dropout_seed(seed: int) -> int:
    """The first dropout's; the next ones follow. Keras keeps seeds in 64, 32 or 31 bits, by backend."""
    spare = 1000
    most = int(np.iinfo(str(backend.load().random.SeedGenerator(0).state.dtype)).max)
    return spare * (seed + 1) % (most - spare)


def _check_width(name: str, head: Arrays, base: KerasBackbone) -> None:
    width = len(head["head/0/kernel"])
    if width != base.width:
        raise SettingsError(
            f"the head takes {width} features, {name} gives {base.width} at {base.size} px; they must be the same: "
            "a network whose features depend on positions keeps the size its head was made for"
        )


def _check_cut(cut: int, count: int, what: str, *, lowest: int = 0) -> None:
    if not lowest <= cut < count:
        raise SettingsError(f"{what} is {cut}; this network has cuts {lowest} to {count - 1}")


def _trained_part(
    base: KerasBackbone, cut: int, head: head_layers.Stack, policy: str
) -> tuple[Any, Any]:
    """(Keras model from the cut's input to the logits, the base's nodes in it)."""
    keras = backend.load()
    place = base.places[cut][1]
    if place is None:
        inputs = keras.Input((base.width,), name="features")
        return keras.Model(inputs, head(inputs)), ()
    nodes = base.above(place)
    for node in nodes:
        if isinstance(node.operation, keras.layers.Layer):
            node.operation.trainable = True
            node.operation.dtype_policy = policy
    # uint8 goes to the device as it is, a quarter of what float32 takes.
    kind = "uint8" if cut == 0 else "float32"
    inputs = keras.Input(place.shape[1:], dtype=kind, name="images" if cut == 0 else "activations")
    return keras.Model(inputs, head(base.part(place)(inputs))), nodes


def _optimizer(
    model: Any, layers: Sequence[Any], training: Training, policy: str
) -> tuple[Any, Any]:
    """(The optimiser, the same or the loss scaling around it) for the variables of `model`, each with its own rate and decay.

    layers: those of the base that train, lowest first; their rates fall geometrically from the top.
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
    )
    # Gradients of a float16 loss underflow; bfloat16 has the range of float32.
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if policy == "mixed_float16" else inner
    optimizer.build(variables)
    return inner, optimizer
