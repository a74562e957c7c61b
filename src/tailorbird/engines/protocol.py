"""What fine-tuning asks of a framework: a network that can be cut, trained from the cut on, and handed over as ONNX.

Shapes, once: N images, B of them in a batch, S the side of the square input in pixels, C classes, K features.

    images uint8 (B, S, S, 3) RGB -> [frozen part] -> activations at the cut -> [trained part: upper base, pooling, head] -> logits (B, C)

Cut 0 lies at the pixels: everything may train, and what goes in are the images themselves, uint8. At any other cut activations
go in, float16 or float32 (B, ...), in whatever layout `frozen_part` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.head import Head
from tailorbird.model.graph import BackboneGraph

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, npt.NDArray[Any]]
"""Arrays by name: what a checkpoint holds."""


@dataclass(frozen=True)
class Cut:
    """A place where a single tensor separates what lies below from what lies above.

    name: of the layer whose output it is; `images` for cut 0. layers: how many layers of the base with weights lie above it.
    parameters: of the base, above it. values: numbers in one image's activations at the stage's size (S * S * 3 for cut 0).
    """

    name: str
    layers: int
    parameters: int
    values: int


@dataclass(frozen=True)
class Regularisation:
    """What acts in the trained part only while it trains.

    dropout: before each dense layer of the head, 0 to below 1. batch_norm: after each inner dense layer of the head; it starts
    as the identity on the training features. l2: strength of the penalty l2 / 2 * sum(weight^2) on the head's dense kernels.
    weight_decay: decoupled (AdamW), on every kernel that trains. label_smoothing: 0 to below 1.
    """

    dropout: float = 0.2
    batch_norm: bool = False
    l2: float = 0.0
    weight_decay: float = 0.1
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class Training:
    """How one stage trains: what `begin` is told.

    size: S in pixels. cut: index into `TrainableNetwork.cuts(size)`; what lies below is frozen. base_rate: the base's learning rate as a
    fraction of the head's, at the top of the base; it falls to base_rate * depth_decay at its first trained layer.
    optimizer: adamw, adam, sgd (momentum 0.9) or rmsprop. mixed_precision: float16 arithmetic on a GPU, bfloat16 on a CPU.
    class_weights: one a class, float32 (C,), or None.
    """

    size: int
    cut: int
    base_rate: float = 1.0 / 3.0
    depth_decay: float = 1.0
    optimizer: str = "adamw"
    regularisation: Regularisation = Regularisation()
    mixed_precision: bool = False
    devices: int = 1
    seed: int = 0
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Step:
    """What one step saw: the batch's mean loss (not finite when training broke down) and how many of its answers were right."""

    loss: float
    correct: int


class TrainableNetwork(Protocol):
    """A network with weights in some framework. Used by one thread. Batch normalisation of the base stays in inference mode."""

    name: str
    """Of the backbone, such as MobileNetV2."""
    framework: str
    """With its version and backend: a run that another began is not gone on with, for its state would not fit."""

    def cuts(self, size: int) -> Sequence[Cut]:
        """Where it can be cut at this input size, from the pixels (cut 0) to the pooled features (last: nothing of the base trains)."""

    def backbone(self, size: int) -> onnx.ModelProto:
        """The base with its weights of now, at an input size: the backbone's contract, metadata included. Raises BackboneError."""

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        """What lies below a cut: input `images` uint8 (N, S, S, 3), output `activations` float32 (N, ...). Not for cut 0."""

    def backbone_graph(self, size: int) -> BackboneGraph:
        """The base with its weights of now as what a model file's head sits on, with a feature map wherever heat maps can be made."""

    def attach(
        self, head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
    ) -> None:
        """Put a head on the base, starting from these weights.

        features: float32 (N, K) of training photos, for batch norm to start as the identity; None: it starts from mean 0, variance 1.
        """

    def head(self) -> Head:
        """The head with its weights of now, batch normalisation folded in."""

    def begin(self, training: Training) -> None:
        """Make ready for a stage: the part above the cut trains, with a new optimiser. Weights stay. Raises SettingsError."""

    def step(self, inputs: npt.NDArray[Any], labels: npt.NDArray[np.int64], rate: float) -> Step:
        """One optimiser step at this learning rate. inputs: uint8 images for cut 0, else activations; labels (B,) in 0..C-1."""

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits float32 (B, C) as in use: no dropout."""

    def weights(self) -> Arrays:
        """A copy of every weight above the cut and of the head, by name: what is averaged and kept as the best."""

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `weights` gave, in this process or another, for this stage or an earlier one with a higher cut."""

    def state(self) -> Arrays:
        """All that is needed to go on in another process after `attach` and `begin`: weights, optimiser, random generators."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` gave."""
