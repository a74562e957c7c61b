"""A backbone: an ONNX file that turns images into features.

    input   images       uint8    (N, S, S, 3)   RGB, 0 to 255, at the backbone's own size S
    output  features     float32  (N, K)
    output  feature_map  float32  (N, K, h, w)   only if pooling is an average over h and w:
                                                 features = mean of feature_map

Metadata: name, source, licence, trained_on, pooling; `resize_rule` where photos are not squashed to
the input size, as JSON (`ResizeRule.as_dict`). Normalisation is inside the graph.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files, parallel
from tailorbird.errors import BackboneError, InputError
from tailorbird.files import sha256_file
from tailorbird.images import ResizeRule
from tailorbird.inference import CPU, DeviceChoice, Runner, open_runner
from tailorbird.inference.choosing import TOLERANCE, difference, tolerance

if TYPE_CHECKING:
    import onnx

_CPU = DeviceChoice(CPU.name)

Features = npt.NDArray[np.float32]
"""float32 (N, K)."""

LEAST_OPSET = 11

RULE = "resize_rule"
"""Metadata entry of a resize rule that is not the default."""


@dataclass(frozen=True)
class BackboneInfo:
    """Facts of a backbone file.

    Attributes:
        name: The name in its metadata, else its file's.
        path: The file.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        file_bytes: Size of the file in bytes.
        rule: How photos are resized for it.
        width: K, the number of features per image.
        grid: (h, w) of the feature map; None if the backbone has no feature map.
        licence: Licence, as stated in the metadata.
        source: Where the network comes from, as stated in the metadata.
        trained_on: Training data, as stated in the metadata.
        pooling: How features come from the feature map.
        mirror: Whether features are averaged with those of the mirrored image.
        parts: The backbones whose features are side by side, where there are several.
    """

    name: str
    path: Path
    sha256: str
    file_bytes: int
    rule: ResizeRule
    width: int
    grid: tuple[int, int] | None
    licence: str
    source: str
    trained_on: str
    pooling: str
    mirror: bool = False
    parts: tuple[BackboneInfo, ...] = ()

    @property
    def size(self) -> int:
        """S, the side of the square input in pixels."""
        return self.rule.size

    def as_dict(self) -> dict[str, object]:
        """Return the facts for a model file's metadata and `backbones --json`."""
        parts = {"parts": [part.as_dict() for part in self.parts]} if self.parts else {}
        return {
            "name": self.name,
            "sha256": self.sha256,
            "input_size": self.size,
            "resize": self.rule.as_dict(),
            "features": self.width,
            "grid": list(self.grid) if self.grid else None,
            "licence": self.licence,
            "source": self.source,
            "trained_on": self.trained_on,
            "pooling": self.pooling,
            "mirror": self.mirror,
            **parts,
        }


class Backbone:
    """An opened backbone. `features` may be called from several threads at once."""

    def __init__(self, path: str | Path, *, choice: DeviceChoice = _CPU) -> None:
        """Open and audit a file, compare it with the contract and run it on two images.

        Args:
            path: The file.
            choice: The device to run it on.

        Raises:
            BackboneError: Names every way in which the contract is broken.
            SettingsError: The device is not available.
        """
        self.path = Path(path)
        self.proto = onnx_files.read_audited(self.path, BackboneError)
        self.info = check(self.proto, self.path)
        damaged = onnx_files.nan_weights(self.proto)
        if damaged:
            raise BackboneError(
                f"{self.path}: {len(damaged)} weights hold NaN, the first is {damaged[0]!r}; "
                "the file is damaged or badly converted: download or convert it again"
            )
        self._choice = choice
        self.seconds_per_image = self._probe()
        """Seconds of a core that an image takes, from a single measurement.

        Where one device works for all cores, an image keeps all of them waiting.
        """

    @cached_property
    def runner(self) -> Runner:
        """The graph, opened on a device."""
        return open_runner(
            self.proto,
            str(self.path),
            BackboneError,
            outputs=["features"],
            choice=self._choice,
        )

    @cached_property
    def variant(self) -> str:
        """How the device's features are told from the CPU's in the cache; empty: they agree."""
        device = self.runner.device
        if device.is_plain:
            return ""
        if not self.runner.converted:
            cpu = Runner(self.proto, str(self.path), BackboneError)
            if difference(cpu, self.runner, "features") <= TOLERANCE:
                return ""
        return f"{device.kind}-{self.runner.arithmetic}"

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """The backbones whose features are side by side, for images of one size; often itself."""
        return (self,)

    def features(self, images: npt.NDArray[np.uint8]) -> Features:
        """Return the features, float32 (N, K), of uint8 (N, S, S, 3)."""
        result: Features = self.runner.run(images, ["features"])[0]
        return result

    def images_per_second(self, *, seconds: float = 0.4) -> float:
        """Measure the throughput of one thread on random pixels."""
        images = random_images(self.runner.device.batch, self.info.size)
        self.runner.run_batch(images, ["features"])
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.runner.run_batch(images, ["features"])
            done += len(images)
        return done / (time.perf_counter() - start)

    def _probe(self) -> float:
        """Check the outputs for two random images; return the seconds that one image took."""
        info = self.info
        images = random_images(2, info.size)
        names = ["features", "feature_map"] if info.grid else ["features"]
        features, *maps = self.runner.run_batch(images, names)
        if features.shape != (2, info.width):
            raise BackboneError(
                f"{self.path}: features of two images have shape {features.shape}, "
                f"not (2, {info.width})"
            )
        if not np.isfinite(features).all():
            raise BackboneError(
                f"{self.path}: features of random images are not finite; "
                "the file is damaged or badly converted"
            )
        allowed = tolerance(self.runner) * max(1.0, float(np.abs(features).max()))
        start = time.perf_counter()
        alone = self.runner.run_batch(images[1:], ["features"])[0]
        seconds = time.perf_counter() - start
        if np.abs(alone - features[1:]).max() > allowed:
            raise BackboneError(
                f"{self.path}: an image's features depend on the others in its batch "
                "(as with dynamic quantisation); use the file with float32 weights"
            )
        for feature_map in maps:
            gap = float(np.abs(feature_map.mean(axis=(2, 3)) - features).max())
            if feature_map.shape != (2, info.width, *(info.grid or ())) or not gap <= allowed:
                raise BackboneError(
                    f"{self.path}: features are not the average of feature_map (largest difference "
                    f"{gap:.3g}); leave feature_map out when pooling is anything but an average"
                )
        return self._shared_seconds() if self.runner.device.loads_ahead else seconds

    def _shared_seconds(self) -> float:
        """Return the time of one image of a large batch, in seconds of all cores together."""
        images = random_images(self.runner.device.batch, self.info.size)
        start = time.perf_counter()
        self.runner.run_batch(images, ["features"])
        return (time.perf_counter() - start) / len(images) * parallel.cores()


