"""Free the batch axis of a graph that was exported for a fixed number of images.

Exporters write that number into target shapes of Reshape and Expand, into constants that are joined
to each image's tokens, and, for one image, leave the axis out (Squeeze). From the input on, this
module follows the axis that counts images through every operator, and rewrites those. What it makes
is only a proposal: the caller compares it with the graph as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tailorbird.engines.onnx.analysis import Weights, attributes

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

_AXES = frozenset({"Squeeze", "Unsqueeze", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"})
_PREFIX = "free_batch"


class NotFreed(Exception):
    """An operator through which the axis cannot be followed."""


@dataclass(frozen=True)
class Place:
    """Where a tensor counts images: axis `axis` has outer x images x inner entries."""

    axis: int
    outer: int = 1
    inner: int = 1


def free_batch(model: onnx.ModelProto, source: str, batch: int, shapes: Mapping[str, Shape]) -> int:
    """Make what states the fixed number of images take any; return how many nodes were changed.

    Args:
        model: the graph, changed in place.
        source: name of the input.
        batch: the fixed number.
        shapes: of all tensors that nodes give, for so many images.

    Raises NotFreed where the axis is lost.
    """
    walk = _Walk(model, source, batch, shapes)
    for node in model.graph.node:
        walk.node(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in walk.nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return walk.changed


class _Walk:
    """The nodes in their order, rewritten, and the places found so far."""

    def __init__(
        self, model: onnx.ModelProto, source: str, batch: int, shapes: Mapping[str, Shape]
    ) -> None:
        self.graph, self.source, self.batch = model.graph, source, batch
        self.shapes = dict(shapes)
        self.weights = Weights(model.graph)
        self.places: dict[str, Place] = {source: Place(0)}
        self.nodes: list[onnx.NodeProto] = []
        self.changed = 0
        self._count = ""

    def node(self, node: onnx.NodeProto) -> None:
        """Rewrite a node, and note the places of its outputs."""
        carried = [name for name in node.input if name in self.places]
        if not carried or node.op_type == "Shape":
            self.nodes.append(node)
            return
        outputs = [name for name in node.output if name in self.shapes]
        for output in outputs:
            place = self._follow(node, output, carried)
            size = self._shape(output)[place.axis]
            if size != place.outer * self.batch * place.inner:
                raise NotFreed(f"{node.op_type} {node.name}")
            self.places[output] = place
        self.nodes.append(node)

    def _follow(self, node: onnx.NodeProto, output: str, carried: Sequence[str]) -> Place:
        """Return the place in an output, after rewriting the node where that is necessary."""
        kind, given = node.op_type, self._shape(output)
        if kind == "Gather" and self._picks_pixels(node):
            return self._picked(node, given)
        if kind in ("Reshape", "Flatten") or (kind == "Squeeze" and self._loses(node)):
            place = self._reshaped(self.places[node.input[0]], self._shape(node.input[0]), given)
            if kind != "Flatten":
                self._set_target(node, given, place)
            return place
        if kind in ("MatMul", "Gemm"):
            found = {self._multiplied(node, name, len(given)) for name in carried}
        elif kind == "Einsum":
            found = {self._summed(node, name) for name in carried}
        else:
            moved = _MOVES.get(kind, _Walk._aligned)
            found = {moved(self, node, name, given) for name in carried}
        if len(found) != 1:
            raise NotFreed(f"{kind} {node.name} joins two orders of the images")
        place = found.pop()
        if kind == "Expand":
            self._set_target(node, given, place, one=True)
        else:
            self._repeat_constants(node, place, len(given))
        return place

    def _shape(self, name: str) -> Shape:
        if name in self.shapes:
            return self.shapes[name]
        value = self.weights.array(name)
        if value is None:
            raise NotFreed(f"the shape of {name} is not known")
        return tuple(value.shape)

    def _constants(self, node: onnx.NodeProto, key: str, place: int) -> list[int]:
        """Return an attribute, or the constant input of newer operator sets, as a list."""
        found = attributes(node).get(key)
        if found is None and len(node.input) > place and node.input[place]:
            value = self.weights.array(node.input[place])
            found = None if value is None else value.ravel().tolist()
        return [found] if isinstance(found, int) else [int(one) for one in found or ()]

    def _axes(self, node: onnx.NodeProto, rank: int) -> list[int]:
        """Return the axes that a node removes or adds; all if it states none."""
        axes = self._constants(node, "axes", 1)
        return sorted(axis % rank for axis in axes) or list(range(rank))

    def _loses(self, node: onnx.NodeProto) -> bool:
        """Return whether a Squeeze removes the axis of a single image."""
        shape = self._shape(node.input[0])
        stated = self._constants(node, "axes", 1)
        axes = {axis % len(shape) for axis in stated} or {
            axis for axis, side in enumerate(shape) if side == 1
        }
        return self.places[node.input[0]].axis in axes

    def _aligned(self, node: onnx.NodeProto, name: str, given: Shape) -> Place:
        """Return the place in an output of the same axes, or of more in front (broadcasting)."""
        place = self.places[name]
        more = len(given) - len(self._shape(name))
        return Place(place.axis + max(more, 0), place.outer, place.inner)

    def _transposed(self, node: onnx.NodeProto, name: str, given: Shape) -> Place:
        place, order = self.places[name], attributes(node).get("perm")
        order = order or list(range(len(given)))[::-1]
        return Place(order.index(place.axis), place.outer, place.inner)

    def _removed(self, node: onnx.NodeProto, name: str, given: Shape) -> Place:
        """Return the place behind an operator that removes axes, or keeps all."""
        place, rank = self.places[name], len(self._shape(name))
        if rank == len(given):
            return place
        axes = self._axes(node, rank)
        if place.axis in axes:
            raise NotFreed(f"{node.op_type} {node.name} over the images")
        less = sum(axis < place.axis for axis in axes)
        return Place(place.axis - less, place.outer, place.inner)

    def _added(self, node: onnx.NodeProto, name: str, given: Shape) -> Place:
        place, axis = self.places[name], -1
        axes = self._axes(node, len(given))
        kept = [number for number in range(len(given)) if number not in axes]
        axis = kept[place.axis]
        return Place(axis, place.outer, place.inner)

    def _gathered(self, node: onnx.NodeProto, name: str, given: Shape) -> Place:
        place, rank = self.places[name], len(self._shape(name))
        axis = int(attributes(node).get("axis", 0)) % rank
        if axis == place.axis or name != node.input[0]:
            raise NotFreed(f"Gather {node.name} picks images")
        more = (len(given) - rank) if axis < place.axis else 0
        return Place(place.axis + more, place.outer, place.inner)

    def _picks_pixels(self, node: onnx.NodeProto) -> bool:
        """Return whether entries of one flattened image are put in another order (as_strided)."""
        place = self.places.get(node.input[0])
        order = self.weights.array(node.input[1])
        if place is None or order is None or len(self._shape(node.input[0])) != 1:
            return False
        return place.outer == 1 and self.batch == 1

    def _picked(self, node: onnx.NodeProto, given: Shape) -> Place:
        """Make a Gather from one flattened image one from each; images come first."""
        from onnx import helper

        rows, picked = self._new("rows"), self._new("picked")
        apart = self._constant(np.array([-1, self.places[node.input[0]].inner], np.int64))
        again = self._constant(np.array([-1, *given[1:]], np.int64))
        self.nodes += [
            helper.make_node("Reshape", [node.input[0], apart], [rows]),
            helper.make_node("Gather", [rows, node.input[1]], [picked], axis=1),
        ]
        del node.input[:], node.attribute[:]
        node.op_type = "Reshape"
        node.input.extend([picked, again])
        self.changed += 1
        return Place(0, 1, given[0])

    def _multiplied(self, node: onnx.NodeProto, name: str, rank: int) -> Place:
        """Return the place in a product of matrices, or of stacks of them."""
        place, own = self.places[name], len(self._shape(name))
        left, facts = node.input[0] == name, attributes(node)
        rows, columns = own - 2, own - 1
        if node.op_type == "Gemm" and facts.get("transA" if left else "transB", 0):
            rows, columns = columns, rows
        if place.axis < own - 2:
            axis = place.axis + rank - own
        elif place.axis == (rows if left else columns):
            axis = rank - 2 if left else rank - 1
        else:
            raise NotFreed(f"{node.op_type} {node.name} sums over the images")
        return Place(axis, place.outer, place.inner)

    def _summed(self, node: onnx.NodeProto, name: str) -> Place:
        equation = attributes(node)["equation"].decode().replace(" ", "")
        inputs, _, output = equation.partition("->")
        place, own = self.places[name], inputs.split(",")[list(node.input).index(name)]
        if "." in equation or own[place.axis] not in output:
            raise NotFreed(f"Einsum {node.name}")
        return Place(output.index(own[place.axis]), place.outer, place.inner)

    def _reshaped(self, place: Place, before: Shape, after: Shape) -> Place:
        """Return the place after a reshape, which keeps the order of all entries.

        Between images lie `stride` entries. Where several axes fit, one that counts images alone is
        taken, else the one whose size the reshape changed.
        """
        stride = place.inner * math.prod(before[place.axis + 1 :])
        outside = place.outer * math.prod(before[: place.axis])
        fitting = []
        for axis, side in enumerate(after):
            outer, inner = math.prod(after[:axis]), math.prod(after[axis + 1 :])
            if not inner or not outer or stride % inner or outside % outer:
                continue
            found = Place(axis, outside // outer, stride // inner)
            if found.outer * self.batch * found.inner == side:
                fitting.append(found)
        alone = [one for one in fitting if one.outer == one.inner == 1]
        kept = [side for number, side in enumerate(before) if number != place.axis]
        kept += [place.outer, place.inner]
        changed = [one for one in fitting if after[one.axis] not in kept]
        rows = fitting if len(after) == 2 else []  # a dense layer follows, image by image
        for some in (alone, rows, changed, fitting):
            if some:
                return some[0]
        raise NotFreed("a reshape takes images apart")

    def _set_target(
        self, node: onnx.NodeProto, given: Shape, place: Place, *, one: bool = False
    ) -> None:
        """Give a Reshape, an Expand or a Squeeze a target shape for any number of images."""
        shape = list(given)
        shape[place.axis] = 1 if one else -1
        name = self._constant(np.array(shape, np.int64))
        source = node.input[0]
        kind = "Expand" if one else "Reshape"
        del node.input[:], node.attribute[:]
        node.op_type = kind
        node.input.extend([source, name])
        self.changed += 1

    def _repeat_constants(self, node: onnx.NodeProto, place: Place, rank: int) -> None:
        """Repeat what is the same for all images, where an operator needs it once for each."""
        from onnx import helper

        joins = node.op_type == "Concat"
        for number, name in enumerate(node.input):
            if not name or name in self.places:
                continue
            if not joins and node.op_type not in _ELEMENTWISE:
                continue
            shape = self._shape(name)
            axis = place.axis - (rank - len(shape))
            matrix = node.op_type == "MatMul" and axis >= len(shape) - 2
            if axis < 0 or matrix or (shape[axis] == 1 and not joins):
                continue  # it is broadcast
            if place.outer != 1 or self.batch != 1:
                raise NotFreed(f"{node.op_type} {node.name} with a constant for each image")
            times, repeated = self._new("times"), self._new("repeated")
            ones = [self._constant(np.ones(n, np.int64)) for n in (axis, len(shape) - axis - 1)]
            parts = [ones[0], self._images(), ones[1]]
            self.nodes += [
                helper.make_node("Concat", parts, [times], axis=0),
                helper.make_node("Tile", [name, times], [repeated]),
            ]
            node.input[number] = repeated
            self.changed += 1

    def _images(self) -> str:
        """Return the tensor that holds the number of images, int64 (1,)."""
        from onnx import helper

        if not self._count:
            shape, self._count = self._new("shape"), self._new("count")
            first = self._constant(np.zeros(1, np.int64))
            self.nodes += [
                helper.make_node("Shape", [self.source], [shape]),
                helper.make_node("Gather", [shape, first], [self._count], axis=0),
            ]
        return self._count

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        name = self._new("constant")
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _new(self, word: str) -> str:
        return f"{_PREFIX}/{len(self.nodes)}/{len(self.graph.initializer)}/{word}"


_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Where", "MatMul", "Min", "Max"})
_MOVES = {
    "Transpose": _Walk._transposed,
    "Squeeze": _Walk._removed,
    **dict.fromkeys(_AXES - {"Squeeze", "Unsqueeze"}, _Walk._removed),
    "Unsqueeze": _Walk._added,
    "Gather": _Walk._gathered,
}
