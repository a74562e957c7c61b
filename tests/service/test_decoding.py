"""Decoder processes: same pixels as in the process, a time limit that ends them, and recovery."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.server import Server, eventually, serve_with
from tailorbird import images
from tailorbird.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from tailorbird.images import ResizeRule
from tailorbird.service import ServeSettings, create_app
from tailorbird.service.batching import Batcher
from tailorbird.service.decoding import BUSY_SECONDS, Decoder, Decoders, DecodingTooSlow
from tailorbird.service.telemetry import Telemetry
from tailorbird.service.tensors import BadTensor

RULE = ResizeRule(64)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    one = Decoder(seconds=60)
    yield one
    one.close()


def slow_photo() -> bytes:
    """A photo of 49 megapixels with 16 bits, which no processor decodes in a tenth of a second."""
    return encoded(Image.fromarray(np.zeros((7000, 7000), np.uint16)), "PNG", compress_level=1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_decoder_returns_the_pixels_of_the_library(decoder: Decoder, format: str) -> None:
    data = encoded(picture("disc", 3, (300, 200)), format)
    for rule in (RULE, ResizeRule(64, keep_aspect=True, share=0.875, filter="bicubic")):
        assert np.array_equal(decoder.photo(data, rule, 10**6), images.load(data, rule))


def test_a_decoder_reports_the_errors_of_the_library(decoder: Decoder) -> None:
    photo = encoded(picture("disc", 3, (300, 200)), "PNG")
    for data, pixels, kind in (
        (b"", 10**6, UnreadableImage),
        (photo[:200], 10**6, UnreadableImage),
        (b"%PDF-1.7", 10**6, UnsupportedImage),
        (photo, 5000, ImageTooLarge),
    ):
        with pytest.raises(kind) as here:
            images.load(data, RULE, max_pixels=pixels, accepted=images.SERVED)
        with pytest.raises(kind) as there:
            decoder.photo(data, RULE, pixels)
        assert str(there.value) == str(here.value)


def test_a_decoder_parses_tensors(decoder: Decoder) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3]}
    request = {"id": "7", "inputs": [{**tensor, "data": values.ravel().tolist()}]}
    meta, parsed = decoder.tensor(json.dumps(request).encode(), 2, 4)
    assert np.array_equal(parsed, values) and meta == {"id": "7", "inputs": [tensor]}
    with pytest.raises(BadTensor, match="cannot be parsed"):
        decoder.tensor(b"{", 2, 4)


def test_a_photo_that_takes_too_long_is_refused_and_the_next_one_is_decoded() -> None:
    decoder = Decoder(seconds=0.1)
    try:
        with pytest.raises(DecodingTooSlow, match=r"longer than 0\.1 seconds; save the photo"):
            decoder.photo(slow_photo(), RULE, 50_000_000)
        small = encoded(picture("disc", 3, (30, 20)), "PNG")
        assert decoder.photo(small, RULE, 10**6).shape == (64, 64, 3)
    finally:
        decoder.close()


def test_a_decoder_that_dies_is_replaced(decoder: Decoder) -> None:
    small = encoded(picture("disc", 3, (30, 20)), "PNG")
    decoder.photo(small, RULE, 10**6)
    process = decoder._process
    assert process is not None
    process.kill()
    process.wait()
    assert decoder.photo(small, RULE, 10**6).shape == (64, 64, 3)
    assert decoder._process is not process
    decoder.close()
    assert decoder.busy_since is None


def test_decoders_are_stuck_when_all_of_them_are() -> None:
    decoders = Decoders(2, seconds=60)
    long_ago = time.monotonic() - BUSY_SECONDS - 1
    assert not decoders.stuck
    decoders._all[0].busy_since = long_ago
    assert not decoders.stuck
    decoders._all[1].busy_since = time.monotonic()
    assert not decoders.stuck
    decoders._all[1].busy_since = long_ago
    assert decoders.stuck


def test_an_abandoned_photo_is_under_way_until_its_decoder_is_free() -> None:
    async def scenario() -> None:
        batcher = Batcher(threads=1, queue=1, batch=1, decode_seconds=60, meter=Telemetry())
        began, may_end = threading.Event(), threading.Event()

        def work(_: Decoder) -> None:
            began.set()
            may_end.wait(30)

        decoding = asyncio.ensure_future(batcher.decode(work, time.monotonic() + 60))
        await asyncio.to_thread(began.wait, 30)
        decoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decoding
        assert batcher.under_way == 1 and batcher.full
        may_end.set()
        while batcher.full:
            await asyncio.sleep(0.01)
        batcher.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_readiness_says_busy_while_every_decoder_is_stuck(trained: Path) -> None:
    async def scenario() -> None:
        service = create_app(ServeSettings(model=trained))
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            for decoder in service.state.batcher._decoders._all:
                decoder.busy_since = time.monotonic() - BUSY_SECONDS - 1
            answer = await client.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, {"status": "busy"})
            assert (await client.get("/v2/health/ready")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
        service.state.batcher.close()

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    with serve_with(trained, decode_seconds=0.1, deadline=60) as running:
        yield running


def test_a_slow_photo_is_that_photos_error(server: Server) -> None:
    answer = server.predict(slow_photo())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "unreadable-image")
    assert "longer than 0.1 seconds" in error["message"]
    assert server.predict(encoded(picture("disc", 3))).status_code == 200


def test_decoders_end_with_the_service(trained: Path) -> None:
    with serve_with(trained) as server:
        server.predict(encoded(picture("disc", 3)))
        tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
        pids = [int(pid) for path in tasks for pid in path.read_text().split()]
        assert pids
        assert server.stop() == 0
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
