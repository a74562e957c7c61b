"""Edit the ONNX graph and head of a classifier that was made in any framework.

The graph has the output `features`; N images, F features, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.head import Dense, Head

if TYPE_CHECKING:
    import onnx

LEAST: Final = 1e-7
"""Minimum probability: smaller ones are clipped before their logarithms are used as logits."""


def identity_head(width: int) -> Head:
    """Return a head whose logits are its features."""
    return Head((Dense(np.eye(width, dtype=np.float32), np.zeros(width, np.float32)),))


def two_sided(head: Head) -> Head:
    """Return a head with the logits (-z / 2, z / 2) for one with the single output z.

    Their softmax is (1 - sigmoid(z), sigmoid(z)), and each of the two classes has heat maps.
    """
    *inner, last = head.layers
    signs = np.array([-0.5, 0.5], np.float32)
    return Head((*inner, Dense(last.weight * signs, last.bias * signs)))


def log_probabilities(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithms of probabilities (N, C); of (N, 1), p becomes (1 - p, p)."""
    both = np.concatenate([1 - rows, rows], axis=1) if rows.shape[1] == 1 else rows
    return np.asarray(np.log(np.clip(both, LEAST, 1)))


def flatten_features(proto: onnx.ModelProto, width: int) -> None:
    """Reshape the output `features` from (N, 1, 1, F) to (N, F), in place."""
    before = _rename(proto, "features")
    shape = _constant(proto, "features/shape", np.array([-1, width], np.int64))
    _append(proto, "Reshape", [before, shape], "features")
    _declare(proto, width)


def take_logarithm(proto: onnx.ModelProto, outputs: int) -> None:
    """Make `features` the logarithms of probabilities, as `log_probabilities`, in place."""
    before = _rename(proto, "features")
    if outputs == 1:
        one = _constant(proto, "features/one", np.float32(1))
        _append(proto, "Sub", [one, before], "features/other")
        _append(proto, "Concat", ["features/other", before], "features/both", axis=1)
        before = "features/both"
    limits = [
        _constant(proto, f"features/{name}", np.float32(value))
        for name, value in (("least", LEAST), ("most", 1))
    ]
    _append(proto, "Clip", [before, *limits], "features/clipped")
    _append(proto, "Log", ["features/clipped"], "features")
    _declare(proto, max(2, outputs))


def output_shapes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of the graph's outputs, without the batch, by name."""
    return {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim][1:]
        for value in proto.graph.output
    }


def _rename(proto: onnx.ModelProto, name: str) -> str:
    """Rename the tensor of an output, so that another can take its name; return the new name."""
    for node in proto.graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = f"{name}/before"
    return f"{name}/before"


def _append(
    proto: onnx.ModelProto, operator: str, inputs: list[str], output: str, **attributes: Any
) -> None:
    from onnx import helper

    proto.graph.node.append(
        helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes)
    )


def _constant(proto: onnx.ModelProto, name: str, values: npt.ArrayLike) -> str:
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def _declare(proto: onnx.ModelProto, width: int) -> None:
    """Declare the output `features` as float32 (N, width)."""
    from onnx import TensorProto, helper

    kept = [value for value in proto.graph.output if value.name != "features"]
    del proto.graph.output[:]
    declared = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])
    proto.graph.output.extend([declared, *kept])
