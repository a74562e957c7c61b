"""The API's description, OpenAPI 3.1: written by hand beside the handlers, held to them by tests that drive the API from it."""

from __future__ import annotations

from typing import Any

from tailorbird.images import SERVED_MEDIA_TYPES
from tailorbird.service.schemas import SCHEMAS
from tailorbird.service.settings import ServeSettings

Json = dict[str, Any]

_RETRY = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}
}


def document(settings: ServeSettings) -> Json:
    """The whole document. Paths of the Open Inference Protocol are described too, so that one tool can drive all of it."""
    from tailorbird import __version__

    secured: Json = {"security": [{"token": []}]} if settings.token else {}
    said: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "tailorbird",
            "version": __version__,
            "summary": "Photos in, calibrated labels out",
            "description": "Send photos to /v1/predict; say what was right to /v1/corrections. Tensors go to /v2 (Open Inference Protocol).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "photos", "description": "Photos in, labels out."},
            {"name": "corrections", "description": "What people say of the answers."},
            {"name": "model", "description": "What is being served."},
            {"name": "operation", "description": "For load balancers and monitoring."},
            {"name": "tensors", "description": "Open Inference Protocol V2."},
        ],
        "paths": {**_photos(settings), **_model(), **_corrections(), **_operation(), **_tensors()},
        "components": {"schemas": SCHEMAS},
        **secured,
    }
    if settings.token:
        said["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, item in said["paths"].items():
            _secure(path, item)
    for path, item in said["paths"].items():
        _complete(path, item)
    return said


def _secure(path: str, item: Json) -> None:
    is_open = path in ("/healthz", "/readyz", "/openapi.json") or path.startswith("/v2/health/")
    for operation in item.values():
        if is_open:
            operation["security"] = []
        else:
            operation["responses"]["401"] = _problem("The token is missing or wrong.", path)


def _complete(path: str, item: Json) -> None:
    """What any operation may answer."""
    for method, operation in item.items():
        responses = operation["responses"]
        responses.setdefault(
            "400", _problem("The Host header names another host, or the request is damaged.", path)
        )
        if method == "post":
            responses.setdefault(
                "403", _problem("A page of another site may not use the service.", path)
            )
            responses.setdefault("408", _problem("The request did not arrive in time.", path))
        responses.setdefault("413", _problem("The request is too large.", path))
        responses.setdefault("415", _problem("The body's type or encoding is not accepted.", path))


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, name: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _problem(description: str, path: str = "/v1") -> Json:
    return _json(description, "TensorProblem" if path.startswith("/v2") else "Problem")


def _busy(path: str = "/v1") -> Json:
    return {
        **_problem("Too much is waiting, or the deadline passed; try again.", path),
        "headers": _RETRY,
    }


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _photos(settings: ServeSettings) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    many = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": settings.max_photos,
    }
    return {
        "/v1/predict": {
            "post": {
                "tags": ["photos"],
                "operationId": "predict",
                "summary": "Classify one photo or several",
                "description": "The photo itself as the body, or a form with one or several file parts. One bad photo alone is an HTTP error; "
                f"among several it is an `error` in its place. At most {settings.max_photos} photos, {settings.max_body:,} bytes, "
                f"{settings.max_pixels:,} pixels each.",
                "parameters": [
                    _query(
                        "top",
                        "How many classes to answer.",
                        {"type": "integer", "minimum": 1, "maximum": 100, "default": 3},
                    ),
                    _query(
                        "heatmap",
                        "1: where in the photo each of the top classes was seen (Grad-CAM).",
                        {"type": "integer", "enum": [0, 1], "default": 0},
                    ),
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        **dict.fromkeys(SERVED_MEDIA_TYPES, binary),
                        "application/octet-stream": binary,
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "required": ["photo"],
                                "properties": {"photo": many},
                            },
                            "encoding": {"photo": {"contentType": ", ".join(SERVED_MEDIA_TYPES)}},
                        },
                    },
                },
                "responses": {
                    "200": _json("Results in the order of the photos.", "Predictions"),
                    "400": _problem("The form is damaged, holds no photo, or too many."),
                    "413": _problem("The request, or the photo's number of pixels, is too large."),
                    "415": _problem(
                        "A format that is not accepted (SVG, TIFF, HEIC, PDF...); the message says what is."
                    ),
                    "422": _problem(
                        "The photo is empty, damaged or no picture; or a parameter is outside its range."
                    ),
                    "503": _busy(),
                },
            }
        }
    }


def _model() -> Json:
    return {
        "/v1/model": {
            "get": {
                "tags": ["model"],
                "operationId": "model",
                "summary": "What is being served",
                "responses": {
                    "200": _json("The model's metadata and this service's limits.", "Model")
                },
            }
        },
        "/v1/model/reload": {
            "post": {
                "tags": ["model"],
                "operationId": "reload",
                "summary": "Take the model file's present content",
                "description": "The file is audited and run on a probe before it takes over; a bad one leaves the old one serving. Needs a token.",
                "responses": {
                    "200": _json("The model now serving.", "Reloaded"),
                    "403": _problem("The service was started without a token."),
                    "409": _problem("The new model was refused; the old one goes on."),
                },
            }
        },
    }


