"""Rewrite configurations of Keras 2 and of `.h5` files that Keras 3 refuses without need.

Keras 2 wrote `groups: 1` for depthwise and separable convolutions, which have no groups, and
settings of an ordinary kernel for separable ones, which have none: every Xception and MobileNet
that it saved. A sum or product of a tensor and a number, as `preprocess_input` inside a model
makes, became a TFOpLambda layer, which equals Rescaling. Keras 3 writes it as an operation
(TrueDivide, Subtract, ...), which it reads from `.keras` files but not from `.h5` files.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from tailorbird.engines.keras import backend

_IDLE: dict[str, dict[str, Any]] = {
    "DepthwiseConv2D": {
        "groups": 1,
        "kernel_initializer": ...,
        "kernel_regularizer": ...,
        "kernel_constraint": ...,
    },
    "SeparableConv2D": {
        "groups": 1,
        "kernel_initializer": ...,
        "kernel_regularizer": ...,
        "kernel_constraint": ...,
    },
    "Conv2DTranspose": {"groups": 1},
    "BatchNormalization": {
        "renorm": False,
        "fused": ...,
        "virtual_batch_size": None,
        "adjustment": None,
    },
}
"""Arguments without effect, by layer: with this value, or (...) with any."""

_IDLE_RANDOM = {"rng_type": ..., "implementation": ...}

_OLD_MODULE = re.compile(r"(?:tf_)?keras(?:\.src)?\.engine\.(functional|sequential|training)$")
_NEW_MODULES = {
    "functional": "keras.src.models.functional",
    "sequential": "keras.models",
    "training": "keras.models",
}
"""Modules of models in Keras 3, by their name in Keras 2."""

_PLACES = (
    "layers",
    "models",
    "initializers",
    "regularizers",
    "constraints",
    "dtype_policies",
    "random",
)


def knows(kind: str) -> bool:
    """Return whether Keras has a class of this name for parts of networks."""
    keras = backend.load()
    if any(isinstance(getattr(getattr(keras, place), kind, None), type) for place in _PLACES):
        return True
    return kind in (
        "Functional",
        "Model",
        "Sequential",
        "DTypePolicy",
        "FloatDTypePolicy",
        "Policy",
    ) or _operations(kind)


def _operations(kind: str) -> bool:
    """Return whether there is an operation class of this name, such as TrueDivide for `x / 2`."""
    keras = backend.load()
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind).lstrip(
        "_"
    )
    return kind[:1].isupper() and (hasattr(keras.ops, words) or words in ("get_item",))


def upgrade(
    config: dict[str, Any], version: str, *, h5: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a configuration that Keras 3 reads, and what was changed, in words.

    Layers that computed in half precision compute in float32.

    Args:
        config: not changed.
        version: version of Keras that wrote it.
        h5: whether it was in a `.h5` file.
    """
    old = version.startswith(("1.", "2.")) or version == "unknown"
    result = copy.deepcopy(config)
    changes: dict[str, set[str]] = {}
    for layer in objects(result):
        kind, settings = str(layer["class_name"]), layer.get("config")
        if not isinstance(settings, dict):
            continue
        if _in_float32(settings):
            changes.setdefault("computed in float32 instead of half precision", set())
        if (h5 or old) and _as_rescaling(layer, kind, settings):
            changes.setdefault("read as Rescaling: ", set()).add(str(settings.get("name")))
        if not old:
            continue
        module = layer.get("module")
        if isinstance(module, str) and (place := _OLD_MODULE.match(module)):
            layer["module"] = _NEW_MODULES[place[1]]
        for argument, idle in {
            **_IDLE.get(kind, {}),
            **(_IDLE_RANDOM if kind.startswith("Random") else {}),
        }.items():
            if argument in settings and (idle is ... or settings[argument] == idle):
                del settings[argument]
                changes.setdefault(f"{kind} without ", set()).add(argument)
        axis = settings.get("axis")
        if (
            kind in ("BatchNormalization", "Normalization")
            and isinstance(axis, list)
            and len(axis) == 1
        ):
            settings["axis"] = axis[0]
        _renumber(settings)
    return result, tuple(
        f"{what}{', '.join(sorted(names))}" for what, names in sorted(changes.items())
    )


def objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object that a configuration would construct; not recursive, at any depth."""
    waiting: list[Any] = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _in_float32(settings: dict[str, Any]) -> bool:
    """Make a layer compute in float32, in place; return whether that was a change."""
    kind = settings.get("dtype")
    name = (kind.get("config") or {}).get("name") if isinstance(kind, dict) else kind
    if name not in ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16"):
        return False
    settings["dtype"] = "float32"
    return True


def _renumber(settings: dict[str, Any]) -> None:
    """Count the calls of nested models from 0, in place.

    Keras 2 began with 1: 0 was the nested model's own graph.
    """
    layers = settings.get("layers")
    if not isinstance(layers, list) or not isinstance(settings.get("output_layers"), list):
        return
    calls = {
        str(layer.get("name", (layer.get("config") or {}).get("name"))): len(
            layer.get("inbound_nodes") or ()
        )
        for layer in layers
        if isinstance(layer, dict)
        and layer.get("class_name") in ("Functional", "Model", "Sequential")
    }
    calling = [layer.get("inbound_nodes") for layer in layers if isinstance(layer, dict)]
    places = [place for nodes in calling for place in _references(nodes)]
    places += _references(settings["output_layers"])
    shifted = {place[0] for place in places if place[0] in calls and place[1] >= calls[place[0]]}
    for place in places:
        if place[0] in shifted:
            place[1] -= 1
    # In Keras 2 a list of one tensor was the tensor itself; in Keras 3 it is a list.
    for ends in ("input_layers", "output_layers"):
        if (
            isinstance(settings.get(ends), list)
            and len(settings[ends]) == 1
            and isinstance(settings[ends][0], list)
        ):
            settings[ends] = settings[ends][0]


def _references(value: Any) -> list[list[Any]]:
    """Return every list [layer, call, tensor, ...], at any depth, to be changed in place."""
    found = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            if len(item) in (3, 4) and isinstance(item[0], str) and isinstance(item[1], int):
                found.append(item)
            else:
                waiting.extend(item)
    return found


def _as_rescaling(layer: dict[str, Any], kind: str, settings: dict[str, Any]) -> bool:
    """Replace `tensor op number` by a Rescaling layer, in place; return False for anything else."""
    calls = layer.get("inbound_nodes")
    if not isinstance(calls, list) or len(calls) != 1:
        return False
    found = _old_call(settings, calls[0]) if kind == "TFOpLambda" else _new_call(kind, calls[0])
    if found is None:
        return False
    function, number, inbound = found
    if (
        function not in _ARITHMETIC
        or isinstance(number, bool)
        or not isinstance(number, int | float)
    ):
        return False
    if function == "divide" and number == 0:
        return False
    scale, offset = {
        "divide": (1 / (number or 1), 0.0),
        "multiply": (number, 0.0),
        "subtract": (1.0, -number),
        "add": (1.0, number),
    }[function]
    layer["class_name"] = "Rescaling"
    if "module" in layer:
        layer["module"], layer["registered_name"] = "keras.layers", None
    layer["config"] = {
        "name": settings.get("name"),
        "dtype": "float32",
        "trainable": False,
        "scale": scale,
        "offset": offset,
    }
    layer["inbound_nodes"] = [inbound]
    return True


_ARITHMETIC = ("divide", "multiply", "subtract", "add")
_NAMES = {"truediv": "divide", "truedivide": "divide"}


def _old_call(settings: dict[str, Any], call: Any) -> tuple[str, Any, Any] | None:
    """Return (operation, number, call without the number) of a call of Keras 2.

    It wrote [[name, node, tensor, arguments]], or the inner list alone.
    """
    inner = call[0] if isinstance(call, list) and call and isinstance(call[0], list) else call
    if not isinstance(inner, list) or len(inner) != 4 or not isinstance(inner[3], dict):
        return None
    function = str(settings.get("function")).rpartition(".")[2]
    return _NAMES.get(function, function), inner[3].get("y"), [[*inner[:3], {}]]


def _new_call(kind: str, call: Any) -> tuple[str, Any, Any] | None:
    """Return (operation, number, call without the number) of a call of Keras 3.

    None unless a tensor and a number are its only arguments.
    """
    args = call.get("args") if isinstance(call, dict) else None
    if (
        not isinstance(args, list)
        or len(args) != 2
        or not isinstance(args[0], dict)
        or call.get("kwargs")
    ):
        return None
    function = kind.lower()
    return _NAMES.get(function, function), args[1], {"args": args[:1], "kwargs": {}}
