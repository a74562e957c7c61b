"""Classifiers of timm, published or in a weights file, as sources of model files.

The network is exported to ONNX once, from normalised pixels to scores, and read from there as any
ONNX classifier; PyTorch's own answers are the reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.backbone.published import PixelInput
from tailorbird.engines.onnx.classifier import OnnxClassifier, classifier_of
from tailorbird.engines.onnx.reading import OpenedOnnx
from tailorbird.engines.preprocessing import prepare
from tailorbird.engines.protocol import PublishedClassifier
from tailorbird.engines.torch import backend, description, networks
from tailorbird.engines.torch.exporting import computing, convert
from tailorbird.engines.torch.networks import Architecture, Arguments
from tailorbird.engines.torch.pull import classes_in, load, origin
from tailorbird.engines.torch.weights_files import read_weights
from tailorbird.errors import BackboneError, ModelFileError, SettingsError
from tailorbird.images import ResizeRule
from tailorbird.progress import NoProgress, Progress

_BATCH = 8
_INPUT, _SCORES = "pixels", "scores"
_SAME = 1e-4


@dataclass(frozen=True)
class TimmClassifier(OnnxClassifier):
    """A classifier of timm: its graph in ONNX, and PyTorch's own answers.

    Attributes:
        model: timm's model with its classifier.
        words: how the file should be called.
        resize: timm's own resize rule; None: squashed.
    """

    model: Any = None
    words: str = ""
    resize: ResizeRule | None = None

    @property
    def name(self) -> str:
        """Return the network's name."""
        return self.words

    @property
    def rule(self) -> ResizeRule:
        """Return how photos are resized for it, as timm does for its weights."""
        return self.resize.at(self.size) if self.resize is not None else ResizeRule(self.size)

    def logits(self, images: npt.NDArray[np.uint8], preprocess: str) -> npt.NDArray[np.float64]:
        """Return logits (N, C) that PyTorch computes; of one output z, (-z / 2, z / 2)."""
        torch, _ = backend.load()
        mean, std = (np.array(one, np.float32) for one in (self.mean, self.std))
        values = ((prepare(images, preprocess) / 255 - mean) / std).transpose(0, 3, 1, 2)
        rows = []
        with computing(self.words):
            for start in range(0, len(values), _BATCH):
                part = np.ascontiguousarray(values[start : start + _BATCH], np.float32)
                rows.append(self.model(torch.from_numpy(part)).numpy())
        found = np.concatenate(rows).astype(np.float64)
        return np.asarray(found * [-0.5, 0.5] if found.shape[1] == 1 else found)


def timm_classifier(
    model: Any, architecture: Architecture, size: int, classes: Sequence[str] = ()
) -> TimmClassifier:
    """Return timm's model with its classifier on top as a source of a model file.

    Raises BackboneError for a network that cannot be converted.
    """
    torch, _ = backend.load()
    random = torch.from_numpy(np.random.default_rng(20).random((2, 3, size, size), np.float32))
    module = _module_class()(model).eval()
    proto, unused = convert(module, random, [_SCORES], architecture.name, source=_INPUT)
    opened = OpenedOnnx(
        Path(architecture.name), proto, PixelInput(_INPUT, False, False, (size, size)), _SCORES,
        None, size, tuple(classes), {}, (_SCORES,),
    )  # fmt: skip
    plain = classifier_of(opened)
    top = [f"{name}.{kind}" for name in architecture.classifier for kind in ("weight", "bias")]
    entry = description.describe(architecture, [key for key in unused if key not in top])
    known = plain.structure.head is not None and _pools_alike(plain, model, random)
    return TimmClassifier(
        plain.opened, plain.proto, plain.structure, plain.half, plain.notes, architecture.mean,
        architecture.std, entry if known else {}, ("torch", "timm"), model, architecture.name,
        architecture.rule,
    )  # fmt: skip


def _pools_alike(plain: OnnxClassifier, model: Any, pixels: Any) -> bool:
    """Return whether the features below the head are those of the network without classes."""
    from tailorbird.engines.onnx.classifier import measure

    torch, _ = backend.load()
    found = measure(plain.opened, [plain.structure.features])[plain.structure.features]
    noise = np.random.default_rng(0).random((2, plain.size, plain.size, 3), np.float32)
    with computing("the network"):
        ordered = torch.from_numpy(np.ascontiguousarray(noise.transpose(0, 3, 1, 2)))
        expected = model.forward_head(model.forward_features(ordered), pre_logits=True).numpy()
    rows = found.reshape(len(found), -1)
    alike = rows.shape == expected.shape and pixels.shape[1] == 3
    return alike and float(np.abs(rows - expected).max()) <= _SAME * float(np.abs(expected).max())


