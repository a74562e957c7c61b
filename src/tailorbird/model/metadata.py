"""A model file's metadata: one JSON object under the key `tailorbird`, checked before use.

A model file is untrusted input. Reading its metadata raises ModelFileError or gives a `ModelInfo`
whose known fields have the right types, so that reports and the service need no checks of their
own. Fields that this version does not know are ignored, and a missing newer field is absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tailorbird import onnx_files
from tailorbird.errors import InputError, ModelFileError
from tailorbird.images import ResizeRule
from tailorbird.metrics.drift import MEASURES, PREDICTED, Bins
from tailorbird.metrics.scores import Scores
from tailorbird.model.graph import TOP

if TYPE_CHECKING:
    import onnx

KEY = "tailorbird"
"""The metadata entry that holds everything as one JSON object."""

FORMAT = 1
"""Raised when an older tailorbird could misread a file. Every number from 1 on stays readable."""

MOST_CHARACTERS = 256_000_000
MOST_DIGITS = 18

MOST_BINS = 100
"""The largest number of bins of a measure in `distributions`, except for classes."""

DENSE_CLASSES = 100
"""With more classes, only the non-zero cells of confusion matrices are stored."""


@dataclass(frozen=True)
class ModelInfo:
    """A model file's metadata.

    Attributes:
        classes: Labels in the order of the probabilities.
        resize: How a photo becomes the graph's input.
        threshold: Below this probability the model is unsure, 0 to 1.
        temperature: What the logits were divided by.
        scores: {"validation": ..., "test": ...} as in `evaluate --json`; empty if not scored.
        backbone: Name, licence, source and hash of the backbone.
        settings: How the head, and perhaps the backbone, were trained.
        seed: Seed of the run.
        data: Fingerprint and counts of the dataset.
        versions: Packages by name.
        created: ISO 8601 time.
        self_test: The probabilities of `self_test.probe_image`, empty in files that lack them.
        distributions: How the validation photos are distributed, by the measures of
            `metrics.drift`; empty in files that lack them.
        unfamiliarity: Above its `threshold` a photo is none of the classes; see
            `metrics.refusals.Refusal`. Empty in files without that output.
    """

    classes: tuple[str, ...]
    resize: ResizeRule
    threshold: float
    temperature: float
    scores: dict[str, Any]
    backbone: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    data: dict[str, Any]
    versions: dict[str, str]
    created: str
    self_test: tuple[float, ...] = field(default=(), repr=False)
    distributions: Mapping[str, Bins] = field(default_factory=dict, repr=False)
    unfamiliarity: dict[str, Any] = field(default_factory=dict)

    @property
    def unfamiliar_above(self) -> float | None:
        """The unfamiliarity above which a photo is none of the classes; None: it has no such."""
        return self.unfamiliarity.get("threshold")

    def as_dict(self) -> dict[str, Any]:
        """Return the metadata as plain JSON values."""
        stored = {"format": FORMAT, **vars(self)}
        stored |= {"classes": list(self.classes), "resize": self.resize.as_dict()}
        stored["self_test"] = list(self.self_test)
        stored["distributions"] = {key: bins.as_dict() for key, bins in self.distributions.items()}
        return stored

    def as_json(self) -> str:
        """Return the text to store in a model file, where large confusion matrices are sparse."""
        scores = {name: _sparse(stored) for name, stored in self.scores.items()}
        return json.dumps({**self.as_dict(), "scores": scores}, ensure_ascii=False, allow_nan=False)


def info_from(model: onnx.ModelProto, name: str) -> ModelInfo:
    """Read a model file's metadata and check it, also against the graph.

    Args:
        model: An audited file.
        name: What messages call it.

    Raises:
        ModelFileError: Whatever is wrong with the metadata.
    """
    text = onnx_files.metadata(model).get(KEY)
    if text is None:
        raise ModelFileError(
            f"{name} is not a tailorbird model: its metadata lack the key {KEY!r}; "
            "a backbone alone cannot predict"
        )
    stored = _parsed(text, name)
    if type(stored.get("format")) is not int or not 1 <= stored["format"] <= FORMAT:
        raise ModelFileError(
            f"{name} has format number {str(stored.get('format'))[:40]}; this tailorbird reads "
            f"format {FORMAT}; upgrade tailorbird or train the model again"
        )
    for key, valid, expected in _FIELDS:
        if not valid(stored.get(key)):
            found = str(stored[key])[:100] if key in stored else "missing"
            raise ModelFileError(
                f"{name}: the metadata's {key!r} is {found}; it must be {expected}"
            )
    classes = tuple(stored["classes"])
    resize = _resize(stored.get("resize"), name)
    _check_graph(model, resize.size, len(classes), name)
    for part, fields in _OPTIONAL.items():
        _check_optional(stored[part], part, fields, name)
    unfamiliarity = _unfamiliarity(stored.get("unfamiliarity"), model, name)
    return ModelInfo(
        classes=classes,
        resize=resize,
        scores={key: _scores(value, key, classes, name) for key, value in stored["scores"].items()},
        self_test=_self_test(stored.get("self_test"), classes, name),
        distributions=_distributions(stored.get("distributions"), classes, name),
        unfamiliarity=unfamiliarity,
        **{key: stored[key] for key in _KEPT},
    )


def _parsed(text: str, name: str) -> dict[str, Any]:
    """Parse the JSON text; finite numbers, moderate depth and valid Unicode only."""
    if len(text) > MOST_CHARACTERS:
        raise ModelFileError(
            f"{name}: the metadata have {len(text):,} characters; "
            f"at most {MOST_CHARACTERS:,} are read"
        )
    try:
        stored = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_moderate
        )
        if "\\u" in text:  # an escape may be half of a surrogate pair, which UTF-8 cannot encode
            json.dumps(stored, ensure_ascii=False).encode()
    except RecursionError:
        raise ModelFileError(
            f"{name}: the metadata are nested too deeply; the file is damaged"
        ) from None
    except ValueError as error:
        raise ModelFileError(
            f"{name}: the metadata are not valid JSON ({str(error)[:100]}); the file is damaged"
        ) from None
    if not isinstance(stored, dict):
        raise ModelFileError(f"{name}: the metadata are not a JSON object; the file is damaged")
    return stored


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _moderate(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"{text[:40]} has more than {MOST_DIGITS} digits")
    return int(text)


def _is_number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, float | int) and (not isinstance(value, bool) and low <= value <= high)
    )


def _is_a(*kinds: type) -> Callable[[object], bool]:
    return lambda value: type(value) in kinds


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(label, str) and label for label in value)
        and len(set(value)) == len(value)
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_strangers(value: object) -> bool:
    whole = _is_a(int)
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("kind"), str)
        and whole(one.get("noticed"))
        and whole(one.get("photos"))
        for one in value
    )


_FIELDS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("classes", _are_classes, "a list of at least two different names"),
    ("threshold", _is_number(0, 1), "a number from 0 to 1"),
    ("temperature", _is_number(1e-6, 1e6), "a positive number"),
    ("scores", _is_a(dict), "an object"),
    ("backbone", _is_a(dict), "an object"),
    ("settings", _is_a(dict), "an object"),
    ("seed", _is_a(int), "a whole number"),
    ("data", _is_a(dict), "an object"),
    ("versions", _are_texts, "an object of texts"),
    ("created", _is_a(str), "a text"),
)
"""Fields that files of every format have: name, check, what is valid."""

_KEPT = ("threshold", "temperature", "backbone", "settings", "seed", "data", "versions", "created")

_TEXT = (_is_a(str), "a text")
_WHOLE = (_is_a(int), "a whole number")
_OPTIONAL: Mapping[str, Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "backbone": {
        **dict.fromkeys(("name", "sha256", "licence", "source", "trained_on", "pooling"), _TEXT),
        **dict.fromkeys(("input_size", "features"), _WHOLE),
        **dict.fromkeys(("grid", "parts"), (_is_a(list), "a list")),
        "mirror": (_is_a(bool), "true or false"),
    },
    "settings": {
        **dict.fromkeys(("precision", "refuse"), (_is_number(0, 1), "a number from 0 to 1")),
        "no_heatmaps": _TEXT,
        "mirror": (_is_a(bool), "true or false"),
        "finetune": (_is_a(dict), "an object"),
        "blend": (_is_a(list), "a list"),
    },
    "data": {
        "fingerprint": _TEXT,
        "trained_on": _TEXT,
        "chosen_on": _TEXT,
        "splits": (_is_a(dict), "an object"),
        "threshold_reached": (_is_a(bool), "true or false"),
        "promise": (_is_a(dict), "an object"),
    },
}
"""Fields within fields that may be missing or null."""


_UNFAMILIARITY: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("wanted", "expected", "refused"), (_is_number(0, 1), "a number from 0 to 1")),
    **dict.fromkeys(("photos", "none_of_these"), (_is_number(0, 10**18), "a number from 0")),
    **dict.fromkeys(("reached", "crossfitted"), (_is_a(bool), "true or false")),
    "strangers": (_are_strangers, "a list of a kind, and how many of its photos are noticed, each"),
}
"""Fields of `unfamiliarity` that may be missing or null."""


def _check_optional(
    stored: Mapping[str, Any],
    part: str,
    fields: Mapping[str, tuple[Callable[[object], bool], str]],
    name: str,
) -> None:
    for key, (valid, expected) in fields.items():
        value = stored.get(key)
        if value is not None and not valid(value):
            raise ModelFileError(
                f"{name}: the metadata's {part!r} has {key!r} = {str(value)[:100]}; "
                f"it must be {expected}"
            )


def _resize(stored: object, name: str) -> ResizeRule:
    size = stored.get("size") if isinstance(stored, dict) else None
    try:
        if type(size) is not int:
            raise ModelFileError(f"the resize rule {str(stored)[:100]} has no whole number as size")
        return ResizeRule.from_dict(stored)
    except InputError as error:
        raise ModelFileError(f"{name}: {error}") from None


def _scores(stored: object, key: str, classes: tuple[str, ...], name: str) -> dict[str, Any]:
    """Check one set of scores without building its confusion matrix, which can be large."""
    tables = ("confusion", "confusion_cells")
    try:
        if not isinstance(stored, dict):
            raise ValueError(f"not an object but {str(stored)[:40]}")
        rest = {field: value for field, value in stored.items() if field not in tables}
        if Scores.from_dict(rest).classes != classes:
            raise ValueError("their classes are not the model's")
        _check_confusion(stored, len(classes))
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(
            f"{name}: the metadata's scores {key[:40]!r} are not valid: {str(error)[:200]}"
        ) from None
    return stored


def _check_confusion(stored: Mapping[str, Any], classes: int) -> None:
    dense, cells = stored.get("confusion"), stored.get("confusion_cells")
    if dense is not None and dense != []:
        counts = np.asarray(dense)
        if counts.shape != (classes, classes) or counts.dtype.kind != "i" or counts.min() < 0:
            raise ValueError(f"'confusion' must be {classes} x {classes} counts")
    if cells is not None and cells != []:
        table = np.asarray(cells)
        if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind != "i" or table.min() < 0:
            raise ValueError("'confusion_cells' must be rows of [label, predicted, count]")
        if table[:, :2].max() >= classes:
            raise ValueError(f"'confusion_cells' names a class beyond the {classes} there are")


def _sparse(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores with a large confusion matrix as rows [label, predicted, count], not 0."""
    dense = stored.get("confusion") or ()
    if len(dense) <= DENSE_CLASSES:
        return dict(stored)
    counts = np.asarray(dense)
    rows, columns = np.nonzero(counts)
    cells = np.stack([rows, columns, counts[rows, columns]], axis=1).tolist()
    rest = {field: value for field, value in stored.items() if field != "confusion"}
    return {**rest, "confusion_cells": cells}