def _corrections() -> Json:
    fields = {"receipt": {"type": "string"}, "answer": {"type": "string"}}
    form = {**fields, "photo": {"type": "string", "format": "binary"}}
    return {
        "/v1/corrections": {
            "post": {
                "tags": ["corrections"],
                "operationId": "correct",
                "summary": "Say what the photo really shows",
                "description": "201 means that it is committed. The photo is sent again only where /v1/model says keep_photos.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["receipt", "answer"],
                                "properties": fields,
                            }
                        },
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "required": ["receipt", "answer"],
                                "properties": form,
                            }
                        },
                    },
                },
                "responses": {
                    "201": _json("Stored.", "Correction"),
                    "400": _problem("The body is damaged."),
                    "404": _problem("This service keeps no corrections."),
                    "409": _problem(
                        "The receipt is another service's, or the photo is not the one it was given for."
                    ),
                    "422": _problem(
                        "A field is missing, or the answer is none of the model's classes."
                    ),
                    "503": _busy(),
                    "507": _problem("The disk is full; nothing was stored, predictions go on."),
                },
            }
        },
        "/v1/corrections/stats": {
            "get": {
                "tags": ["corrections"],
                "operationId": "stats",
                "summary": "Accuracy in use",
                "description": "Of the photos people answered about; the newest answer for each receipt counts.",
                "responses": {
                    "200": _json("Counts in all, by class and by day.", "Stats"),
                    "404": _problem("This service keeps no corrections."),
                    "503": _busy(),
                },
            }
        },
    }


def _operation() -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "/healthz": {
            "get": _plain("healthz", "The process lives", {"200": _json("It does.", "Status")})
        },
        "/readyz": {
            "get": _plain(
                "readyz",
                "The process takes requests",
                {"200": _json("It does.", "Status"), "503": _json("It is stopping.", "Status")},
            )
        },
        "/metrics": {
            "get": _plain(
                "metrics",
                "Counters for Prometheus",
                {"200": {"description": "Exposition format.", "content": text}},
            )
        },
        "/openapi.json": {
            "get": _plain("openapi", "This document", {"200": _json("OpenAPI 3.1.", "Any")})
        },
    }


def _plain(name: str, summary: str, responses: Json, tag: str = "operation") -> Json:
    return {"tags": [tag], "operationId": name, "summary": summary, "responses": responses}


def _tensors() -> Json:
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The model's name.",
        "schema": {"type": "string"},
    }
    version = {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "Always 1.",
        "schema": {"type": "string"},
    }
    missing = {"404": _problem("No model of this name or version.", "/v2")}
    paths: Json = {
        "/v2": {
            "get": _plain(
                "v2Server",
                "The server",
                {"200": _json("Name, version, extensions.", "TensorServer")},
                "tensors",
            )
        },
        "/v2/health/live": {
            "get": _plain(
                "v2Live", "The process lives", {"200": _json("It does.", "Any")}, "tensors"
            )
        },
        "/v2/health/ready": {
            "get": _plain(
                "v2Ready",
                "The process takes requests",
                {"200": _json("It does.", "Any"), "503": _json("It is stopping.", "Any")},
                "tensors",
            )
        },
    }
    for prefix, parameters, suffix in (
        ("/v2/models/{name}", [name], ""),
        ("/v2/models/{name}/versions/{version}", [name, version], "Version"),
    ):
        ready = {"200": _json("It does.", "Any"), "503": _json("It is stopping.", "Any"), **missing}
        paths[prefix] = {
            "get": {
                **_plain(
                    f"v2Model{suffix}",
                    "Inputs and outputs",
                    {"200": _json("The tensors.", "TensorModel"), **missing},
                    "tensors",
                ),
                "parameters": parameters,
            }
        }
        paths[f"{prefix}/ready"] = {
            "get": {
                **_plain(f"v2ModelReady{suffix}", "The model takes requests", ready, "tensors"),
                "parameters": parameters,
            }
        }
        paths[f"{prefix}/infer"] = {
            "post": {
                "tags": ["tensors"],
                "operationId": f"v2Infer{suffix}",
                "summary": "Classify a tensor of images",
                "description": "Images are of the model's size already. Binary data may follow the JSON, as Inference-Header-Content-Length says.",
                "parameters": parameters,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref("TensorRequest")}},
                },
                "responses": {
                    "200": {
                        "description": "The outputs asked for.",
                        "content": {
                            "application/json": {"schema": _ref("TensorAnswer")},
                            "application/octet-stream": {
                                "schema": {"type": "string", "format": "binary"}
                            },
                        },
                    },
                    "400": _problem("The request does not fit the model.", "/v2"),
                    **missing,
                    "503": _busy("/v2"),
                },
            }
        }
    return paths
