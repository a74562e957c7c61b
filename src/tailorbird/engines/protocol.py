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
from tailorbird.images import ResizeRule
from tailorbird.model.graph import BackboneGraph
from tailorbird.progress import Progress

if TYPE_CHECKING:
    import onnx

SQUASH, PUBLISHED = RESIZES = ("squash", "published")
"""How photos can be resized for a pulled network: squashed, or as its publisher does."""

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
        mixed_precision: sixteen-bit arithmetic.
        devices: number of devices that share each batch.
        seed: seed of the dropout masks.
        class_weights: one weight per class (C,), or None.
        accumulate: number of parts that each batch is worked on in, one after the other; the
            gradients are added, so that a large batch fits in memory.
        clip: gradients whose global norm is larger are scaled down to it; None: never.
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
    accumulate: int = 1
    clip: float | None = None


@dataclass(frozen=True)
class Step:
    """Mean loss of one batch, not finite when training diverged, and its correct answers.

    Both may be a framework's scalars on a device: float() or int() waits until the step is done.
    """

    loss: float
    correct: int


@dataclass(frozen=True)
class Views:
    """A batch of pictures with the augmented view that the network is to make of each.

    Attributes:
        pictures: uint8 (B, T, T, 3) RGB, resized to a square of T >= S pixels.
        maps: float32 (B, 2, 3), affine maps from pixels of the view to those of the picture.
        brightness: float32 (B,), factors.
        erased: int64 (B, 4), rectangles (top, left, bottom, right) of the view that become grey;
            empty ones have bottom = top.
    """

    pictures: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.float32]
    brightness: npt.NDArray[np.float32]
    erased: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Mix:
    """How the photos of a batch are mixed with others of it, and their labels with them.

    Attributes:
        partners: int64 (B,), the other photo of each.
        share: of the photo itself, 0 to 1.
        box: (top, left, bottom, right) as fractions of the sides: the part that is replaced by the
            partner's (CutMix, Yun et al. 2019); None: a weighted sum (mixup, Zhang et al. 2018).
    """

    partners: npt.NDArray[np.int64]
    share: float
    box: tuple[float, float, float, float] | None = None


