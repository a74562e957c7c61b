"""A small `TrainableNetwork` in NumPy, to test fine-tuning without a framework.

    images -> mean over a 4 x 4 grid -> tint (3 factors) -> [cut 1] -> dense 48 -> 16, ReLU
        -> [cut 2] -> head -> logits

Run as a program it fine-tunes on a folder of photos, so that a test can kill it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.dataset import Sample, scan
from tailorbird.engines.finetune.defaults import NetworkDefaults
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.results import FinetuneResult
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.protocol import Arrays, Cut, Mix, Regularisation, Step, Training, Views
from tailorbird.head import Dense, Head
from tailorbird.head.network import cross_entropy
from tailorbird.model.graph import BackboneGraph
from tailorbird.progress import NoProgress, Progress

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]
GRID, WIDTH, CLASSES = 4, 16, 3
SIZE = 32
INPUTS = GRID * GRID * 3


class NumpyNetwork(NetworkDefaults):
    """The network; `frozen_parts` and `steps` count calls.

    break_at: number of the step, from 1, at which the loss is NaN. relu: a function (x, 0) -> ReLU.
    """

    name = "grid"
    framework = "numpy"

    def __init__(
        self, *, break_at: int | None = None, relu: Callable[..., Any] = np.maximum
    ) -> None:
        super().__init__()
        random = np.random.default_rng(7)
        self.values: dict[str, Floats] = {
            "tint": np.array([1.1, 0.9, 1.0], np.float32),
            "kernel": (random.standard_normal((INPUTS, WIDTH)) * (2 / INPUTS) ** 0.5).astype(
                np.float32
            ),
            "bias": np.zeros(WIDTH, np.float32),
        }
        self.first = {name: value.copy() for name, value in self.values.items()}
        self.frozen_parts = self.steps = 0
        self.begun: list[Training] = []
        self.seen: list[npt.NDArray[Any]] = []
        self.break_at = break_at
        self.relu = relu
        self.training = Training(SIZE, 2)

    # What it is.

    def cuts(self, size: int) -> Sequence[Cut]:
        dense = INPUTS * WIDTH + WIDTH
        return (
            Cut("images", 2, dense + 3, size * size * 3),
            Cut("tint", 1, dense, INPUTS),
            Cut("features", 0, 0, WIDTH),
        )

    def backbone(self, size: int) -> onnx.ModelProto:
        return self._graph(size, 2, "features")

    def backbone_graph(self, size: int) -> BackboneGraph:
        return BackboneGraph(self.backbone(size), WIDTH, None, "none")

    def frozen_part(self, size: int, cut: int) -> onnx.ModelProto:
        self.frozen_parts += 1
        return self._graph(size, cut, "activations")

    def _graph(self, size: int, cut: int, output: str) -> onnx.ModelProto:
        from onnx import TensorProto, helper, numpy_helper

        cell = size // GRID
        nodes = [
            helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["cast"], ["channels"], perm=[0, 3, 1, 2]),
            helper.make_node(
                "AveragePool",
                ["channels"],
                ["pooled"],
                kernel_shape=[cell, cell],
                strides=[cell, cell],
            ),
            helper.make_node("Transpose", ["pooled"], ["grid"], perm=[0, 2, 3, 1]),
            helper.make_node("Mul", ["grid", "factors"], [output if cut == 1 else "tinted"]),
        ]
        weights = {"factors": self.values["tint"] / np.float32(255)}
        shape: list[int | str] = ["N", GRID, GRID, 3]
        if cut == 2:
            weights |= {"kernel": self.values["kernel"], "bias": self.values["bias"]}
            nodes += [
                helper.make_node("Flatten", ["tinted"], ["flat"]),
                helper.make_node("Gemm", ["flat", "kernel", "bias"], ["dense"]),
                helper.make_node("Relu", ["dense"], [output]),
            ]
            shape = ["N", WIDTH]
        graph = helper.make_graph(
            nodes,
            "grid",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    # Training.

    def notes(self, training: Training) -> Sequence[str]:
        return ["rough numbers"] if training.mixed_precision else []

    def attach(self, head: Head, regularisation: Regularisation, features: Floats | None) -> None:
        (layer,) = head.layers
        self.values |= {"head": layer.weight.copy(), "head bias": layer.bias.copy()}

    def head(self) -> Head:
        return Head((Dense(self.values["head"].copy(), self.values["head bias"].copy()),))

    def begin(self, training: Training) -> None:
        self.training = training
        self.begun.append(training)
        self.random = np.random.default_rng(training.seed)
        self.count = 0
        self.moments = {
            name: (np.zeros_like(self.values[name]), np.zeros_like(self.values[name]))
            for name in self._trained()
        }

    def _trained(self) -> list[str]:
        return (
            ["tint"] * (self.training.cut == 0)
            + ["kernel", "bias"] * (self.training.cut < 2)
            + ["head", "head bias"]
        )

    def _forward(self, inputs: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        """Return the grid (B, 48) before the tint, features before ReLU (B, 16), features."""
        values, cut = self.values, self.training.cut
        if cut == 2:
            features = inputs.astype(np.float32)
            return features, features, features
        if cut == 0:
            side = inputs.shape[1] // GRID
            cells = (
                inputs.astype(np.float32)
                .reshape(len(inputs), GRID, side, GRID, side, 3)
                .mean(axis=(2, 4))
                / 255
            )
        else:
            cells = inputs.astype(np.float32)
        grid = cells.reshape(len(inputs), -1)
        tinted = grid * np.tile(values["tint"], GRID * GRID) if cut == 0 else grid
        before = tinted @ values["kernel"] + values["bias"]
        return grid, before, self.relu(before, 0)

    def logits(self, inputs: npt.NDArray[Any]) -> Floats:
        self.seen.append(inputs)
        result: Floats = self._forward(inputs)[2] @ self.values["head"] + self.values["head bias"]
        return result

    def step(
        self,
        inputs: npt.NDArray[Any] | Views,
        labels: npt.NDArray[np.int64],
        rate: float,
        mix: Mix | None = None,
    ) -> Step:
        assert not isinstance(inputs, Views) and mix is None
        self.steps += 1
        values, options = self.values, self.training.regularisation
        grid, before, features = self._forward(inputs)
        kept = self.random.random(features.shape) >= options.dropout
        dropped = (features * kept / (1 - options.dropout)).astype(np.float32)
        logits = dropped @ values["head"] + values["head bias"]
        weights = (
            None
            if self.training.class_weights is None
            else np.array(self.training.class_weights, np.float32)
        )
        loss, upstream = cross_entropy(
            logits, labels, smoothing=options.label_smoothing, weights=weights
        )
        gradients = {"head": dropped.T @ upstream, "head bias": upstream.sum(axis=0)}
        if self.training.cut < 2:
            inward = (upstream @ values["head"].T) * kept / (1 - options.dropout) * (before > 0)
            tints = (
                np.tile(values["tint"], GRID * GRID) if self.training.cut == 0 else np.float32(1)
            )
            gradients |= {"kernel": (grid * tints).T @ inward, "bias": inward.sum(axis=0)}
            if self.training.cut == 0:
                along = ((inward @ values["kernel"].T) * grid).sum(axis=0)
                gradients["tint"] = along.reshape(-1, 3).sum(axis=0)
        self._adam(gradients, rate)
        loss = float("nan") if self.steps == self.break_at else loss
        return Step(loss, int(np.count_nonzero(logits.argmax(axis=1) == labels)))

    def _adam(self, gradients: Mapping[str, npt.NDArray[Any]], rate: float) -> None:
        self.count += 1
        for name in self._trained():
            first, second = self.moments[name]
            gradient = gradients[name].astype(np.float32)
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient**2 - second)
            own = rate if name.startswith("head") else rate * self.training.base_rate
            step = (
                own
                * (first / (1 - 0.9**self.count))
                / (np.sqrt(second / (1 - 0.999**self.count)) + 1e-8)
            )
            self.values[name] = (self.values[name] - step).astype(np.float32)

    # What is kept.

    def weights(self) -> Arrays:
        return {name: self.values[name].copy() for name in self._trained()}

    def load_weights(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, value in weights.items():
            self.values[name] = value.copy()

    def state(self) -> Arrays:
        state: Arrays = {"count": np.array(self.count), **self.weights()}
        for name, (first, second) in self.moments.items():
            state |= {f"first {name}": first.copy(), f"second {name}": second.copy()}
        words = self.random.bit_generator.state["state"]
        state["random"] = np.frombuffer(
            b"".join(words[key].to_bytes(16, "little") for key in ("state", "inc")), np.uint64
        ).copy()
        return state

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self.count = int(state["count"])
        self.load_weights({name: state[name] for name in self._trained()})
        self.moments = {
            name: (state[f"first {name}"].copy(), state[f"second {name}"].copy())
            for name in self._trained()
        }
        data = state["random"].tobytes()
        words = {
            "state": int.from_bytes(data[:16], "little"),
            "inc": int.from_bytes(data[16:], "little"),
        }
        self.random.bit_generator.state = {**self.random.bit_generator.state, "state": words}


def draw(folder: Path, *, train: int = 20, validation: int = 8) -> Path:
    """Draw split/class folders of small images; the position of the light is the class."""
    for split, count, start in (("train", train, 0), ("validation", validation, 10_000)):
        for label in range(CLASSES):
            place = folder / split / f"class-{label}"
            place.mkdir(parents=True)
            for number in range(count):
                random = np.random.default_rng([start + number, label])
                cells = random.uniform(40, 120, (GRID, GRID, 3))
                cells[label, 1:3] += random.uniform(90, 130)
                pixels = np.clip(
                    np.kron(cells, np.ones((10, 10, 1))) + random.normal(0, 5, (40, 40, 3)), 0, 255
                )
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:03}.png")
    return folder


class Task:
    """Photos, labels, features and head for `finetune`."""

    def __init__(self, photos: Path) -> None:
        dataset = scan(photos)
        self.parts: dict[str, list[Sample]] = {
            name: [sample for sample in dataset.samples if sample.split == name]
            for name in ("train", "validation")
        }
        self.labels = {
            name: np.array([int(sample.label[-1]) for sample in part], np.int64)
            for name, part in self.parts.items()
        }
        random = np.random.default_rng(3)
        self.head = Head(
            (
                Dense(
                    (random.standard_normal((WIDTH, CLASSES)) * 0.1).astype(np.float32),
                    np.zeros(CLASSES, np.float32),
                ),
            )
        )
        self.features = np.zeros((len(self.parts["train"]), WIDTH), np.float32)

    def run(
        self,
        network: NumpyNetwork,
        settings: FinetuneSettings,
        folder: Path,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> FinetuneResult:
        return finetune(self.given(network, settings, folder, **options), progress=progress)

    def given(
        self, network: NumpyNetwork, settings: FinetuneSettings, folder: Path, **options: Any
    ) -> FinetuneTask:
        values = {
            "parts": self.parts,
            "labels": self.labels,
            "head": self.head,
            "size": SIZE,
            "seed": 0,
            "features": self.features,
            "classes": CLASSES,
            **options,
        }
        return FinetuneTask(network=network, settings=settings, folder=folder, **values)


SETTINGS = FinetuneSettings(
    sizes=(16, 32),
    unfreeze=1,
    epochs=6,
    batch_size=15,
    learning_rate=0.05,
    base_rate=0.5,
    views=2,
    checkpoint_seconds=1e9,
)
"""Two stages of three epochs, above cut 1; a checkpoint after each epoch."""


class Program(NoProgress):
    """Prints each step to standard output, slowly."""

    def metrics(self, **values: float) -> None:
        print("step", flush=True)
        time.sleep(0.02)

    def note(self, text: str) -> None:
        print(text, flush=True)


def weights_of(network: NumpyNetwork) -> bytes:
    """Return all weights as bytes, to compare runs."""
    return b"".join(value.tobytes() for _, value in sorted(network.values.items()))


def main(photos: str, folder: str, seconds: str) -> None:
    """Fine-tune and print the resulting weights."""
    network = NumpyNetwork()
    Task(Path(photos)).run(
        network,
        replace(SETTINGS, checkpoint_seconds=float(seconds)),
        Path(folder),
        progress=Program(),
    )
    print("weights", weights_of(network).hex(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
