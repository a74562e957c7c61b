"""Protocols of an engine (a framework adapter) and of the networks and classifiers it opens.

Shapes used below: N images, B of them in a batch, S the side of the square input in pixels,
C classes, K features.

    images uint8 (B, S, S, 3) RGB -> [frozen part] -> activations at the cut
        -> [trained part: upper backbone, pooling, head] -> logits (B, C)

Cut 0 is at the pixels: the whole network may train and its inputs are the uint8 images. The inputs
of any other cut are activations, float16 or float32 (B, ...), in the layout of `frozen_part`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.head import Head
from tailorbird.model.graph import BackboneGraph
from tailorbird.progress import Progress

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, npt.NDArray[Any]]
"""Arrays by name, as a checkpoint holds them."""


@dataclass(frozen=True)
class Cut:
    """A tensor through which everything passes: it separates the layers below from those above.

    Attributes:
        name: name of the layer whose output it is; `images` for cut 0.
        layers: number of backbone layers with weights above it.
        parameters: number of backbone parameters above it.
        values: numbers in one image's activations at this input size (S * S * 3 for cut 0).
    """

    name: str
    layers: int
    parameters: int
    values: int


@dataclass(frozen=True)
class Regularisation:
    """Regularisation of the trained part.

    Attributes:
        dropout: probability before each dense layer of the head, 0 to below 1.
        batch_norm: batch normalisation after each inner dense layer of the head; it starts as the
            identity on the training features.
        l2: adds l2 / 2 * sum(weight^2) of the head's dense kernels to the loss.
        weight_decay: decoupled (AdamW), on every kernel that trains.
        label_smoothing: 0 to below 1.
    """

    dropout: float = 0.2
    batch_norm: bool = False
    l2: float = 0.0
    weight_decay: float = 0.1
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class Training:
    """Settings of one training stage.

    Attributes:
        size: S in pixels.
        cut: index into `TrainableNetwork.cuts(size)`; everything below it is frozen.
        base_rate: learning rate of the topmost backbone layer as a fraction of the head's.
        depth_decay: learning rate of the lowest trained layer as a fraction of the topmost one's.
        optimizer: adamw, adam, sgd (momentum 0.9) or rmsprop.
        regularisation: regularisation of the trained part.
        mixed_precision: float16 arithmetic on a GPU, bfloat16 on a CPU.
        devices: number of devices that share each batch.
        seed: seed of the dropout masks.
        class_weights: one weight per class (C,), or None.
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
    """Mean loss of one batch, not finite when training diverged, and its correct answers."""

    loss: float
    correct: int


class TrainableNetwork(Protocol):
    """A backbone with a head, in some framework; used by one thread.

    Batch normalisation layers of the backbone stay in inference mode while it trains.
    """

    name: str
    """Name of the backbone, such as MobileNetV2."""
    framework: str
    """Framework, version and backend. A run that another framework began cannot be resumed."""

    def cuts(self, size: int) -> Sequence[Cut]:
        """Return the cuts at an input size, from the pixels (first) to the features (last)."""

    def backbone(self, size: int) -> onnx.ModelProto:
        """Return the backbone with its current weights as a backbone file's content.

        Raises BackboneError when the network cannot be converted.
        """

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        """Return the part below a cut (not cut 0) as an ONNX graph.

        Its input is `images` uint8 (N, S, S, 3), its output `activations` float32 (N, ...).
        """

    def backbone_graph(self, size: int) -> BackboneGraph:
        """Return the backbone graph that a model file is built on.

        It has a feature map wherever heat maps can be made.
        """

    def notes(self, training: Training) -> Sequence[str]:
        """Return what a user should know before a stage with these settings."""

    def attach(
        self, head: Head, regularisation: Regularisation, features: npt.NDArray[np.float32] | None
    ) -> None:
        """Put a head on the backbone, with these initial weights.

        features: float32 (N, K) of training photos, so that batch normalisation starts as the
            identity; None: it starts from mean 0 and variance 1.
        """

    def head(self) -> Head:
        """Return the head with its current weights, batch normalisation folded in."""

    def begin(self, training: Training) -> None:
        """Begin a stage: keep the weights, make a new optimiser. Raises SettingsError."""

    def step(self, inputs: npt.NDArray[Any], labels: npt.NDArray[np.int64], rate: float) -> Step:
        """Make one optimiser step at this learning rate.

        inputs: uint8 images for cut 0, else activations. labels: (B,) in 0..C-1.
        """

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return logits float32 (B, C) in inference mode; inputs as for `step`."""

    def weights(self) -> Arrays:
        """Return a copy of every weight above the cut and of the head, by name."""

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `weights` returned in this stage or an earlier one, in any process."""

    def state(self) -> Arrays:
        """Return everything that resuming needs: weights, optimiser, random generators."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `state` returned, after `attach` and `begin` with the same settings."""


