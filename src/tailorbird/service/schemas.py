"""Shapes of what the API takes and answers, as JSON Schema for the OpenAPI document."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_OBJECT = {"type": "object"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_REFUSAL = {
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "code": _TEXT,
    "message": _TEXT,
}

SCHEMAS: dict[str, Any] = {
    "Any": {},
    "Problem": _object({"error": _object({**_REFUSAL, "request_id": _TEXT})}),
    "Status": _object({"status": {"enum": ["alive", "ready", "stopping", "busy"]}}),
    "Ranked": _object({"label": _TEXT, "probability": _SHARE}),
    "HeatMap": {
        **_object(
            {"label": _TEXT, "width": _WHOLE, "height": _WHOLE, "values": _list(_list(_SHARE))}
        ),
        "description": "Rows from top to bottom over the whole photo, the largest value 1.",
    },
    "Prediction": {
        **_object(
            {
                "name": {"type": ["string", "null"]},
                "label": _TEXT,
                "probability": _SHARE,
                "unsure": {"type": "boolean"},
                "threshold": {"type": "number"},
                "top": _list(_ref("Ranked")),
                "receipt": {"type": ["string", "null"]},
            },
            {"heatmaps": _list(_ref("HeatMap"))},
        ),
        "description": "`unsure` when the probability is below `threshold`; `receipt` goes into a correction.",
    },
    "Refusal": _object({"name": {"type": ["string", "null"]}, "error": _object(_REFUSAL)}),
    "Predictions": _object(
        {
            "model": _object({"name": _TEXT, "sha256": _HASH}),
            "results": _list({"anyOf": [_ref("Prediction"), _ref("Refusal")]}),
        }
    ),
    "Model": _object(
        {
            "name": _TEXT,
            "sha256": _HASH,
            "classes": _list(_TEXT),
            "size": _WHOLE,
            "threshold": {"type": "number"},
            "scores": _OBJECT,
            "backbone": _OBJECT,
            "settings": _OBJECT,
            "data": _OBJECT,
            "created": _TEXT,
            "loaded": _TEXT,
            "format": _WHOLE,
            "heatmaps": {"type": "boolean"},
            "corrections": {"type": "boolean"},
            "keep_photos": {"type": "boolean"},
            "limits": _object({"body_bytes": _WHOLE, "pixels": _WHOLE, "photos": _WHOLE}),
            "accepts": _list(_TEXT),
        }
    ),
    "Reloaded": _object({"sha256": _HASH, "changed": {"type": "boolean"}}),
    "Correction": _object(
        {"id": _WHOLE, "right": {"type": "boolean"}, "stored_photo": {"type": "boolean"}}
    ),
    "Stats": _object(
        {
            "total": _WHOLE,
            "right": _WHOLE,
            "accuracy": {"type": ["number", "null"]},
            "interval": _list(_SHARE),
            "per_class": _list(_object({"label": _TEXT, "total": _WHOLE, "right": _WHOLE})),
            "by_day": _list(_object({"day": _TEXT, "total": _WHOLE, "right": _WHOLE})),
            "mistaken": _list(_object({"predicted": _TEXT, "answer": _TEXT, "count": _WHOLE})),
        }
    ),
    "TensorProblem": _object({"error": _TEXT}),
    "TensorServer": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "TensorShape": _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}),
    "TensorModel": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_ref("TensorShape")),
            "outputs": _list(_ref("TensorShape")),
        }
    ),
    "TensorRequest": _object(
        {
            "inputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": _object(
                    {
                        "name": {"const": "images"},
                        "datatype": {"const": "UINT8"},
                        "shape": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 1},
                            "minItems": 4,
                            "maxItems": 4,
                        },
                    },
                    {"data": {"type": "array"}, "parameters": _OBJECT},
                ),
            }
        },
        {
            "id": _TEXT,
            "parameters": _OBJECT,
            "outputs": _list(_object({"name": _TEXT}, {"parameters": _OBJECT})),
        },
    ),
    "TensorAnswer": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(
                _object(
                    {"name": _TEXT, "datatype": _TEXT, "shape": _list(_WHOLE)},
                    {"data": _list({"type": "number"}), "parameters": _OBJECT},
                )
            ),
        },
        {"id": _TEXT},
    ),
}
