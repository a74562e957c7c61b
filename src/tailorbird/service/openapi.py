"""The description of the API, OpenAPI 3.1: `openapi.json` with this service's values filled in.

The tests drive the API from this document.
"""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template
from typing import Any

from tailorbird.images import SERVED_MEDIA_TYPES
from tailorbird.service.settings import ServeSettings


def document(settings: ServeSettings, root: str = "") -> dict[str, Any]:
    """Return the document; `root` is the path under which the service is mounted."""
    from tailorbird import __version__

    text = (files("tailorbird.service") / "openapi.json").read_text(encoding="utf-8")
    filled = Template(text).safe_substitute(
        version=__version__,
        max_photos=settings.max_photos,
        max_body=f"{settings.max_body:,}",
        max_pixels=f"{settings.max_pixels:,}",
    )
    content: dict[str, Any] = json.loads(filled)
    content["servers"] = [{"url": root or "/"}]
    body = content["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    raw, form = body["application/octet-stream"], body["multipart/form-data"]
    form["schema"]["properties"]["photo"]["maxItems"] = settings.max_photos
    form["encoding"]["photo"]["contentType"] = ", ".join(SERVED_MEDIA_TYPES)
    content["paths"]["/v1/predict"]["post"]["requestBody"]["content"] = {
        **dict.fromkeys(SERVED_MEDIA_TYPES, raw),
        **body,
    }
    if settings.token is None:
        _remove_security(content)
    return content


def _remove_security(content: dict[str, Any]) -> None:
    """Remove what only holds for a service with a token."""
    del content["security"], content["components"]["securitySchemes"]
    for item in content["paths"].values():
        for operation in item.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