@dataclass(frozen=True)
class KnownNetwork:
    """A published network that a classifier was built on, recognised by its layers.

    Attributes:
        name: as the framework's users know it, such as `keras.applications.xception`.
        preprocess: the preprocessing that goes with it, a key of `preprocessing.PREPROCESS`.
        evidence: how it was recognised, such as "its part 'xception'".
    """

    name: str
    preprocess: str
    evidence: str


class SourceClassifier(Protocol):
    """A classifier of square RGB images in its framework, to be converted to a model file."""

    @property
    def name(self) -> str:
        """Return the model's own name."""

    @property
    def size(self) -> int:
        """Return S, the side of the input in pixels."""

    @property
    def classes(self) -> int:
        """Return C: 2 where the model has a single output."""

    @property
    def outputs(self) -> int:
        """Return the number of outputs: C, or 1 for two classes with a sigmoid."""

    @property
    def packages(self) -> Sequence[str]:
        """Return the distributions whose versions the model file should state."""

    @property
    def notes(self) -> Sequence[str]:
        """Return what was changed in an old file while reading it."""

    @property
    def why_no_heatmaps(self) -> str:
        """Return why there are no heat maps; empty where there are."""

    def own_preprocessing(self) -> str | None:
        """Return the layer that prepares pixels inside the model, such as "x (Rescaling)"."""

    def known_network(self) -> KnownNetwork | None:
        """Return the published network it is built on; None if it is not recognised."""

    def backbone_graph(self, preprocess: str) -> tuple[BackboneGraph, Head]:
        """Return the graph below the head and the head that gives logits (N, C).

        preprocess: a key of `preprocessing.PREPROCESS`. Raises BackboneError for a layer that
            cannot be converted.
        """

    def logits(self, images: npt.NDArray[np.uint8], preprocess: str) -> npt.NDArray[np.float64]:
        """Return logits (N, C) of images uint8 (N, S, S, 3), computed by the framework itself."""


@dataclass(frozen=True)
class PublishedClassifier:
    """A published classifier with its weights.

    Attributes:
        classifier: the network.
        preprocess: a key of `preprocessing.PREPROCESS`.
        reason: how the preprocessing is known, for people.
        origin: name, source, licence, weights: entries of the model file's `backbone`.
    """

    classifier: SourceClassifier
    preprocess: str
    reason: str
    origin: Mapping[str, str]


class Engine(Protocol):
    """A framework adapter. Making one imports no framework; its methods do when they need it.

    Every backbone file that an engine writes has a metadata entry under the engine's name, from
    which the engine can rebuild the network. Methods raise MissingExtra when the framework is not
    installed.
    """

    name: str
    """Key in the registry, metadata entry of its files and scheme of its references."""
    example: str
    """A reference to a backbone that this engine can pull, for messages."""
    model_suffix: str
    """Ending of the files that `save_model` writes."""
    preprocess_names: Mapping[str, str]
    """The framework's own names of preprocessings, each with its key of PREPROCESS."""

    def open_network(self, backbone: onnx.ModelProto) -> TrainableNetwork:
        """Return the network that a backbone file of this engine was made from, with its weights.

        Raises BackboneError when the description in the file is damaged.
        """

    def scratch_network(
        self, *, size: int, classes: int, seed: int
    ) -> tuple[TrainableNetwork, Head]:
        """Return a small network with random weights and its head. Raises SettingsError."""

    def pull(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write a published network as a backbone file and return its path.

        Args:
            reference: `ENGINE:NAME`.
            size: side of the input in pixels; by default the one the weights were trained at.
            weights: a weights file to load instead of downloading.
            folder: where to write; by default the catalogue.
            progress: receives notes.
        """

    def recognises(self, path: Path) -> bool:
        """Return whether a file, by its content or name, is a model of this framework."""

    def read_classifier(self, path: Path, size: int | None) -> SourceClassifier:
        """Read a model file of the framework as untrusted input.

        size: side of the images in pixels, for a model that accepts any. Raises ModelFileError for
            a file that is damaged, holds code or is not a classifier of photos; SettingsError for a
            wrong size.
        """

    def published_classifier(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        progress: Progress | None = None,
    ) -> PublishedClassifier:
        """Return a published network with its classes on top; arguments as for `pull`."""

    def published_classes(self) -> Sequence[str]:
        """Return the class names of the published classifiers. Raises HubError."""

    def save_model(
        self, model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
    ) -> None:
        """Write a model file of tailorbird as a model of the framework.

        Args:
            model: content of a model file whose backbone this engine wrote.
            head: the head in it.
            size: S in pixels.
            temperature: logits are divided by it before the softmax.
            path: the file to write; its name ends in `model_suffix`.
        """

    def run_saved(self, path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Open a file that `save_model` wrote and return probabilities (N, C) of uint8 images."""

    def runtime(self) -> str:
        """Return the framework's backend, such as `tensorflow`."""
