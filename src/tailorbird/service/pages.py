"""The pages and what they load: read once from the package, answered from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from tailorbird.service.problems import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


class Pages:
    """Every file of the folder `page/`, in memory with its content hash."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for entry in files("tailorbird.service").joinpath("page").iterdir():
            if entry.is_file():
                data = entry.read_bytes()
                suffix = "." + entry.name.rpartition(".")[2]
                kind = (
                    _TYPES.get(suffix)
                    or mimetypes.guess_type(entry.name)[0]
                    or "application/octet-stream"
                )
                self._files[entry.name] = (data, kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    def content(self, name: str) -> bytes:
        """The bytes of one file that is known to be there."""
        return self._files[name][0]

    async def static(self, request: Request) -> Response:
        """`/static/NAME`."""
        return self._answer(request, request.path_params["name"])

    async def index(self, request: Request) -> Response:
        """`/`."""
        return self._answer(request, "index.html")

    async def dashboard(self, request: Request) -> Response:
        """`/dashboard`."""
        return self._answer(request, "dashboard.html")

    async def docs(self, request: Request) -> Response:
        """`/docs`."""
        return self._answer(request, "docs.html")

    async def icon(self, request: Request) -> Response:
        """`/favicon.ico`, which browsers ask for unasked."""
        return self._answer(request, "icon.svg")

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            raise Problem(404, "not-found", f"there is no {name[:100]!r} here")
        data, kind, tag = self._files[name]
        # Browsers ask each time and get 304 while nothing changed: after an upgrade no old script meets a new page.
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=kind)
