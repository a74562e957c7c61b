"""What operators meet: slow but steady uploads, logs, closed terminals, databases, large JSON."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.data import encoded, picture
from support.server import Server, eventually, rest, serve, serve_with, status
from tailorbird.errors import SettingsError
from tailorbird.service import ServeSettings, create_app, inference_protocol

PHOTO = encoded(picture("disc", 5, (400, 300)), "BMP")

IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def send_slowly(server: Server, seconds: float) -> bytes:
    """Send a photo in 20 parts over `seconds`; return the response."""
    with server.connect() as raw:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(PHOTO)}\r\n"
        raw.sendall(head.encode() + b"Connection: close\r\n\r\n")
        size = len(PHOTO) // 20 + 1
        for start in range(0, len(PHOTO), size):
            try:
                raw.sendall(PHOTO[start : start + size])
            except OSError:
                break
            time.sleep(seconds / 20)
        return rest(raw)


def test_a_photo_that_arrives_slowly_but_steadily_is_answered(trained: Path) -> None:
    # Any second brings more than the least rate, and the whole takes longer than the timeout.
    with serve_with(trained, receive_timeout=0.5, min_rate=100, deadline=20) as server:
        assert status(send_slowly(server, 2.0)) == 200


def test_a_photo_below_the_least_rate_is_cut_off(trained: Path) -> None:
    with serve_with(trained, receive_timeout=0.5, min_rate=2**30) as server:
        answer = send_slowly(server, 10.0)
        assert status(answer) == 408 and b"did not arrive in time" in answer


@pytest.fixture
def server(trained: Path) -> Iterator[Server]:
    with serve(trained, "--corrections", "off") as running:
        yield running


def test_every_line_of_the_log_is_json(server: Server) -> None:
    for _ in range(5):  # clients that leave while their photo is worked on
        with server.connect() as raw:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
            raw.sendall(head.replace("Host: a", "Host: 127.0.0.1").encode() + PHOTO)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"--b\r\nnonsense", b"--b\r\n: x\r\n\r\n--b--", b"\0" * 1000):
        assert server.post("/v1/predict", content=body, headers=kind).status_code == 400
    server.say(b"nonsense\r\n\r\n")
    assert server.predict(PHOTO).status_code == 200
    assert eventually(lambda: len(server.events("request")) >= 5)
    assert server.stop() == 0
    lines = server.text().splitlines()
    assert all("time" in json.loads(line) for line in lines), server.text()
    assert server.events("serving")  # at a terminal it is a sentence
    assert "never retrieved" not in server.text()


def test_warnings_threads_tasks_and_libraries_log_json(tmp_path: Path) -> None:
    program = """
import asyncio, logging, threading, warnings
from tailorbird.service.web.logs import configure_logging, log
logging.getLogger("python_multipart").addHandler(logging.StreamHandler())
configure_logging()
log("mine", number=1)
warnings.warn("a warning")
logging.getLogger("python_multipart").warning("odd %s", "part")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
async def main():
    async def fails():
        raise ValueError("nobody awaits this")
    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    import gc; gc.collect()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == [
        "mine", "warning", "library", "thread-failed", "library",
    ]  # fmt: skip
    assert "a warning" in events[1]["message"] and events[2]["message"] == "odd part"
    assert "ZeroDivisionError" in events[3]["traceback"]
    assert "nobody awaits this" in events[4]["traceback"]


def in_terminal(model: Path, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a service from a terminal of its own; the descriptor keeps that terminal open."""
    master, slave = pty.openpty()
    command = ["-m", "tailorbird", "serve", str(model), "--port", "0", "--corrections", "off"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *command, *options],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(slave)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://")
    return process, master


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_closed_terminal_ends_the_service(trained: Path, workers: str) -> None:
    process, master = in_terminal(trained, "--workers", workers)
    try:
        process.send_signal(signal.SIGHUP)  # the terminal is open: this is a reload
        time.sleep(1)
        assert process.poll() is None
        os.close(master)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_database_nobody_asked_for_names_the_option(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shapes.onnx"))
    (tmp_path / "shapes.db").mkdir()
    with pytest.raises(SettingsError, match="--corrections off"):
        create_app(ServeSettings(model=model, corrections=str(tmp_path / "shapes.db")))


def test_large_json_tensors_are_parsed_outside_the_event_loop(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("parsed in the event loop")

    async def scenario() -> None:
        service = create_app(ServeSettings(model=trained))
        size = service.state.slot.current.rule.size
        values = [7] * (size * size * 3)
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, size, size, 3]}
        body = json.dumps({"inputs": [{**tensor, "data": values}]})
        assert len(body) > inference_protocol.QUICK_JSON
        monkeypatch.setattr(inference_protocol, "parse_tensor", refuse)
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            address = f"/v2/models/{trained.stem}/infer"
            answer = await client.post(address, content=body, timeout=60)
            assert answer.status_code == 200, answer.text
        service.state.batcher.close()

    asyncio.run(scenario())