@cache
def _module_class() -> Any:
    torch, _ = backend.load()
    base: Any = torch.nn.Module

    class Scores(base):  # type: ignore[misc]
        """From normalised pixels to scores; the names of its weights begin with `net.`."""

        def __init__(self, net: Any) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels: Any) -> Any:
            return self.net(pixels)

    return Scores


def published_classifier(
    reference: str,
    size: int | None,
    weights: Path | None,
    arguments: Arguments | None,
    progress: Progress | None,
) -> PublishedClassifier:
    """Return a network of timm with its classifier on top; arguments and errors as for `pull`."""
    note = (progress or NoProgress()).note
    architecture = networks.find(networks.name_of(reference), arguments)
    model = load(architecture, size, weights, note, with_classes=True)
    side = size or architecture.size
    note(f"converting {architecture.name} for images of {side} x {side} pixels")
    found = timm_classifier(model, architecture, side)
    facts = {"name": architecture.name, **origin(architecture, weights)}
    return PublishedClassifier(
        found, "none", f"inside the model: {found.own_preprocessing()}", facts
    )


def published_classes(reference: str) -> list[str]:
    """Return the names of ImageNet's classes that a network of timm was trained on.

    They are part of timm. Raises SettingsError for a network of other classes.
    """
    _, timm = backend.load()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    name = networks.name_of(reference)
    networks.find(name)
    subset = infer_imagenet_subset(timm.get_pretrained_cfg(name).to_dict())
    if not subset:
        raise SettingsError(
            f"timm does not know the class names of {name}; give them with --classes FILE, one per "
            "line in the order of the outputs"
        )
    info = ImageNetInfo(subset)
    return [
        str(info.index_to_description(number)).partition(",")[0]
        for number in range(info.num_classes())
    ]


def read_classifier(path: Path, size: int | None, arch: str | None) -> TimmClassifier:
    """Read a weights file of a timm classifier.

    arch: name of the network; None takes the one that a config.json beside the file states, as timm
        writes it. Raises ModelFileError, SettingsError, MissingExtra.
    """
    config = _config(path)
    name = arch or config.get("architecture")
    if not isinstance(name, str):
        raise SettingsError(
            f"{path} holds weights alone: name their network with --arch, such as --arch resnet50 "
            "(timm.list_models() lists all)"
        )
    stated = config.get("pretrained_cfg") if arch in (None, config.get("architecture")) else None
    stated = stated if isinstance(stated, dict) else {}
    arguments = config.get("model_args") if stated else None
    architecture = networks.find(
        name,
        {
            **(arguments if isinstance(arguments, dict) else {}),
            **{key: stated[key] for key in ("mean", "std") if key in stated},
        },
    )
    side = size or _stated_side(stated) or architecture.size
    if stated:
        architecture = replace(architecture, rule=networks.published_rule(stated, side))
    try:
        tensors = read_weights(path)
        classes = classes_in(tensors, architecture)
        if not classes:
            raise ModelFileError(
                f"{path} holds no classifier of {name} (no weights named "
                f"{' or '.join(architecture.classifier)}); a backbone is pulled with `tailorbird "
                f"backbones pull timm:{name} --weights {path.name}`"
            )
        model = networks.build(architecture, side, classes=classes, weights=tensors)
    except BackboneError as problem:
        raise ModelFileError(str(problem)) from None
    labels = stated.get("label_names") or config.get("label_names")
    known = labels if isinstance(labels, list) and len(labels) == classes else []
    found = timm_classifier(model, architecture, side, [str(label) for label in known])
    return replace(found, words=path.stem)


def _config(path: Path) -> Mapping[str, Any]:
    """Return the config.json beside a weights file; empty if there is none that can be read."""
    try:
        found = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _stated_side(stated: Mapping[str, Any]) -> int | None:
    side = stated.get("input_size")
    return side[-1] if isinstance(side, list) and side and isinstance(side[-1], int) else None
