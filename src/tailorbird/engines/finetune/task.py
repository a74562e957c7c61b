"""The checked inputs of a fine-tuning run, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.dataset import Sample
from tailorbird.engines.finetune import activation_cache
from tailorbird.engines.finetune.plan import DISK_BYTES, Stage, plan
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finite import listed, non_finite
from tailorbird.engines.protocol import TrainableNetwork
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.progress import Progress
from tailorbird.validation import Problems

Labels = NDArray[np.int64]

PARTS = ("train", "validation")


@dataclass(frozen=True)
class Host:
    """What runs training processes from outside, such as a cluster; by default nothing does.

    Attributes:
        launch: called where the run is wanted: trains the task in other processes, after which its
            folder holds the finished run. None: the network does what it needs.
        stop_wanted: called in a training process after each step: whether it is to save and stop.
        saved: called in every training process after each checkpoint, with the files of it; none in
            all but the first process.
    """

    launch: Callable[[FinetuneTask, Progress], None] | None = None
    stop_wanted: Callable[[], bool] = bool
    saved: Callable[[Sequence[Path]], None] | None = None


@dataclass(frozen=True)
class FinetuneTask:
    """Everything that a fine-tuning run works on; checked when it is made.

    Attributes:
        network: the network with its pretrained weights and no head attached.
        parts: photos under `train` and `validation`; others are ignored.
        labels: int64 (N,) and (M,) under the same names, 0 to classes - 1.
        head: the initial head, for raw features of the backbone at `size`.
        settings: settings of the run.
        size: the backbone's own input size in pixels.
        folder: folder of the run, created if needed; an unfinished run in it is resumed if it has
            the same fingerprint, else replaced.
        seed: at least 0; the same seed gives the same weights as far as the framework's arithmetic
            is deterministic.
        classes: C, at least 2.
        features: float32 (n, K) of some or all training photos, unaugmented, from which batch
            normalisation in the head is initialised; None for a network with random weights.
        identity: further entries of the fingerprint, such as the backbone's SHA-256.
        rule: how photos are resized, whatever the size; None: squashed.
        host: what runs the training processes, if not this program.

    Raises SettingsError that names everything that does not fit.
    """

    network: TrainableNetwork
    parts: Mapping[str, Sequence[Sample]]
    labels: Mapping[str, Labels]
    head: Head
    settings: FinetuneSettings
    size: int
    folder: Path
    seed: int
    classes: int
    features: NDArray[np.float32] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    rule: ResizeRule | None = None
    host: Host = Host()

    def __post_init__(self) -> None:
        """Check that photos, labels, features and head fit each other."""
        with Problems() as problems:
            problems.whole("seed", self.seed, 0)
            for name in PARTS:
                self._check_labels(problems, name)
            self._check_head(problems)

    def _check_labels(self, problems: Problems, name: str) -> None:
        labels, count, most = self.labels[name], len(self.parts[name]), self.classes - 1
        if not count:
            problems.add(f"there are no {name} photos")
        elif labels.shape != (count,):
            problems.add(f"{count} {name} photos have labels of shape {labels.shape}")
        elif not 0 <= int(labels.min()) <= int(labels.max()) <= most:
            problems.add(f"{name} labels must be 0 to {most}, not {labels.min()} to {labels.max()}")

    def _check_head(self, problems: Problems) -> None:
        width = self.head.layers[0].weight.shape[0]
        outputs = len(self.head.layers[-1].bias)
        problems.need(
            outputs == self.classes, f"the head has {outputs} outputs for {self.classes} classes"
        )
        weights = {f"layer {n}": layer.weight for n, layer in enumerate(self.head.layers)}
        weights |= {f"bias {n}": layer.bias for n, layer in enumerate(self.head.layers)}
        if damaged := non_finite(weights):
            problems.add(f"the head holds NaN or infinity in {listed(damaged)}")
        if self.features is None:
            return
        if self.features.shape[1:] != (width,) or not len(self.features):
            problems.add(
                f"features must be (N, {width}), as the head takes them, not {self.features.shape}"
            )
        if not np.isfinite(self.features).all():
            problems.add("the features hold NaN or infinity")

    @property
    def photos(self) -> dict[str, int]:
        """Return the number of photos of `train` and `validation`."""
        return {name: len(self.parts[name]) for name in PARTS}

    def rule_at(self, size: int) -> ResizeRule:
        """Return how photos are resized for an input size in pixels."""
        return self.rule.at(size) if self.rule is not None else ResizeRule(size)

    def stages(self) -> tuple[Stage, ...]:
        """Return the plan for the disk as it is now; creates the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free + activation_cache.kept_bytes(self.folder)
        disk = min(DISK_BYTES, free // 2)
        return plan(self.network, self.settings, self.photos, size=self.size, disk=disk)

    def fingerprint(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Return what identifies this run, for JSON, by names that are shown to people."""
        photos = hashlib.sha256()
        for name in PARTS:
            photos.update("".join(sample.digest for sample in self.parts[name]).encode())
            photos.update(np.ascontiguousarray(self.labels[name], "<i8").tobytes())
        head = hashlib.sha256()
        for layer in self.head.layers:
            head.update(layer.weight.tobytes() + layer.bias.tobytes())
        settings = self.settings.as_dict()
        del settings["checkpoint_seconds"]  # does not change the weights
        # Nor does caching, which depends on the free disk.
        planned = [
            (stage.size, stage.cut, stage.epochs, stage.views, stage.learning_rate)
            for stage in stages
        ]
        facts = {
            **settings,
            "network": self.network.name,
            "photos": photos.hexdigest(),
            "head": head.hexdigest(),
            "plan": planned,
            "own size": self.size,
            "seed": self.seed,
            "classes": self.classes,
            **self.identity,
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts))  # as it will be read back
        return plain

    def class_weights(self) -> tuple[float, ...] | None:
        """Return balanced class weights, N / (classes present * count); 0 for an empty class."""
        if self.settings.class_weight is None:
            return None
        counts = np.bincount(self.labels["train"], minlength=self.classes)
        weights = len(self.labels["train"]) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return tuple(float(value) for value in np.where(counts, weights, 0))
