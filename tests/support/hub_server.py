"""A hub on 127.0.0.1: as much of the Hugging Face hub's protocol as huggingface_hub needs to list
and download.

GET       /api/models/OWNER/REPO[/revision/REV]     commit, files, model card
GET       /api/models/OWNER/REPO/tree/REV           files with sizes
HEAD/GET  /OWNER/REPO/resolve/REV/PATH              a file: ETag, X-Repo-Commit, Range
"""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Repository:
    """Files at one commit. `token`: needed to read them (a gated repository). `private`: not
    even listed without it."""

    files: dict[str, bytes]
    token: str | None = None
    private: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha1(data).digest())
        return digest.hexdigest()


@dataclass
class Hub:
    """The server: start with `with Hub(repositories) as hub`, then hub.url.

    cut: path -> bytes after which the next transfer of that file breaks off. refuse: answer every
    request with this status.
    """

    repositories: dict[str, Repository]
    cut: dict[str, int] = field(default_factory=dict)
    refuse: int | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range header) of every request so far."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.hub = hub
                super().__init__(*arguments)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, method: str) -> Counter[str]:
        """How often each path was requested with `method`."""
        return Counter(path for used, path, _ in self.requests if used == method)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.refuse is not None:
            return self._error(self.hub.refuse, "", "refused")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._api("/".join(parts[2:4]), parts[4:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        return self._error(404, "", "no such page")

    def _found(self, name: str, revision: str, *, listing: bool) -> Repository | None:
        """The repository, or None after an error was sent."""
        repository = self.hub.repositories.get(name)
        allowed = (
            repository is None
            or repository.token is None
            or self.headers.get("Authorization") == f"Bearer {repository.token}"
        )
        if repository is None or (repository.private and not allowed):
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif not allowed and not listing:
            self._error(401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in (*repository.revisions, repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _api(self, name: str, rest: list[str]) -> None:
        revision = "/".join(rest[1:]) if rest and rest[0] in ("revision", "tree") else "main"
        repository = self._found(name, revision, listing=True)
        if repository is None:
            return None
        if rest and rest[0] == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                for path, data in repository.files.items()
            ]
            return self._json(entries)
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": _etag(data)}
            for path, data in repository.files.items()
        ]
        return self._json(
            {
                "id": name,
                "modelId": name,
                "sha": repository.commit,
                "siblings": siblings,
                "tags": [],
            }
        )

    def _file(self, name: str, revision: str, path: str, *, body: bool) -> None:
        repository = self._found(name, revision, listing=False)
        if repository is None:
            return None
        data = repository.files.get(path)
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found", commit=repository.commit)
        start, asked = 0, self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("X-Repo-Commit", repository.commit)
        if path.endswith((".onnx", "_data")):  # large files: their own checksum, as behind Git LFS
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
        self.end_headers()
        if not body:
            return None
        cut = self.hub.cut.pop(path, None)
        if cut is not None:
            self.wfile.write(data[start:cut])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, code: str, message: str, *, commit: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
