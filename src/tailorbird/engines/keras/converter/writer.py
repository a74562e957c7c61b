"""Write an ONNX graph: tensors with their axes, names, constants, and weights to be read back.

Keras keeps images as (N, height, width, channels), ONNX as (N, channels, height, width). A Value
states whether its axes were moved. Tensors stay moved as long as possible; they are moved back only
where the order of axes matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.keras import backend
from tailorbird.engines.keras.converter.weights import PREFIX, stored
from tailorbird.errors import BackboneError

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8
"""Operator set 17 has LayerNormalization; ONNX Runtime reads it since 1.12."""

MOVED = {0: 0, 1: 2, 2: 3, 3: 1}
"""Positions of Keras' axes (N, h, w, C) in (N, C, h, w)."""


@dataclass(frozen=True)
class Value:
    """A tensor in the ONNX graph.

    Attributes:
        name: name of the tensor.
        shape: on Keras' axes, the batch as None.
        moved: whether the channels are second in ONNX and last in Keras.
    """

    name: str
    shape: tuple[int | None, ...]
    moved: bool = False

    @property
    def rank(self) -> int:
        """Return the number of axes, with the batch."""
        return len(self.shape)

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the sides in ONNX' order, without the batch."""
        sides = [side or 0 for side in self.shape[1:]]
        return (sides[-1], *sides[:-1]) if self.moved else tuple(sides)

    @property
    def pointlike(self) -> bool:
        """Return whether both orders of axes are the same in memory: one position or channel."""
        return self.rank == 4 and (self.shape[1:3] == (1, 1) or self.shape[3] == 1)

    def axis(self, axis: int) -> int:
        """Return the position of one of Keras' axes in the ONNX graph."""
        axis %= self.rank
        return MOVED[axis] if self.moved else axis


Made = tuple[str, bool]
"""Result of a layer's translation: the tensor's name, and whether its axes are moved."""


class Writer:
    """Collects nodes and initialisers; `path` is the current layer, after which nodes are named."""

    def __init__(self, weights: Sequence[Any]) -> None:
        """Start an empty graph; positions in `weights`, Keras variables, number initialisers."""
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.path = "input"
        self._positions = {id(variable): position for position, variable in enumerate(weights)}
        self._names: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._weights: dict[tuple[int, str], str] = {}
        self._turned: dict[tuple[str, bool], str] = {}

    def add(
        self, operator: str, inputs: Sequence[str], *, name: str | None = None, **attributes: Any
    ) -> str:
        """Append a node and return the name of its output, by default `path/operator`."""
        from onnx import helper

        output = self._unused(name or f"{self.path}/{operator}")
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=output, **attributes)
        )
        return output

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        """Return the name of an initialiser with these numbers; equal ones share it."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(np.asarray(values, kind)).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            shown = "x".join(f"{number:g}" for number in array.ravel()[:4].tolist()) or "empty"
            name = self._unused(
                f"constant/{shown}" if array.size <= 4 else f"constant/{len(self._constants)}"
            )
            self.initialisers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def weight(self, variable: Any, layout: str = "as is") -> str:
        """Return the name of a Keras variable's initialiser. Raises BackboneError.

        layout: as in `weights.stored`.
        """
        from onnx import numpy_helper

        if not hasattr(variable, "path"):
            raise BackboneError(
                f"{self.path} computes its weights (LoRA or quantisation); merge them and save the "
                "model as plain float32"
            )
        key = (id(variable), layout)
        if key not in self._weights:
            position = self._positions.get(id(variable))
            # A variable in a second layout is a copy, which is not read back.
            first = not any(other == id(variable) for other, _ in self._weights)
            prefix = f"{PREFIX}{position:04d}/" if position is not None and first else "weights/"
            values = np.asarray(backend.load().ops.convert_to_numpy(variable), np.float32)
            name = self._unused(f"{prefix}{variable.path}")
            self.initialisers.append(
                numpy_helper.from_array(np.ascontiguousarray(stored(values, layout)), name)
            )
            self._weights[key] = name
        return self._weights[key]

    def across(self, name: str, sides: Sequence[int], value: Value) -> str:
        """Return an initialiser, on the last of Keras' axes, ready to broadcast with `value`."""
        if not value.moved or not sides:
            return name
        padded = [1] * (3 - len(sides)) + list(sides)
        if len(sides) > 1:
            name = self.add("Transpose", [self._reshaped(name, padded)], perm=[2, 0, 1])
            return name
        return self._reshaped(name, [sides[0], 1, 1])

    def turn(self, value: Value, *, moved: bool) -> Value:
        """Return a tensor with its axes moved or moved back, if it has such axes."""
        if value.rank != 4 or value.moved == moved:
            return value
        key = (value.name, moved)
        if key not in self._turned:
            height, width, channels = (side or 0 for side in value.shape[1:])
            if value.pointlike:
                target = [-1, channels, height, width] if moved else [-1, height, width, channels]
                self._turned[key] = self._reshaped(value.name, target)
            else:
                perm = [0, 3, 1, 2] if moved else [0, 2, 3, 1]
                self._turned[key] = self.add("Transpose", [value.name], perm=perm)
        return Value(self._turned[key], value.shape, moved)

    def alike(self, values: Sequence[Value]) -> list[Value]:
        """Return tensors that are combined elementwise with the same axes: all moved, or none."""
        moved = all(value.rank == 4 for value in values) and any(value.moved for value in values)
        return [self.turn(value, moved=moved) for value in values]

    def _reshaped(self, name: str, target: Sequence[int]) -> str:
        return self.add("Reshape", [name, self.constant(list(target), np.int64)])

    def reshape(self, value: Value, shape: Sequence[int | None]) -> Made:
        """Return a tensor reshaped on Keras' axes, in Keras' order of numbers."""
        sides = [side or 0 for side in shape[1:]]
        if not value.pointlike:
            value = self.turn(value, moved=False)
        if len(sides) == 3 and sides[:2] == [1, 1]:
            return self._reshaped(value.name, [-1, sides[2], 1, 1]), True
        return self._reshaped(value.name, [-1, *sides]), False

    def finish(self, name: str, made: Value, layout: str) -> onnx.ValueInfoProto:
        """Make a tensor an output of the graph; layout as in `convert.Output`."""
        from onnx import TensorProto, helper

        result = self.turn(made, moved=False) if layout == "keras" else made
        self.path = name
        self.nodes.append(
            helper.make_node("Identity", [result.name], [name], name=f"{name}/Identity")
        )
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *result.sides])

    def used(self, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Return the nodes that the outputs depend on, in order, and their initialisers."""
        wanted, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                nodes.append(node)
                wanted.update(node.input)
        return nodes[::-1], [tensor for tensor in self.initialisers if tensor.name in wanted]

    def _unused(self, name: str) -> str:
        number, unused = 1, name
        while unused in self._names:
            number += 1
            unused = f"{name}_{number}"
        self._names.add(unused)
        return unused


def floats(values: Any) -> npt.NDArray[np.float32]:
    """Return numbers, arrays or tensors of the backend as a float32 array."""
    if isinstance(values, (int, float, list, tuple, np.ndarray, np.generic)):
        return np.asarray(values, np.float32)
    return np.asarray(backend.load().ops.convert_to_numpy(values), np.float32)
