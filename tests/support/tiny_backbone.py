"""A backbone of one convolution, for tests of the contract and of what is built on it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny(
    *,
    size: int = 16,
    image_shape: list[str | int | None] | None = None,
    image_type: int = TensorProto.UINT8,
    input_name: str = "images",
    features_name: str = "features",
    features_shape: list[str | int | None] | None = None,
    map_shape: list[str | int | None] | None = None,
    pool: str = "GlobalAveragePool",
    with_map: bool = True,
    opset: int = 17,
    weight: float = 1.0,
) -> onnx.ModelProto:
    """A backbone of one convolution with 6 features; arguments break the contract one way each."""
    weights = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32) * np.float32(
        weight
    )
    nodes = [
        helper.make_node("Transpose", [input_name], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(
            "Conv", ["float", "weight"], ["conv"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Relu", ["conv"], ["feature_map"]),
        helper.make_node(pool, ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], [features_name]),
    ]
    side = size // 4
    outputs = [
        helper.make_tensor_value_info(features_name, TensorProto.FLOAT, features_shape or ["N", 6])
    ]
    if with_map:
        outputs.append(
            helper.make_tensor_value_info(
                "feature_map", TensorProto.FLOAT, map_shape or ["N", 6, side, side]
            )
        )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                input_name, image_type, image_shape or ["N", size, size, 3]
            )
        ],
        outputs,
        [numpy_helper.from_array(weights, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(
        model,
        {
            "name": "tiny",
            "licence": "CC0",
            "source": "drawn",
            "trained_on": "nothing",
            "pooling": "mean",
        },
    )
    return model
