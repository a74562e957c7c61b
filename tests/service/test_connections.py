"""Slow, malformed, pipelined, excessive and half-closed connections."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.refusals import (  # noqa: F401 (fixtures)
    BROKEN,
    HEAD,
    HOST,
    PHOTO,
    POST,
    REQUESTS,
    server,
)
from support.server import Server, eventually, rest, status


def test_slow_headers_are_answered_with_408_and_silent_connections_are_closed(
    server: Server,
) -> None:
    with server.connect() as slow, server.connect() as silent:
        start = time.perf_counter()
        ended = []
        for byte in b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 1000:
            try:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
            except OSError:
                break
            slow.settimeout(0.001)
            try:
                if not (data := slow.recv(65536)):
                    break
                ended.append(data)
            except TimeoutError:
                continue
        assert time.perf_counter() - start < 16
        assert status(b"".join(ended)) == 408 and b"x-request-id" in b"".join(ended)
        assert rest(silent) == b""


def test_a_slow_body_is_answered_with_408(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        for _ in range(4):
            raw.sendall(b"x")
            time.sleep(0.2)
        answer = rest(raw)
    assert (
        status(answer) == 408 and b'"request-timeout"' in answer and b"connection: close" in answer
    )


@pytest.mark.parametrize("name", REQUESTS)
def test_malformed_requests_are_answered_with_400_and_the_connection_closes(
    server: Server, name: str
) -> None:
    answer = server.say(REQUESTS[name], 5)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 400 and answer.count(b"HTTP/1.1 ") == 1, answer[:300]
    assert (
        not answer.endswith(b"<still open>")
        and b"content-security-policy" in head
        and b"x-request-id" in head
    )
    assert json.loads(body)["error"]["code"] == "bad-request"


def test_path_traversal_is_answered_with_404(server: Server) -> None:
    for path in (
        "/static/%2e%2e/pages.py",
        "/static/..%2fpages.py",
        "/static/../pages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/%00",
        "/static/index.html%00.js",
        "/static/..",
        "/static/.",
        "/static/",
        "/static/%c0%ae%c0%ae/x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/%ff%fe",
        "/v1/%70redict%00",
        "/static/" + "a" * 5000,
        "/v1/../v1/predict",
        "*",
    ):
        answer = server.say(
            b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        )
        assert status(answer) == 404, (path, answer[:200])


def test_unusual_but_valid_requests_are_answered(server: Server) -> None:
    plain = server.say(b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n")
    assert status(plain) == 200 and plain.endswith(b'{"status":"alive"}'), (
        "HTTP/1.0 ends with the connection"
    )
    absolute = b"GET http://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert status(server.say(absolute)) == 200
    upgrade = (
        HEAD + b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    )
    assert status(server.say(upgrade)) == 200, "an offer to upgrade is ignored"
    for connection in (b"Upgrade, HTTP2-Settings", b"close, Upgrade"):
        wish = b"Connection: " + connection + b"\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        head = POST + wish + b"Content-Length: %d\r\n\r\n" % len(PHOTO)
        # Java's client sends every request this way; here in three pieces, with another behind it.
        with server.connect() as raw:
            for piece in (
                head[:70],
                head[70:] + PHOTO[:100],
                PHOTO[100:] + HEAD + b"Connection: close\r\n\r\n",
            ):
                raw.sendall(piece)
                time.sleep(0.05)
            answer = rest(raw)
        assert status(answer) == 200 and b'"disc"' in answer
        assert answer.count(b"HTTP/1.1 200") == (1 if b"close" in connection else 2), answer
    chunked = (
        POST
        + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (
            len(PHOTO),
            PHOTO,
        )
    )
    assert status(server.say(chunked)) == 200
    blank = b"\r\n\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert status(server.say(blank)) == 200


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(HEAD + b"X-Request-Id: a1\r\n\r\n" + POST + (b"X-Request-Id: "
                                                                b"a2\r\nContent-Length: "
                                                                b"%d\r\n\r\n") % len(PHOTO) + PHOTO
                    + HEAD + b"X-Request-Id: a3\r\nConnection: close\r\n\r\n")  # fmt: skip
        answer = rest(raw)
    assert [line[-2:] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")] == [
        b"a1",
        b"a2",
        b"a3",
    ]
    before = server.memory()
    with server.connect(5) as raw:
        flood = server.say((HEAD + b"\r\n") * 50_000, 5)
        assert flood.count(b"HTTP/1.1 200") < 1000 and not flood.endswith(b"<still open>")
        assert raw
    assert server.memory() - before < 30


def test_connections_beyond_the_limit_are_answered_with_503(server: Server) -> None:
    eventually(lambda: server.get("/healthz").status_code == 200)
    with HeldConnections(server, 60) as held:
        assert len(held) == 60
        with server.connect(3) as one_more:
            answer = rest(one_more)
        assert (
            status(answer) == 503
            and b"retry-after: 1" in answer
            and b'"overloaded"' in answer
            and b"x-request-id" in answer
        )
    assert eventually(lambda: server.get("/healthz").status_code == 200)


class HeldConnections:
    """Open connections that send the beginning of a request and then wait."""

    def __init__(self, server: Server, count: int) -> None:
        self._held = [server.connect() for _ in range(count)]

    def __enter__(self) -> list[socket.socket]:
        for raw in self._held:
            raw.sendall(b"GET /healthz HTTP/1.1\r\n")
        return self._held

    def __exit__(self, *_: object) -> None:
        for raw in self._held:
            raw.close()


def test_a_client_that_reads_no_responses_is_disconnected(server: Server) -> None:
    """Request more data than the buffers of the system hold for a client that never reads."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", server.port))
        eventually(lambda: connection_count(server.port) >= 1)
        raw.settimeout(1)
        request = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        try:
            for _ in range(400):
                raw.sendall(request * 8)
                time.sleep(0.005)
        except OSError:
            pass
        local = raw.getsockname()[1]
        assert eventually(lambda: not is_open_to(server.port, local)), (
            "the service still holds the connection"
        )


def tcp_rows() -> list[list[str]]:
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def connection_count(port: int) -> int:
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in tcp_rows())


def is_open_to(port: int, client: int) -> bool:
    """Return whether the service's end of a connection is still established."""
    return any(
        row[1].endswith(f":{port:04X}") and row[2].endswith(f":{client:04X}") and row[3] == "01"
        for row in tcp_rows()
    )


def test_half_closed_connections_are_closed(server: Server) -> None:
    for request in (b"", HEAD, POST + b"Content-Length: 100\r\n\r\nhello", HEAD + b"\r\n"):
        with server.connect(5) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            assert not rest(raw).endswith(b"<still open>")
    assert server.get("/healthz").status_code == 200


def test_memory_does_not_grow_under_malformed_requests(server: Server) -> None:
    attacks: list[Callable[[], object]] = [
        lambda: server.say(REQUESTS["10,000 headers"], 2),
        lambda: server.say(REQUESTS["length and chunks"], 2),
        lambda: server.say(REQUESTS["a damaged chunk"], 2),
        lambda: server.predict(BROKEN["cut JPEG"]),
        lambda: server.predict(bytes(900_000)),
        lambda: server.predict(PHOTO),
        lambda: server.get("/nowhere/" + os.urandom(8).hex()),
        lambda: server.connect().close(),
    ]
    for attack in attacks * 5:
        attack()
    before = server.memory()
    for attack in attacks * 15:
        attack()
    assert server.memory() - before < 25
    assert server.predict(PHOTO).json()["results"][0]["label"] == "disc"
    assert not server.events("failed"), server.events("failed")[:1]
