"""A published image network (ONNX) to a tailorbird backbone, by editing the graph; no training framework is involved.

In front: uint8 RGB pixels, the published rescaling and normalisation. Behind: `features`, and `feature_map` where features are
an average over positions. Parts the features do not need, such as a classifier, are left out. The result is run beside the
published network, fed with pixels prepared in NumPy, and refused unless both agree.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone import preprocessor as processors
from tailorbird.backbone import published, taps
from tailorbird.backbone.preprocessor import Preprocessing
from tailorbird.backbone.published import PixelInput
from tailorbird.backbone.taps import Tap
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.inference import Runner, first_line

if TYPE_CHECKING:
    import onnx

ADAPTER = 1
"""Raised when adapting the same file would give another result; older results are then made anew."""

AGREEMENT = 1e-4
"""Largest difference from the published network, relative to its largest feature."""

AGREEMENT_REDUCED = 2e-2
"""The same for float16 and quantised networks, where a rounding error in the last place of a pixel can move a whole step."""

_OURS = ("images", "features", "feature_map")


def adapt(
    model_path: str | Path,
    preprocessor: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    size: int | None = None,
    about: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Turn an image network as published on the Hugging Face hub into a backbone.

    preprocessor: the contents of preprocessor_config.json. config: of config.json, where the repository has one.
    size: the side of the square input in pixels; by default the publisher's. about: metadata (name, source, licence, trained_on, ...).

    The result has input `images` uint8 (N, S, S, 3) RGB and outputs `features` float32 (N, K) and, where possible, `feature_map`
    float32 (N, K, h, w) with features = mean of feature_map.

    Raises BackboneError for what is not understood (saying what was seen and what would be) and when the result disagrees with the
    published network; SettingsError when `size` cannot be used.
    """
    path, config = Path(model_path), config or {}
    model = published.load(path)
    pixel = published.pixel_input(model)
    prepared = processors.read(preprocessor, config, size=size, fixed=pixel.fixed)
    patch = taps.patch_side(model, config)
    if size is not None and patch is not None and size % patch:
        lower = max(size // patch, 1) * patch
        raise SettingsError(
            f"size = {size}; the network cuts images into patches of {patch} pixels: give {lower} or {lower + patch}"
        )

    images = _test_images(prepared.side)
    expected, halves = _run_published(model, pixel, prepared, images, path.name)
    tap = taps.choose(
        model, {name: value.shape for name, value in expected.items()}, config, prepared.side
    )
    reduced = (
        pixel.half
        or halves[tap.tensor]
        or any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node)
    )

    result = _rebuilt(model, pixel, prepared, tap, half=halves[tap.tensor])
    side, left_out = (
        prepared.side,
        f" behind {tap.prefix} prefix token{'s' * (tap.prefix > 1)}" if tap.prefix else "",
    )
    how = {
        "input": f"uint8 RGB (N,{side},{side},3)",
        "pooling": tap.pooling,
        "features_from": f"{tap.tensor} ({tap.kind}{left_out})",
        "resize": f"squashed to {side} x {side} by tailorbird's resize rule; the publisher's: {prepared.published_resize}",
        "preprocessor": json.dumps(dict(preprocessor), sort_keys=True),
        "adapter": str(ADAPTER),
    }
    onnx_files.set_metadata(result, {**how, **(about or {})})
    _verify(
        result,
        images,
        _reference(expected[tap.tensor], tap),
        path.name,
        AGREEMENT_REDUCED if reduced else AGREEMENT,
    )
    return result


def _test_images(side: int) -> npt.NDArray[np.uint8]:
    """Three images unlike each other, uint8 (3, S, S, 3): noise, a dim gradient with different channels, faint noise on white."""
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
    """Run the network as published on pixels prepared in NumPy: its outputs and a classifier's input, as float32, and which are float16."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = [value.name for value in model.graph.output]
    inner = {tensor for output in wanted for tensor in taps.classifier_tensors(model, output)} - {
        *wanted,
        pixel.name,
    }
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
            f"{name} has outputs that are no arrays: {', '.join(sorted(set(named) - set(arrays)))}; {taps.UNDERSTOOD}"
        )
    halves = {key: value.dtype == np.float16 for key, value in arrays.items()}
    return {key: value.astype(np.float32) for key, value in arrays.items()}, halves


def _forget_shapes(model: onnx.ModelProto, pixel: PixelInput) -> None:
    """Drop the shapes the exporter noted: they may fix the batch or name sizes that no longer hold; the runtime infers its own."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.Clear()
    for value in model.graph.input:
        if value.name == pixel.name and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()


