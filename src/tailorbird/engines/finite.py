"""Find NaN and infinity where they arise: in activations, weights and optimiser state.

A finite loss proves nothing. ReLU is computed as max(x, 0), and some processors return 0 for
max(NaN, 0): a damaged weight or activation then changes the answers and not the loss. These checks
look at the values themselves, so their result does not depend on the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


def non_finite(arrays: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Return the names of the floating-point arrays that hold NaN or infinity."""
    return [
        name
        for name, values in arrays.items()
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all()
    ]


def non_finite_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of an ONNX graph's float initialisers that hold NaN or infinity.

    A single infinite number is allowed: it is a valid limit of Clip.
    """
    from onnx import TensorProto, numpy_helper

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in kinds
    }
    return [
        name for name in non_finite(found) if found[name].size > 1 or np.isnan(found[name]).any()
    ]


def listed(names: list[str]) -> str:
    """Return the first name, quoted, and how many follow: "'a' and 2 more"."""
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