def _self_test(stored: object, classes: tuple[str, ...], name: str) -> tuple[float, ...]:
    if stored is None or stored == []:
        return ()
    valid = _is_number(0, 1)
    if (
        not isinstance(stored, list)
        or len(stored) != len(classes)
        or not all(map(valid, stored))
        or abs(sum(stored) - 1) > 1e-2
    ):
        raise ModelFileError(
            f"{name}: the metadata's 'self_test' must be {len(classes)} probabilities"
        )
    return tuple(map(float, stored))


def _distributions(stored: object, classes: tuple[str, ...], name: str) -> dict[str, Bins]:
    """Read the known measures; those that a newer tailorbird added are ignored."""
    if stored is None:
        return {}
    try:
        if not isinstance(stored, dict):
            raise TypeError("they are not an object")
        found = {key: Bins.from_dict(stored[key]) for key in MEASURES if key in stored}
        for key, bins in found.items():
            if key == PREDICTED and (bins.edges or len(bins.counts) != len(classes)):
                raise ValueError(f"{key!r} must be {len(classes)} counts")
            if key != PREDICTED and len(bins.counts) > MOST_BINS:
                raise ValueError(f"{key!r} has more than {MOST_BINS} bins")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"{name}: the metadata's 'distributions' are not valid: {str(error)[:200]}"
        ) from None
    return found


