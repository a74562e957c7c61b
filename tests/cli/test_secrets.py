"""`serve --token-file`, `--corrections-file` and `tailorbird health`, as containers use them."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tailorbird.cli.secrets import MOST, secret_from
from tailorbird.errors import RunError, SettingsError
from tailorbird.service.probe import wait_until_ready


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tailorbird", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "content",
    [b"s3cret value", b"s3cret value\n", b"s3cret value\r\n", b"\xef\xbb\xbfs3cret value\n\n"],
)
def test_the_file_holds_the_value_and_perhaps_a_newline(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mein Token ü"
    file.write_bytes(content)
    assert secret_from("token", None, file) == "s3cret value"


def test_without_a_file_the_option_stands() -> None:
    assert secret_from("token", "given", None) == "given"
    assert secret_from("token", None, None) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"hunter2" * MOST, "longer than"),
    ],
)
def test_a_file_without_a_value_is_said_and_not_quoted(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as refused:
        secret_from("token", None, file)
    assert (
        "--token-file" in str(refused.value)
        and str(file) in str(refused.value)
        and "hunter2" not in str(refused.value)
    )


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"--corrections-file .*nowhere cannot be read: No such file"
    ):
        secret_from("corrections", None, tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        secret_from("token", None, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_nobody_writes_to_does_not_hold_the_start_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="is empty"):
        secret_from("token", None, tmp_path / "pipe")


def test_both_ways_at_once_are_refused_without_either_value(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    done = run(
        "serve",
        "absent.onnx",
        TAILORBIRD_TOKEN="from-the-variable",
        TAILORBIRD_TOKEN_FILE=str(file),
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "--token and --token-file were both given (or TAILORBIRD_TOKEN and TAILORBIRD_TOKEN_FILE)"
        in done.stderr
    )
    assert "from-the" not in done.stderr and "Traceback" not in done.stderr


def test_an_empty_variable_counts_as_none(tmp_path: Path) -> None:
    """compose.yaml empties the image's TAILORBIRD_CORRECTIONS to give a file instead."""
    done = run(
        "serve",
        "absent.onnx",
        TAILORBIRD_CORRECTIONS="",
        TAILORBIRD_CORRECTIONS_FILE=str(tmp_path / "nowhere"),
    )
    assert done.returncode == 2 and "nowhere cannot be read" in done.stderr


def test_a_corrections_file_is_used_and_its_password_never_shown(
    tmp_path: Path, trained: Path
) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://tailorbird:hunter2hunter2@127.0.0.1:1/tailorbird\n")
    done = run("serve", str(trained), "--port", "0", "--corrections-file", str(file))
    assert done.returncode == 1, done.stderr
    assert "the PostgreSQL database tailorbird on 127.0.0.1:1 cannot be reached" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


class _Ready(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        status = self.status if self.path == "/readyz" else 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"status": "stopping"}')

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(status: int) -> Iterator[str]:
    handler = type("Handler", (_Ready,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_health_is_an_exit_code() -> None:
    # A proxy of the environment must not be asked.
    with answering(200) as url:
        done = run("health", url, "--json", http_proxy="http://127.0.0.1:1")
        said = {"ready": True, "url": url, "warning": None}
        assert (done.returncode, json.loads(done.stdout)) == (0, said)
        by_port = run("health", "--quiet", TAILORBIRD_PORT=url.rpartition(":")[2])
        assert (by_port.returncode, by_port.stdout, by_port.stderr) == (0, "", "")
    done = run("health", url)
    assert done.returncode == 1 and "is not ready: Connection refused" in done.stderr


def test_health_says_what_the_service_says() -> None:
    with answering(503) as url, pytest.raises(RunError, match=r"it answers 503 .*stopping"):
        wait_until_ready(url)
    for wrong in ("ftp://127.0.0.1", "127.0.0.1:8000", "file:///etc/passwd"):
        with pytest.raises(SettingsError, match="is not the address of a service"):
            wait_until_ready(wrong)


def test_health_waits_for_a_service_that_is_starting() -> None:
    with answering(503) as url:
        handler = _Ready
        began = time.monotonic()
        with pytest.raises(RunError):
            wait_until_ready(url, wait=0.5)
        assert 0.2 < time.monotonic() - began < 50
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), handler, bind_and_activate=False
    ) as server:
        server.server_bind()  # bound, not yet listening: connections are refused

        def begin() -> None:
            server.server_activate()
            server.serve_forever()

        later = threading.Timer(0.6, begin)
        later.start()
        wait_until_ready(f"http://127.0.0.1:{server.server_address[1]}", wait=20)
        server.shutdown()
        later.join()