def _reference(values: npt.NDArray[np.float32], tap: Tap) -> npt.NDArray[np.float32]:
    """The features (N, K) that the tapped tensor means, computed in NumPy."""
    if tap.kind == "tokens":
        values = values[:, tap.prefix : tap.prefix + tap.grid**2].mean(axis=1)
    elif tap.kind == "map":
        values = values.mean(axis=(2, 3))
    elif tap.kind == "map channels last":
        values = values.mean(axis=(1, 2))
    return values.reshape(len(values), tap.width)


def _rebuilt(
    model: onnx.ModelProto, pixel: PixelInput, prepared: Preprocessing, tap: Tap, *, half: bool
) -> onnx.ModelProto:
    """The backbone: our nodes in front of the published ones and behind them, what is not needed left out. `model` is used up."""
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    names = _rename_clashes(graph)
    source, tapped = names.get(pixel.name, pixel.name), names.get(tap.tensor, tap.tensor)
    front, front_weights = _front(pixel, prepared, _unused_prefix(graph), source)
    back, back_weights = _back(tap, _unused_prefix(graph), tapped, half=half)
    needed, weights = _needed(graph, tapped)

    weights = [*front_weights, *weights, *back_weights]
    nodes = [*front, *needed, *back]
    sparse = list(graph.sparse_initializer)
    side = prepared.side
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", tap.width])]
    if tap.kind != "pooled":
        outputs.append(
            helper.make_tensor_value_info(
                "feature_map", TensorProto.FLOAT, ["N", tap.width, tap.grid, tap.grid]
            )
        )
    made = helper.make_graph(
        nodes, "backbone", [images], outputs, weights, sparse_initializer=sparse
    )
    opsets = [entry for entry in model.opset_import if entry.domain in onnx_files.STANDARD_DOMAINS]
    # Before IR version 4 every initialiser had to be an input too; ours are not.
    finished = helper.make_model(
        made, opset_imports=opsets, ir_version=max(model.ir_version, 4), producer_name="tailorbird"
    )
    # The shapes inside only help people who look at the file; the runtime infers its own.
    with contextlib.suppress(Exception):
        finished = onnx.shape_inference.infer_shapes(finished)
    return finished


def _rename_clashes(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename tensors that have the names of the backbone's own input and outputs, everywhere; what was renamed to what."""
    taken = _names(graph)
    renamed = {}
    for name in taken.intersection(_OURS):
        new = f"published/{name}"
        while new in taken:
            new += "_"
        renamed[name] = new
    if renamed:
        for inner in onnx_files.all_graphs(graph):
            for node in inner.node:
                node.input[:] = [renamed.get(name, name) for name in node.input]
                node.output[:] = [renamed.get(name, name) for name in node.output]
            for value in [
                *inner.input,
                *inner.output,
                *inner.initializer,
                *(sparse.values for sparse in inner.sparse_initializer),
            ]:
                value.name = renamed.get(value.name, value.name)
    return renamed


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name a tensor or node has in the graph and in the graphs inside it."""
    found: set[str] = set()
    for inner in onnx_files.all_graphs(graph):
        found.update(value.name for value in [*inner.input, *inner.output, *inner.initializer])
        found.update(sparse.values.name for sparse in inner.sparse_initializer)
        for node in inner.node:
            found.update([node.name, *node.input, *node.output])
    return found


def _unused_prefix(graph: onnx.GraphProto) -> str:
    """The beginning of our own tensors' names, which no name in the graph has."""
    prefix = "tailorbird/"
    while any(name.startswith(prefix) for name in _names(graph)):
        prefix = f"tailorbird_{prefix}"
    return prefix


def _front(
    pixel: PixelInput, prepared: Preprocessing, prefix: str, target: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From `images` uint8 (N, S, S, 3) RGB to the published network's own input."""
    from onnx import TensorProto, helper, numpy_helper

    scale, offset = prepared.affine()
    layout = (3,) if pixel.channels_last else (3, 1, 1)
    weights = [
        numpy_helper.from_array(scale.reshape(layout), f"{prefix}scale"),
        numpy_helper.from_array(offset.reshape(layout), f"{prefix}offset"),
    ]
    nodes, last = [], "images"
    if prepared.bgr:
        weights.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), f"{prefix}bgr"))
        nodes.append(
            helper.make_node("Gather", [last, f"{prefix}bgr"], [f"{prefix}images_bgr"], axis=3)
        )
        last = f"{prefix}images_bgr"
    if not pixel.channels_last:
        # Transposed while a value is one byte, not four.
        nodes.append(
            helper.make_node("Transpose", [last], [f"{prefix}channels_first"], perm=[0, 3, 1, 2])
        )
        last = f"{prefix}channels_first"
    normalised = f"{prefix}normalised" if pixel.half else target
    nodes += [
        helper.make_node("Cast", [last], [f"{prefix}float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{prefix}float", f"{prefix}scale"], [f"{prefix}scaled"]),
        helper.make_node("Add", [f"{prefix}scaled", f"{prefix}offset"], [normalised]),
    ]
    if pixel.half:
        nodes.append(helper.make_node("Cast", [normalised], [target], to=TensorProto.FLOAT16))
    return nodes, weights


