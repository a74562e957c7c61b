"""A quantiser that spoils the network, for tests of what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tailorbird.quantization import quantise


def damaging(*arguments: Any, **options: Any) -> onnx.ModelProto:
    """Quantise, and forget the weights of the second convolution: all features are the same."""
    graph = quantise(*arguments, **options)
    weights = [t for t in graph.graph.initializer if t.data_type == t.INT8 and len(t.dims) == 4]
    weights[1].CopyFrom(
        numpy_helper.from_array(np.zeros(tuple(weights[1].dims), np.int8), weights[1].name)
    )
    return graph
