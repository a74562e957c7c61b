"""Describe a network of timm in a backbone file's metadata, and rebuild it from there.

The metadata entry `timm` is JSON: {"name": NAME, "arguments": {...}, "mean": [...], "std": [...],
"unused": [...], "version": of timm}. The weights are the file's own initialisers, named `net.` and
their name in the network's state_dict; `unused` are those that features do not depend on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tailorbird import onnx_files
from tailorbird.engines.torch import backend, networks
from tailorbird.engines.torch.networks import Architecture
from tailorbird.errors import BackboneError, SettingsError

if TYPE_CHECKING:
    import onnx

ENTRY = "timm"
PREFIX = "net."
"""Prefix of the names of a network's weights in an ONNX file."""


def describe(architecture: Architecture, unused: Sequence[str] = ()) -> dict[str, str]:
    """Return the metadata entry of a network."""
    _, timm = backend.load()
    facts = {
        "name": architecture.name,
        "arguments": dict(architecture.arguments),
        "mean": list(architecture.mean),
        "std": list(architecture.std),
        "unused": list(unused),
        "version": timm.__version__,
    }
    return {ENTRY: json.dumps(facts, sort_keys=True)}


def read(proto: onnx.ModelProto) -> tuple[Architecture, tuple[str, ...]]:
    """Return the network that a backbone or model file was made from, and its unused weights.

    Raises BackboneError if the metadata entry is missing, damaged or of another timm, MissingExtra.
    """
    entry = onnx_files.metadata(proto).get(ENTRY)
    if entry is None:
        raise BackboneError(
            "the backbone was not made by the PyTorch engine, so it cannot be rebuilt in PyTorch; "
            "pull one that can: tailorbird backbones pull timm:NAME"
        )
    try:
        facts: dict[str, Any] = json.loads(entry)
        name, arguments = str(facts["name"]), dict(facts["arguments"])
        mean, std = (tuple(map(float, facts[key])) for key in ("mean", "std"))
        unused = tuple(map(str, facts["unused"]))
        if not len(mean) == len(std) == 3:
            raise ValueError(entry)
    except (ValueError, KeyError, TypeError):
        raise BackboneError(
            f"the metadata entry {ENTRY!r} is damaged or of a newer tailorbird: {entry[:200]}"
        ) from None
    try:
        found = networks.find(name, arguments)
    except SettingsError as problem:
        raise BackboneError(
            f"the backbone was made from a network of timm {facts.get('version', '(not stated)')} "
            f"that this timm does not have: {problem}"
        ) from None
    return replace(found, mean=mean, std=std), unused


def rebuild(proto: onnx.ModelProto, size: int) -> tuple[Any, Architecture]:
    """Return timm's model with the weights of a backbone or model file, for images of a size.

    Raises BackboneError when the file has no description or its weights do not fit, SettingsError
    for a size that the network cannot have, MissingExtra.
    """
    architecture, unused = read(proto)
    weights = weights_in(proto)
    blank = networks.build(architecture, size)
    state = blank.state_dict()
    lacking = sorted(set(state) - set(weights) - set(unused))
    if lacking:
        raise BackboneError(
            f"the file lacks {len(lacking)} weights of {architecture.name}, such as {lacking[0]}; "
            "it is damaged, or was made with another version of timm"
        )
    # Buffers that are computed when the network is built are initialisers too, but no weights.
    state.update({key: value for key, value in weights.items() if key in state})
    return networks.build(architecture, size, weights=state), architecture


def weights_in(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return the network's weights in a file as PyTorch tensors by their name in its state_dict."""
    from onnx import numpy_helper

    torch, _ = backend.load()
    return {
        tensor.name.removeprefix(PREFIX): torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        for tensor in proto.graph.initializer
        if tensor.name.startswith(PREFIX)
    }
