"""Files of the pages, read and filled in once, and served from memory."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tailorbird.service.web.problems import Problem
from tailorbird.service.web.texts import texts

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}

_FILLED = ("html", "webmanifest")
"""Files that are Jinja templates: of `t`, the texts of the site's language, and the `Site`."""

ICON = "icon.svg"
SCRIPT = "site.js"
"""A module made for each site: what its scripts need to know of it."""

LOGO = "logo"
LOGO_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""Content-Security-Policy of the logo: an SVG file could hold scripts, for whoever opens it."""


@dataclass(frozen=True)
class Site:
    """What is filled into the pages.

    title: name of the site. language: of `LANGUAGES`. logo: content and media type.
    styles: CSS after that of base.css. links: whether pages name the model and link to the
        dashboard and the API. command: the command that runs a local page.
    """

    title: str = "tailorbird"
    language: str = "en"
    logo: tuple[bytes, str] | None = None
    styles: str = ""
    links: bool = True
    command: str = ""


@dataclass(frozen=True)
class _File:
    data: bytes
    kind: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


class Pages:
    """The shared assets and the files of one page folder, with their content hashes."""

    def __init__(self, package: str, site: Site | None = None) -> None:
        """Read the shared assets and the folder `page/` of `package`; fill the site's values in."""
        site = site or Site()
        self._files: dict[str, _File] = {SCRIPT: _script(site)}
        for folder in (files("tailorbird.service.web") / "assets", files(package) / "page"):
            for entry in folder.iterdir():
                if entry.is_file():
                    data = _content(entry.name, entry.read_bytes(), site)
                    self._files[entry.name] = _File(data, _content_type(entry.name))
        if site.logo is not None:
            data, kind = site.logo
            self._files[LOGO] = _File(data, kind, {"Content-Security-Policy": LOGO_POLICY})
        self.icon = LOGO if LOGO in self._files else ICON
        """Name of the file with the picture of the site."""

    def content(self, name: str) -> bytes:
        """Return the bytes of a file that exists."""
        return self._files[name].data

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
        file = self._files[name]
        # Browsers revalidate each time and get 304 if nothing has changed, so that old scripts are
        # not used with a new page after an upgrade.
        headers = {**file.headers, "ETag": file.tag, "Cache-Control": "no-cache"}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.data, headers=headers, media_type=file.kind)


def _content(name: str, data: bytes, site: Site) -> bytes:
    """Return a file of the package with the site's values in it."""
    if name == "base.css":
        return data + site.styles.encode()
    if name.rpartition(".")[2] not in _FILLED:
        return data
    from jinja2 import Environment, StrictUndefined

    # What is filled in is escaped for HTML, and with `tojson` for JSON.
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, keep_trailing_newline=True, trim_blocks=True
    )
    words = json.loads(json.dumps(texts(site.language)), object_hook=lambda d: SimpleNamespace(**d))
    values: dict[str, Any] = {"t": words, "site": site}
    values["icon"] = f"static/{ICON if site.logo is None else LOGO}"
    return environment.from_string(data.decode()).render(values).encode()


def _script(site: Site) -> _File:
    value = {
        "language": site.language,
        "texts": texts(site.language),
    }
    return _File(f"export const site = {json.dumps(value)};\n".encode(), _TYPES["js"])


def _content_type(name: str) -> str:
    known = _TYPES.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]
    return known or "application/octet-stream"