def random_images(count: int, size: int) -> npt.NDArray[np.uint8]:
    """Return the same noise in every call, uint8 (count, size, size, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    ]


def _kind(value: onnx.ValueInfoProto) -> str:
    """Return the element type by ONNX's name in lower case; float32 is `float`."""
    import onnx

    return str(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are not weights."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initialisers]


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    """Yield every way in which the graph's signature breaks the contract."""
    inputs = _inputs(model)
    outputs = {value.name: value for value in model.graph.output}
    if [value.name for value in inputs] != ["images"]:
        described = onnx_files.describe(inputs)
        yield f"it must have the single input 'images'; it has: {described}"
    else:
        yield from _input_problems(inputs[0])
    if "features" not in outputs:
        described = onnx_files.describe(model.graph.output)
        yield f"it must have an output 'features'; it has: {described}"
    for name, shape in (("features", "(N, K)"), ("feature_map", "(N, K, h, w)")):
        if name in outputs:
            yield from _output_problems(outputs[name], shape)
    if {"features", "feature_map"} <= outputs.keys():
        one, other = (_shape(outputs[name])[1:2] for name in ("features", "feature_map"))
        if one != other:
            yield f"features and feature_map disagree on K: {one} and {other}"
    opset = onnx_files.standard_opset(model)
    if opset < LEAST_OPSET:
        yield (
            f"it is written in operator set {opset}; at least {LEAST_OPSET} is needed: "
            "export it again"
        )


def _input_problems(images: onnx.ValueInfoProto) -> Iterator[str]:
    if _kind(images) != "uint8":
        yield f"input images must be uint8; it is {_kind(images)}"
    shape = _shape(images)
    size = shape[1] if len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3 else None
    if not isinstance(size, int) or not 8 <= size <= 2048:
        yield (
            "input images must have shape (N, S, S, 3) with a fixed S of 8 to 2048; "
            f"it has {tuple(shape)}"
        )
    elif isinstance(shape[0], int):
        yield f"the batch axis of images must be symbolic; it is fixed at {shape[0]}"


def _output_problems(output: onnx.ValueInfoProto, expected: str) -> Iterator[str]:
    if _kind(output) != "float":
        yield f"output {output.name} must be float32; it is {_kind(output)}"
    shape = _shape(output)
    fixed = all(isinstance(side, int) and side > 0 for side in shape[1:])
    if len(shape) != expected.count(",") + 1 or not fixed:
        yield (
            f"output {output.name} must have shape {expected} with all but N fixed; "
            f"it has {tuple(shape)}"
        )


def check(model: onnx.ModelProto, path: Path) -> BackboneInfo:
    """Compare a graph's signature with the contract and return the facts of the file.

    Raises:
        BackboneError: Names everything that is wrong.
    """
    found = list(_problems(model))
    if found:
        raise BackboneError(f"{path} is not a backbone: " + "; ".join(found))
    outputs = {value.name: _shape(value) for value in model.graph.output}
    (images,) = _inputs(model)
    grid = None
    if "feature_map" in outputs:
        height, width = outputs["feature_map"][2:]
        grid = (int(height), int(width))
    stated = onnx_files.metadata(model)
    return BackboneInfo(
        name=stated.get("name") or path.name.removesuffix(".onnx").removesuffix(".backbone"),
        path=path,
        sha256=sha256_file(path),
        file_bytes=path.stat().st_size,
        rule=_rule(stated, int(_shape(images)[1]), path),
        width=int(outputs["features"][1]),
        grid=grid,
        licence=stated.get("licence") or "not stated",
        source=stated.get("source") or "not stated",
        trained_on=stated.get("trained_on") or "not stated",
        pooling=stated.get("pooling") or ("mean" if grid else "not stated"),
    )


def rule_entry(rule: ResizeRule) -> dict[str, str]:
    """Return the metadata entry of a resize rule; none for the default."""
    return {} if rule.squashes else {RULE: json.dumps(rule.as_dict(), sort_keys=True)}


def _rule(stated: Mapping[str, str], size: int, path: Path) -> ResizeRule:
    """Return the resize rule that a file's metadata state. Raises BackboneError."""
    if RULE not in stated:
        return ResizeRule(size)
    try:
        rule = ResizeRule.from_dict(json.loads(stated[RULE]))
    except (ValueError, RecursionError, InputError) as problem:
        raise BackboneError(
            f"{path}: the metadata entry {RULE!r} cannot be used ({problem}): pull it again"
        ) from None
    if rule.size != size:
        raise BackboneError(
            f"{path} takes images of {size} px, but its metadata entry {RULE!r} makes them of "
            f"{rule.size} px: pull it again"
        )
    return rule