class TrainableNetwork(Protocol):
    """A backbone with a head, in some framework; used by one thread.

    Batch normalisation layers of the backbone stay in inference mode while it trains.
    """

    name: str
    """Name of the backbone, such as MobileNetV2."""
    framework: str
    """Framework, version and backend. A run that another framework began cannot be resumed."""
    lag: int
    """Number of steps whose results are read later, so that a device need not wait for them."""
    takes_pixels: bool
    """Whether inputs are images at any cut: the network runs the frozen part itself, on its
    device."""
    takes_views: bool
    """Whether training inputs at the pixels are `Views`: the network augments them, on its
    device."""
    depth_decay: float
    """Default of `Training.depth_decay` for the whole backbone."""
    mixing: tuple[float, float]
    """mixup and cutmix that begin when training photos are learned by heart, unless the settings
    name others; (0, 0): none."""
    single_size: bool
    """Whether it trains at one size by default, and not at rising ones."""
    sixteen_bit: bool
    """Whether sixteen-bit arithmetic is the default on its device."""
    process: int
    """Number of this process, from 0, of those that train together."""
    processes: int
    """Number of processes that train together, each on its part of every batch."""

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

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        """Make one optimiser step at this learning rate.

        Args:
            inputs: uint8 images for cut 0, else activations; see `takes_pixels`, `takes_views`.
            labels: (B,) in 0..C-1.
            rate: learning rate of the head.
            mix: how photos and labels are mixed; correct answers are counted by `labels`.
        """

    def logits(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return logits float32 (B, C) in inference mode; inputs as for `step`."""

    def weights(self) -> Arrays:
        """Return a copy of every weight above the cut and of the head, by name."""

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `weights` returned in this stage or an earlier one, in any process."""

    def average(self, share: float) -> None:
        """Move the moving averages of the weights by this share towards the weights.

        Averages of weights that are not floating-point, and all at share 1, become the weights.
        """

    def averages(self) -> Arrays:
        """Return a copy of the moving averages, named as `weights`; empty before the first."""

    def load_averages(self, averages: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `averages` returned, or nothing to begin anew."""

    def launch(self, task: Any, progress: Progress) -> None:
        """Run a FinetuneTask in several processes up to its last checkpoint, if they are needed.

        Nothing is done where one process shares batches among all devices, or is one of several.
        """

    def agree(self, value: float) -> float:
        """Return the value of the first process, the same in all of them."""

    def gather(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rows (n, C) of all processes, (P, n, C); all have equally many."""

    def state(self) -> Arrays:
        """Return everything that resuming needs: weights, optimiser, random generators."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Load what `state` returned, after `attach` and `begin` with the same settings."""


@dataclass(frozen=True)
class KnownNetwork:
    """A published network that a classifier was built on, recognised by its layers.

    Attributes:
        name: as the framework's users know it, such as `keras.applications.xception`.
        does: what prepares pixels for it, in words.
        preprocess: the preprocessing that goes with it, a key of `preprocessing.PREPROCESS`.
        evidence: how it was recognised, such as "its part 'xception'".
    """

    name: str
    preprocess: str
    evidence: str
    does: str


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

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names of the classes that the file states, in their order; empty if none."""

    @property
    def rule(self) -> ResizeRule:
        """Return how photos are resized for it, to S x S."""

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


class ClassifierReader(Protocol):
    """What reads the model files of one format; making one imports no framework."""

    name: str
    """The format or framework, for messages."""
    suffixes: Sequence[str]
    """Endings of the files it reads, for messages."""
    preprocess_names: Mapping[str, str]
    """The framework's own names of preprocessings, each with its key of PREPROCESS."""

    def recognises(self, path: Path) -> bool:
        """Return whether a file, by its content or name, is a model of this framework."""

    def read_classifier(
        self, path: Path, size: int | None, arch: str | None = None
    ) -> SourceClassifier:
        """Read a model file of the framework as untrusted input.

        size: side of the images in pixels, for a model that accepts any. arch: name of the network,
            for files of weights alone. Raises ModelFileError for a file that is damaged, holds code
            or is not a classifier of photos; SettingsError for a wrong size or network.
        """


class Engine(ClassifierReader, Protocol):
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
    model_name: str
    """Default name of such a file, with {} in place of the model file's name without ending."""
    model_use: str
    """What such a file takes and gives, for people, with {size} and {classes}."""
    model_opening: str
    """Python expression that opens it, with {path} and {folder}."""

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
        arguments: Mapping[str, object] | None = None,
        resize: str = SQUASH,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write a published network as a backbone file and return its path.

        Args:
            reference: `ENGINE:NAME`.
            size: side of the input in pixels; by default the one the weights were trained at.
            weights: a weights file to load instead of downloading.
            arguments: further arguments of the framework's function that builds the network;
                refused by an engine whose networks take none.
            resize: one of RESIZES; `published` is refused by an engine that knows no other rule.
            folder: where to write; by default the catalogue.
            progress: receives notes.
        """

    def published_classifier(
        self,
        reference: str,
        *,
        size: int | None = None,
        weights: Path | None = None,
        arguments: Mapping[str, object] | None = None,
        progress: Progress | None = None,
    ) -> PublishedClassifier:
        """Return a published network with its classes on top; arguments as for `pull`."""

    def published_classes(self, reference: str) -> Sequence[str]:
        """Return the class names of a published classifier. Raises HubError, SettingsError."""

    def save_model(
        self, model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
    ) -> None:
        """Write a model file of tailorbird as a model of the framework.

        Args:
            model: content of a model file whose backbone this engine wrote.
            head: the head in it.
            size: S in pixels.
            temperature: logits are divided by it before the softmax.
            path: the file to write; its name ends in `model_suffix`. What belongs to it is written
                beside it, into a folder that is empty before.
        """

    def run_saved(self, path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Open a file that `save_model` wrote and return probabilities (N, C) of uint8 images."""

    def runtime(self) -> str:
        """Return the framework's backend, such as `tensorflow`."""
