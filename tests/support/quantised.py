"""A quantiser that spoils the network, for tests of what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tailorbird.quantization import quantise


def damaging(*arguments: Any, **options: Any) -> onnx.ModelProto:
    """Quantise, and set all int8 weights of convolutions to 0: all features are the same."""
    graph = quantise(*arguments, **options)
    for tensor in graph.graph.initializer:
        if tensor.data_type == tensor.INT8 and len(tensor.dims) == 4:
            zeros = np.zeros(tuple(tensor.dims), np.int8)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return graph
