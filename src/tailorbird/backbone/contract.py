"""A backbone: an ONNX file that turns images into features.

    input   images       uint8    (N, S, S, 3)   RGB, 0 to 255, at the backbone's own size S
    output  features     float32  (N, K)
    output  feature_map  float32  (N, K, h, w)   where pooling is an average: features = mean over h and w of feature_map

Metadata: name, source, licence, trained_on, pooling. Normalisation is inside the graph.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.errors import BackboneError
from tailorbird.files import sha256_file
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner

if TYPE_CHECKING:
    import onnx

Features = npt.NDArray[np.float32]
"""float32 (N, K)."""

LEAST_OPSET = 11


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone file says of itself. `grid` is (h, w) of its feature map, None when it has none."""

    name: str
    path: Path
    sha256: str
    file_bytes: int
    size: int
    width: int
    grid: tuple[int, int] | None
    licence: str
    source: str
    trained_on: str
    pooling: str

    @property
    def rule(self) -> ResizeRule:
        """How pictures are resized for it."""
        return ResizeRule(self.size)

    def as_dict(self) -> dict[str, object]:
        """For the model file's metadata and `backbones --json`."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "input_size": self.size,
            "features": self.width,
            "grid": list(self.grid) if self.grid else None,
            "licence": self.licence,
            "source": self.source,
            "trained_on": self.trained_on,
            "pooling": self.pooling,
        }


class Backbone:
    """An opened backbone. `features` may be called from several threads at once."""

    def __init__(self, path: str | Path) -> None:
        """Open, audit and check the file, and run it once. Raises BackboneError naming each way the contract is broken."""
        self.path = Path(path)
        self.proto = onnx_files.read_audited(self.path, BackboneError)
        self.info = check(self.proto, self.path)
        self.runner = Runner(self.proto, str(self.path), BackboneError)
        self._probe()

    def features(self, images: npt.NDArray[np.uint8]) -> Features:
        """uint8 (N, S, S, 3) to float32 (N, K)."""
        result: Features = self.runner.run(images, ["features"])[0]
        return result

    def images_per_second(self, *, batch: int = 8, seconds: float = 0.4) -> float:
        """Images per second of one thread, measured now on random pixels."""
        images = np.random.default_rng(0).integers(
            0, 256, (batch, self.info.size, self.info.size, 3), np.uint8
        )
        self.features(images)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.features(images)
            done += batch
        return done / (time.perf_counter() - start)

    def _probe(self) -> None:
        """Run two random images: finite, right shapes, and the average of the map where there is one."""
        info = self.info
        images = np.random.default_rng(0).integers(0, 256, (2, info.size, info.size, 3), np.uint8)
        names = ["features", "feature_map"] if info.grid else ["features"]
        outputs = self.runner.run_batch(images, names)
        features = outputs[0]
        if features.shape != (2, info.width):
            raise BackboneError(
                f"{self.path}: features of two images have shape {features.shape}, not (2, {info.width})"
            )
        if not np.isfinite(features).all():
            raise BackboneError(
                f"{self.path}: features of random images are not finite; the file is damaged or badly converted"
            )
        alone = self.features(images[1:])
        if np.abs(alone - features[1:]).max() > 1e-3 * max(1.0, float(np.abs(features).max())):
            raise BackboneError(
                f"{self.path}: an image's features depend on the others in its batch (as with dynamic quantisation); "
                "use the file with float32 weights"
            )
        if info.grid:
            pooled = outputs[1].mean(axis=(2, 3))
            gap = float(np.abs(pooled - features).max())
            if outputs[1].shape != (2, info.width, *info.grid) or gap > 1e-3 * max(
                1.0, float(np.abs(features).max())
            ):
                raise BackboneError(
                    f"{self.path}: features are not the average of feature_map (largest difference {gap:.3g}); "
                    "leave feature_map out when pooling is anything but an average"
                )


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    ]


def _problems(model: onnx.ModelProto) -> list[str]:
    """Every way the graph's signature breaks the contract, in words."""
    import onnx

    found: list[str] = []
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    outputs = {value.name: value for value in model.graph.output}
    if [value.name for value in inputs] != ["images"]:
        found.append(
            f"it must have the single input 'images'; it has: {onnx_files.describe(inputs)}"
        )
    else:
        shape, kind = _shape(inputs[0]), inputs[0].type.tensor_type.elem_type
        if kind != onnx.TensorProto.UINT8:
            found.append(
                f"input images must be uint8; it is {onnx.TensorProto.DataType.Name(kind).lower()}"
            )
        if (
            len(shape) != 4
            or shape[3] != 3
            or shape[1] != shape[2]
            or not isinstance(shape[1], int)
            or not 8 <= shape[1] <= 2048
        ):
            found.append(
                f"input images must have shape (N, S, S, 3) with a fixed S of 8 to 2048; it has {tuple(shape)}"
            )
        elif isinstance(shape[0], int):
            found.append(f"the batch axis of images must be symbolic; it is fixed at {shape[0]}")
    if "features" not in outputs:
        found.append(
            f"it must have an output 'features'; it has: {onnx_files.describe(model.graph.output)}"
        )
    for name, rank in (("features", 2), ("feature_map", 4)):
        if name in outputs:
            shape, kind = _shape(outputs[name]), outputs[name].type.tensor_type.elem_type
            if kind != onnx.TensorProto.FLOAT:
                found.append(
                    f"output {name} must be float32; it is {onnx.TensorProto.DataType.Name(kind).lower()}"
                )
            if len(shape) != rank or not all(
                isinstance(side, int) and side > 0 for side in shape[1:]
            ):
                expected = "(N, K)" if rank == 2 else "(N, K, h, w)"
                found.append(
                    f"output {name} must have shape {expected} with all but N fixed; it has {tuple(shape)}"
                )
            elif (
                rank == 4
                and "features" in outputs
                and _shape(outputs["features"])[1:] != shape[1:2]
            ):
                found.append(
                    f"features and feature_map disagree on K: {_shape(outputs['features'])[1:]} and {shape[1]}"
                )
    if onnx_files.standard_opset(model) < LEAST_OPSET:
        found.append(
            f"it is written in operator set {onnx_files.standard_opset(model)}; at least {LEAST_OPSET} is needed: export it again"
        )
    return found


def check(model: onnx.ModelProto, path: Path) -> BackboneInfo:
    """Compare a graph's signature with the contract. Raises BackboneError with everything that is wrong."""
    found = _problems(model)
    if found:
        raise BackboneError(f"{path} is not a backbone: " + "; ".join(found))
    outputs = {value.name: value for value in model.graph.output}
    size = (
        next(value for value in model.graph.input if value.name == "images")
        .type.tensor_type.shape.dim[1]
        .dim_value
    )
    grid = None
    if "feature_map" in outputs:
        dimensions = outputs["feature_map"].type.tensor_type.shape.dim
        grid = (dimensions[2].dim_value, dimensions[3].dim_value)
    said = onnx_files.metadata(model)
    return BackboneInfo(
        name=said.get("name") or path.name.removesuffix(".onnx").removesuffix(".backbone"),
        path=path,
        sha256=sha256_file(path),
        file_bytes=path.stat().st_size,
        size=size,
        width=outputs["features"].type.tensor_type.shape.dim[1].dim_value,
        grid=grid,
        licence=said.get("licence") or "not stated",
        source=said.get("source") or "not stated",
        trained_on=said.get("trained_on") or "not stated",
        pooling=said.get("pooling") or ("mean" if grid else "not stated"),
    )
