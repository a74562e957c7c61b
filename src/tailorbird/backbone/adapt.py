"""Turn a published image network (ONNX) into a tailorbird backbone by editing its graph.

No training framework is involved. The result is run beside the published network, fed with pixels
prepared in NumPy, and refused unless both agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone import feature_output, preprocessor, published
from tailorbird.backbone.assembly import assemble
from tailorbird.backbone.feature_output import FeatureOutput
from tailorbird.backbone.preprocessor import Preprocessing
from tailorbird.backbone.published import PixelInput
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.inference import Runner, first_line

if TYPE_CHECKING:
    import onnx

ADAPTER = 1
"""Version of the adaptation; increase it when results change, so that older files are remade."""

AGREEMENT = 1e-4
"""Largest difference from the published network, relative to its largest feature."""

AGREEMENT_REDUCED = 2e-2
"""The same for float16 and quantised networks, where rounding can change a value by a step."""


def adapt(
    model_path: str | Path,
    image_processor: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    size: int | None = None,
    about: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Turn an image network as published on the Hugging Face hub into a backbone.

    Args:
        model_path: The network.
        image_processor: Content of preprocessor_config.json.
        config: Content of config.json, if the repository has one.
        size: Side of the square input in pixels; None for the publisher's.
        about: Metadata: name, source, licence, trained_on, ...

    Returns:
        A graph that keeps the contract of `backbone.contract`.

    Raises:
        BackboneError: The network is not supported (the message says what was seen), or the result
            disagrees with it.
        SettingsError: `size` cannot be used.
    """
    path, config = Path(model_path), config or {}
    model = published.load(path)
    pixel = published.pixel_input(model)
    prepared = preprocessor.read(image_processor, config, size=size, fixed=pixel.fixed)
    patch = feature_output.patch_side(model, config)
    if size is not None and patch is not None and size % patch:
        lower = max(size // patch, 1) * patch
        raise SettingsError(
            f"size = {size}; the network cuts images into patches of {patch} pixels: "
            f"give {lower} or {lower + patch}"
        )
    images = _test_images(prepared.side)
    expected, halves = _run_published(model, pixel, prepared, images, path.name)
    shapes = {name: value.shape for name, value in expected.items()}
    chosen = feature_output.choose(model, shapes, config, prepared.side)
    half = halves[chosen.tensor]
    quantised = any(
        "Quant" in node.op_type or "Integer" in node.op_type for node in model.graph.node
    )
    allowed = AGREEMENT_REDUCED if pixel.half or half or quantised else AGREEMENT
    result = assemble(model, pixel, prepared, chosen, half=half)
    facts = _facts(prepared, chosen) | {
        "preprocessor": json.dumps(dict(image_processor), sort_keys=True)
    }
    onnx_files.set_metadata(result, {**facts, **(about or {})})
    _verify(result, images, _features(expected[chosen.tensor], chosen), path.name, allowed)
    return result


def _facts(prepared: Preprocessing, chosen: FeatureOutput) -> dict[str, str]:
    """Return metadata that say how the backbone was made."""
    side, plural = prepared.side, "s" * (chosen.prefix > 1)
    left_out = f" behind {chosen.prefix} prefix token{plural}" if chosen.prefix else ""
    return {
        "input": f"uint8 RGB (N,{side},{side},3)",
        "pooling": chosen.pooling,
        "features_from": f"{chosen.tensor} ({chosen.kind}{left_out})",
        "resize": f"squashed to {side} x {side} by tailorbird's resize rule; the publisher's: "
        f"{prepared.published_resize}",
        "adapter": str(ADAPTER),
    }


def _test_images(side: int) -> npt.NDArray[np.uint8]:
    """Return three different images, uint8 (3, S, S, 3): noise, a dim gradient, faint noise."""
    random = np.random.default_rng(20)
    ramp = np.linspace(0, 90, side)[:, None] + np.linspace(0, 40, side)[None, :]
    gradient = np.stack([ramp, ramp.T, ramp[::-1]], axis=-1)
    noise = random.integers(0, 256, (side, side, 3))
    return np.stack([noise, gradient, 255 - noise // 10]).astype(np.uint8)


def _run_published(
    model: onnx.ModelProto,
    pixel: PixelInput,
    prepared: Preprocessing,
    images: npt.NDArray[np.uint8],
    name: str,
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, bool]]:
    """Run the network as published on pixels prepared in NumPy.

    Returns:
        Its outputs and the tensors inside a classifier, as float32, and which of them are float16.
    """
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = [value.name for value in model.graph.output]
    inner = {
        tensor for output in wanted for tensor in feature_output.classifier_tensors(model, output)
    } - {*wanted, pixel.name}
    probe.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in sorted(inner))
    _forget_shapes(probe, pixel)
    pixels: npt.NDArray[Any] = prepared.pixels(images)
    if pixel.channels_last:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    if pixel.half:
        pixels = pixels.astype(np.float16)
    try:
        runner = Runner(probe, name, BackboneError)
    except BackboneError as problem:
        newer = "opset" in str(problem).lower() or "ir version" in str(problem).lower()
        advice = "pip install --upgrade onnxruntime" if newer else published.OTHER_FILE
        raise BackboneError(f"{problem}; {advice}") from None
    del probe  # as large as the network
    try:
        outputs = runner.run_batch(pixels)
    except BackboneError as problem:
        try:
            runner.run_batch(pixels[:1])
        except BackboneError:
            raise BackboneError(
                f"{problem}; if another size is fixed inside, give that as `size`, "
                "or leave `size` out for the publisher's"
            ) from None
        raise BackboneError(
            f"{name} runs on one image at a time only, a batch of 1 is fixed inside; "
            f"{published.OTHER_FILE}"
        ) from None
    named = dict(zip(runner.outputs, outputs, strict=True))
    arrays = {key: value for key, value in named.items() if isinstance(value, np.ndarray)}
    if len(arrays) < len(named):
        raise BackboneError(
            f"{name} has outputs that are not arrays: "
            f"{', '.join(sorted(set(named) - set(arrays)))}; {feature_output.SUPPORTED}"
        )
    halves = {key: value.dtype == np.float16 for key, value in arrays.items()}
    return {key: value.astype(np.float32) for key, value in arrays.items()}, halves


def _forget_shapes(model: onnx.ModelProto, pixel: PixelInput) -> None:
    """Remove the shapes that the exporter noted; the runtime infers its own.

    They may fix the batch or state sizes that no longer hold.
    """
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.Clear()
    for value in model.graph.input:
        if value.name == pixel.name and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()


def _features(values: npt.NDArray[np.float32], chosen: FeatureOutput) -> npt.NDArray[np.float32]:
    """Return the features (N, K) of the chosen tensor, computed in NumPy."""
    if chosen.kind == "tokens":
        values = values[:, chosen.prefix : chosen.prefix + chosen.grid**2].mean(axis=1)
    elif chosen.kind == "map":
        values = values.mean(axis=(2, 3))
    elif chosen.kind == "map channels last":
        values = values.mean(axis=(1, 2))
    return values.reshape(len(values), chosen.width)


def _verify(
    result: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.float32],
    name: str,
    allowed: float,
) -> None:
    """Check the finished backbone and compare it with the published features (N, K).

    Raises:
        BackboneError: They disagree by more than `allowed`.
    """
    import onnx

    data = result.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except Exception as problem:  # ValidationError and InferenceError share no base class
        raise BackboneError(
            f"{name} does not pass ONNX's own checker: {first_line(problem)}; "
            f"{published.OTHER_FILE}"
        ) from None
    runner = Runner(data, name, BackboneError)
    outputs = dict(zip(runner.outputs, runner.run_batch(images), strict=True))
    features = outputs["features"]
    if not np.isfinite(features).all() or not np.isfinite(reference).all():
        raise BackboneError(
            f"{name} gives features that are not finite on test images; {published.OTHER_FILE}"
        )
    unit = max(float(np.abs(reference).max()), 1e-6)
    alone = np.concatenate([runner.run_batch(image[None], ["features"])[0] for image in images])
    gaps = {
        "the published network": float(np.abs(features - reference).max()) / unit,
        "itself when images come one by one instead of together": float(
            np.abs(features - alone).max()
        )
        / unit,
    }
    if "feature_map" in outputs:
        gaps["the mean of its own feature map"] = (
            float(np.abs(features - outputs["feature_map"].mean(axis=(2, 3))).max()) / unit
        )
    wrong = [
        f"{other} (largest difference {gap:.3g} of the largest feature)"
        for other, gap in gaps.items()
        if not gap <= allowed
    ]
    if wrong:
        raise BackboneError(
            f"the backbone made from {name} disagrees with {' and '.join(wrong)}; {allowed:g} is "
            f"allowed; {published.OTHER_FILE}"
        )
