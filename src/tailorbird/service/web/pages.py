"""Static files of the pages, read once from the package and served from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from tailorbird.service.web.problems import Problem

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}


class Pages:
    """The shared assets and the files of one page folder, with their content hashes."""

    def __init__(self, package: str) -> None:
        """Read the shared assets and the folder `page/` of `package`."""
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for folder in (files("tailorbird.service.web") / "assets", files(package) / "page"):
            for entry in folder.iterdir():
                if entry.is_file():
                    data = entry.read_bytes()
                    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
                    self._files[entry.name] = (data, _content_type(entry.name), tag)

    def content(self, name: str) -> bytes:
        """Return the bytes of a file that exists."""
        return self._files[name][0]

    def page(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that always answers with one file."""

        async def answer(request: Request) -> Response:
            return self._answer(request, name)

        return answer

    async def static(self, request: Request) -> Response:
        """Answer `/static/NAME`."""
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            raise Problem(404, "not-found", f"there is no file {name[:100]!r}")
        data, kind, tag = self._files[name]
        # Browsers revalidate each time and get 304 if nothing has changed, so that old scripts are
        # not used with a new page after an upgrade.
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=kind)


def _content_type(name: str) -> str:
    known = _TYPES.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]
    return known or "application/octet-stream"