def _unfamiliarity(stored: object, model: onnx.ModelProto, name: str) -> dict[str, Any]:
    """Check what the metadata say of the output `unfamiliarity`; files may have neither."""
    if not stored:
        return {}
    shapes = {value.name: len(_dimensions(value)) for value in model.graph.output}
    threshold = stored.get("threshold") if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or not _is_number(-1e6, 1e6)(threshold):
        raise ModelFileError(
            f"{name}: the metadata's 'unfamiliarity' has the threshold {str(threshold)[:40]}; it "
            "must be a number"
        )
    if shapes.get("unfamiliarity") != 1:
        raise ModelFileError(
            f"{name}: the metadata state a threshold of unfamiliarity, the graph gives "
            f"{onnx_files.describe(model.graph.output)}; they must agree: the file was altered"
        )
    _check_optional(stored, "unfamiliarity", _UNFAMILIARITY, name)
    return stored


def _check_graph(model: onnx.ModelProto, size: int, count: int, name: str) -> None:
    """Refuse metadata whose classes and image size are not the graph's."""
    import onnx

    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    outputs = {value.name: value for value in model.graph.output}
    if [value.name for value in inputs] != ["images"] or inputs[
        0
    ].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        raise ModelFileError(
            f"{name}: the graph must take the single input images, uint8; "
            f"it takes {onnx_files.describe(inputs)}"
        )
    if _dimensions(inputs[0])[1:] != [size, size, 3]:
        raise ModelFileError(
            f"{name}: the metadata state images of {size} x {size}, the graph takes "
            f"{onnx_files.describe(inputs)}; they must agree: the file was altered"
        )
    if "probabilities" not in outputs or _dimensions(outputs["probabilities"])[1:] != [count]:
        raise ModelFileError(
            f"{name}: the metadata name {count} classes, the graph gives "
            f"{onnx_files.describe(model.graph.output)}; they must agree: the file was altered"
        )
    top = min(TOP, count)
    if "heatmaps" in outputs and (
        len(_dimensions(outputs["heatmaps"])) != 4 or _dimensions(outputs["heatmaps"])[1] != top
    ):
        raise ModelFileError(
            f"{name}: heatmaps must have shape (N, {top}, h, w); "
            f"it is {onnx_files.describe([outputs['heatmaps']])}"
        )


def _dimensions(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
