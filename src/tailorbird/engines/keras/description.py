"""Describe a Keras network in a backbone file's metadata, and rebuild it from there.

The metadata entry `keras` is JSON: {"application": NAME, "arguments": {...}} or {"config": CONFIG},
with "preprocess" (a key of PREPROCESS) and "version" (of Keras). The weights are the file's own
initialisers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tailorbird import onnx_files
from tailorbird.engines.keras import applications, backend
from tailorbird.engines.keras.converter.weights import read_weights
from tailorbird.engines.keras.model_files import check_config
from tailorbird.engines.preprocessing import PREPROCESS
from tailorbird.errors import BackboneError, ModelFileError, SettingsError

if TYPE_CHECKING:
    import onnx

ENTRY = "keras"


def describe(
    *,
    preprocess: str,
    application: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    model: Any = None,
) -> dict[str, str]:
    """Return the metadata entry of a Keras application, or of a functional or Sequential model."""
    facts: dict[str, Any] = {"preprocess": preprocess, "version": backend.load().__version__}
    if application is not None:
        facts |= {"application": application, "arguments": dict(arguments or {})}
    else:
        facts["config"] = backend.load().saving.serialize_keras_object(model)
    return {ENTRY: json.dumps(facts, sort_keys=True)}


def read(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return the metadata entry of a file. Raises BackboneError if it is missing or damaged."""
    entry = onnx_files.metadata(proto).get(ENTRY)
    if entry is None:
        raise BackboneError(
            "the backbone was not made by the Keras engine, so it cannot be rebuilt in Keras; "
            "pull one that can: tailorbird backbones pull keras:NAME"
        )
    try:
        facts = json.loads(entry)
        valid = (
            isinstance(facts, dict)
            and ("application" in facts) != ("config" in facts)
            and facts["preprocess"] in PREPROCESS
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise BackboneError(
            f"the metadata entry {ENTRY!r} is damaged or of a newer tailorbird: {entry[:200]}"
        )
    return dict(facts)


def rebuild(proto: onnx.ModelProto, size: int) -> tuple[Any, str]:
    """Return the Keras model that a backbone or model file was made from, and its preprocessing.

    The model has the file's weights. Raises BackboneError when the file has no description or its
    weights do not fit; SettingsError for a size that the network cannot have.

    size: side of the images in pixels, the file's own or another.
    """
    facts = read(proto)
    if "application" in facts:
        arguments = facts.get("arguments") or {}
        if not isinstance(facts["application"], str) or not isinstance(arguments, dict):
            raise BackboneError(f"the metadata entry {ENTRY!r} is damaged: {facts}")
        model = applications.build(facts["application"], size, arguments=arguments)
    else:
        model = _from_config(facts["config"], size)
    read_weights(proto, model)
    return model, str(facts["preprocess"])


def _from_config(config: Any, size: int) -> Any:
    """Return a model from its configuration, for an input size; code (Lambda) is refused."""
    keras = backend.load()
    config = copy.deepcopy(config)
    try:
        check_config(config, f"the metadata entry {ENTRY!r}")
    except ModelFileError as error:
        raise BackboneError(str(error)) from None
    _resize(config, size)
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as problem:  # every layer refuses in its own way
        first = (
            str(problem).strip().splitlines()[0][:300]
            if str(problem).strip()
            else type(problem).__name__
        )
        raise SettingsError(
            f"the network cannot be built for images of {size} x {size} pixels with Keras "
            f"{keras.__version__}: {first}; use the size it was made for"
        ) from None
    if not isinstance(model, keras.Model):
        raise BackboneError(
            f"the metadata entry {ENTRY!r} holds no model but {type(model).__name__}"
        )
    return model


def _resize(config: Any, size: int) -> None:
    """Set the size of every image input in a configuration, and delete shapes of the old size."""
    if isinstance(config, dict):
        noted = (config.get("build_config") or {}).get("input_shape")
        if isinstance(noted, (list, tuple)) and len(noted) == 4:
            del config["build_config"]
        shape = config.get("batch_shape")
        if isinstance(shape, (list, tuple)) and len(shape) == 4:
            first = shape[1] == 3 and shape[3] != 3
            config["batch_shape"] = (
                [shape[0], 3, size, size] if first else [shape[0], size, size, shape[3]]
            )
        for value in config.values():
            _resize(value, size)
    elif isinstance(config, list):
        for value in config:
            _resize(value, size)
