"""Small image networks in the shapes in which others publish theirs, drawn with onnx.helper:
random weights, real structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGENET = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


class Drawing:
    """A graph under construction: `add` appends a node and returns its output's name."""

    def __init__(self, *, half: bool = False, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        self.kind = np.float16 if half else np.float32
        self.onnx_kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        return self.constant(self.random.normal(0, scale, shape).astype(self.kind))

    def constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def model(
        self,
        outputs: dict[str, list[Any]],
        *,
        shape: list[Any] | None = None,
        opset: int = 17,
        **more: Any,
    ) -> onnx.ModelProto:
        pixels = helper.make_tensor_value_info(
            more.pop("name", "pixel_values"),
            self.onnx_kind,
            shape or ["batch_size", "num_channels", "height", "width"],
        )
        announced = [
            helper.make_tensor_value_info(name, self.onnx_kind, axes)
            for name, axes in outputs.items()
        ]
        extra = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "s"])
            for name in more.pop("extra_inputs", [])
        ]
        graph = helper.make_graph(
            self.nodes, "published", [*extra, pixels], announced, self.weights
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), *more.pop("opsets", [])],
            ir_version=8,
        )


def convolutional(
    *, channels: int = 6, half: bool = False, logits: int = 0, both: bool = True, **more: Any
) -> onnx.ModelProto:
    """A ResNet's form: stem and one block; last_hidden_state (N, C, h/4, w/4), pooler_output (N,
    C, 1, 1); or logits only."""
    d = Drawing(half=half)
    x = d.add(
        "Conv",
        more.get("name", "pixel_values"),
        d.weight(4, 3, 3, 3),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    x = d.add("Relu", x)
    x = d.add("Conv", x, d.weight(channels, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    x = d.add("Relu", x, out="last_hidden_state" if not logits else None)
    pooled = d.add("GlobalAveragePool", x, out="pooler_output" if not logits else None)
    if logits:
        flat = d.add("Flatten", pooled, axis=1)
        d.add("Gemm", flat, d.weight(logits, channels), d.weight(logits), out="logits", transB=1)
        return d.model({"logits": ["batch_size", logits]}, **more)
    outputs: dict[str, list[Any]] = {"last_hidden_state": ["batch_size", channels, "h", "w"]}
    if both:
        outputs["pooler_output"] = ["batch_size", channels, 1, 1]
    return d.model(outputs, **more)


def transformer(
    *,
    side: int | None = 32,
    patch: int = 8,
    width: int = 12,
    registers: int = 0,
    half: bool = False,
    interpolated: bool = False,
    head: str = "last_hidden_state",
    **more: Any,
) -> onnx.ModelProto:
    """A ViT's form: patch convolution, class and register tokens, position embedding, one attention
    layer, normalisation.

    side: pixels the position embedding is for; None: no position embedding, any side. interpolated:
    the graph resizes the position embedding to the image's own number of patches, as DINOv2's does.
    head: last_hidden_state, image_embeds (class token projected, as CLIP), or logits (class token
    classified).
    """
    d = Drawing(half=half)
    prefix = 1 + registers
    x = patches = d.add(
        "Conv",
        more.get("name", "pixel_values"),
        d.weight(width, 3, patch, patch, scale=0.1),
        strides=[patch, patch],
    )
    x = d.add("Reshape", x, d.constant(np.array([0, width, -1], np.int64)))
    x = d.add("Transpose", x, perm=[0, 2, 1])
    count = d.add("Shape", x)
    batch = d.add("Slice", count, d.constant(np.array([0])), d.constant(np.array([1])))
    tail = d.constant(np.array([prefix, width], np.int64))
    tokens = d.add("Expand", d.weight(1, prefix, width), d.add("Concat", batch, tail, axis=0))
    x = d.add("Concat", tokens, x, axis=1)
    if side is not None and interpolated:
        positions = d.weight(1, width, side // patch, side // patch)
        grid = d.add(
            "Slice", d.add("Shape", patches), d.constant(np.array([2])), d.constant(np.array([4]))
        )
        grid = d.add("Concat", d.constant(np.array([1, width], np.int64)), grid, axis=0)
        positions = d.add(
            "Resize",
            positions,
            "",
            "",
            grid,
            mode="cubic",
            coordinate_transformation_mode="half_pixel",
            cubic_coeff_a=-0.75,
        )
        positions = d.add(
            "Transpose",
            d.add("Reshape", positions, d.constant(np.array([1, width, -1], np.int64))),
            perm=[0, 2, 1],
        )
        x = d.add("Add", x, d.add("Concat", d.weight(1, prefix, width), positions, axis=1))
    elif side is not None:
        x = d.add("Add", x, d.weight(1, (side // patch) ** 2 + prefix, width))
    query, key, value = (d.add("MatMul", x, d.weight(width, width)) for _ in range(3))
    scores = d.add(
        "Softmax", d.add("MatMul", query, d.add("Transpose", key, perm=[0, 2, 1])), axis=-1
    )
    x = d.add("Add", x, d.add("MatMul", scores, value))
    x = d.add(
        "LayerNormalization", x, d.weight(width), d.weight(width), axis=-1, out="last_hidden_state"
    )
    if head == "last_hidden_state":
        return d.model({head: ["batch_size", "sequence_length", width]}, **more)
    first = d.add("Gather", x, d.constant(np.array(0, np.int64)), axis=1)
    if head == "image_embeds":
        d.add("MatMul", first, d.weight(width, 5), out=head)
        return d.model(
            {
                head: ["batch_size", 5],
                "last_hidden_state": ["batch_size", "sequence_length", width],
            },
            **more,
        )
    d.add("Gemm", first, d.weight(7, width), d.weight(7), transB=1, out="logits")
    return d.model({"logits": ["batch_size", 7]}, **more)


def pyramid(*, width: int = 10, channels_last: bool = False) -> onnx.ModelProto:
    """Swin's form: patches of 4 pixels, merged twice; last_hidden_state (N, h * w, C) without
    prefix tokens, or (N, h, w, C)."""
    d = Drawing()
    x = d.add("Conv", "pixel_values", d.weight(6, 3, 4, 4, scale=0.1), strides=[4, 4])
    x = d.add("Conv", x, d.weight(width, 6, 2, 2), strides=[2, 2])
    if channels_last:
        d.add("Transpose", x, perm=[0, 2, 3, 1], out="last_hidden_state")
        return d.model({"last_hidden_state": ["batch_size", "h", "w", width]})
    x = d.add("Reshape", x, d.constant(np.array([0, width, -1], np.int64)))
    d.add("Transpose", x, perm=[0, 2, 1], out="last_hidden_state")
    return d.model({"last_hidden_state": ["batch_size", "sequence_length", width]})


def with_external_data(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Save with the weights in `<name>_data` beside."""
    onnx.save(
        model, folder / name, save_as_external_data=True, location=f"{name}_data", size_threshold=0
    )
    return folder / name