def _back(
    tap: Tap, prefix: str, tapped: str, *, half: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From the tapped tensor to `features` and, unless it is pooled already, `feature_map`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = tapped
    if half:
        nodes.append(helper.make_node("Cast", [last], [f"{prefix}tapped"], to=TensorProto.FLOAT))
        last = f"{prefix}tapped"
    if tap.kind == "pooled":
        return [*nodes, helper.make_node("Flatten", [last], ["features"], axis=1)], weights
    if tap.kind == "tokens":
        for key, values in (
            ("first", [tap.prefix]),
            ("end", [tap.prefix + tap.grid**2]),
            ("axis", [1]),
            ("shape", [0, tap.width, tap.grid, tap.grid]),  # 0: as many images as there are
        ):
            weights.append(numpy_helper.from_array(np.array(values, np.int64), f"{prefix}{key}"))
        nodes += [
            helper.make_node(
                "Slice",
                [last, f"{prefix}first", f"{prefix}end", f"{prefix}axis"],
                [f"{prefix}patches"],
            ),
            helper.make_node(
                "Transpose", [f"{prefix}patches"], [f"{prefix}patches_last"], perm=[0, 2, 1]
            ),
            helper.make_node(
                "Reshape", [f"{prefix}patches_last", f"{prefix}shape"], ["feature_map"]
            ),
        ]
    elif tap.kind == "map channels last":
        nodes.append(helper.make_node("Transpose", [last], ["feature_map"], perm=[0, 3, 1, 2]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["feature_map"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["feature_map"], [f"{prefix}average"]),
        helper.make_node("Flatten", [f"{prefix}average"], ["features"], axis=1),
    ]
    return nodes, weights


def _needed(
    graph: onnx.GraphProto, tensor: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes `tensor` depends on, in their order, and the weights they use."""
    wanted, nodes = {tensor}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
            for inner in onnx_files.inner_graphs(
                node
            ):  # an inner graph may use any tensor of this one
                wanted.update(name for deeper in inner.node for name in deeper.input)
                wanted.update(value.name for value in inner.output)
    return nodes[::-1], [weight for weight in graph.initializer if weight.name in wanted]


def _verify(
    result: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.float32],
    name: str,
    allowed: float,
) -> None:
    """Check the finished backbone and compare it with the published network. Raises BackboneError with the numbers."""
    import onnx

    data = result.SerializeToString()
    try:
        onnx.checker.check_model(data, full_check=True)
    except Exception as problem:  # ValidationError and InferenceError share no base class
        raise BackboneError(
            f"{name} does not pass ONNX's own checker: {first_line(problem)}; {published.OTHER_FILE}"
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
            f"the backbone made from {name} disagrees with {' and '.join(wrong)}; {allowed:g} is allowed; {published.OTHER_FILE}"
        )
