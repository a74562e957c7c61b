"""Input nobody thought of: whatever comes, the service answers what its document says and the
decoder raises what it promises.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from support.data import encoded, picture
from support.server import Server, serve
from tailorbird import images
from tailorbird.errors import ImageError
from tailorbird.service import receipts
from tailorbird.service.uploads import parse_form
from tailorbird.service.web.problems import Problem

TOKEN = "a-token-of-the-tests"
PHOTO = encoded(picture("disc", 1, (40, 36)))


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(
        Path(shutil.copy(trained, tmp_path_factory.mktemp("fuzz") / "shapes.onnx")),
        "--token",
        TOKEN,
    ) as running:
        yield running


OPERATIONS = (
    "predict",
    "model",
    "reload",
    "correct",
    "stats",
    "healthz",
    "readyz",
    "metrics",
    "openapi",
    "v2Server",
    "v2Live",
    "v2Ready",
    "v2Model",
    "v2ModelReady",
    "v2Infer",
    "v2ModelVersion",
    "v2ModelReadyVersion",
    "v2InferVersion",
)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_answers_as_its_document_says(server: Server, name: str) -> None:
    """schemathesis makes requests from the document, right and wrong ones, and checks the answers
    against it.
    """
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    operation = schema.find_operation_by_id(name)
    many = name in ("predict", "correct", "v2Infer")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    # No schema says which bytes are a picture, which text is a receipt, or how long `data` is for
    # its shape.
    beyond_schemas: list[Any] = [positive_data_acceptance] if many else []
    if name == "predict":
        # A parameter nobody knows is passed over; with a token that is sent all the same,
        # schemathesis calls that accepting what is wrong.
        beyond_schemas.append(negative_data_rejection)
    driven: list[schemathesis.Case[Any]] = []
    until, least = time.monotonic() + (8 if many else 2), 40 if many else 1
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @settings(
            max_examples=60 if many else 8,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def drive(case: schemathesis.Case[Any]) -> None:
            if time.monotonic() < until or len(driven) < least:
                driven.append(case)
                case.call_and_validate(headers=headers, timeout=20, excluded_checks=beyond_schemas)

        try:
            drive()
        except Exception as error:
            if "Unsatisfiable" in type(error).__name__ or "nothing to negate" in str(error).lower():
                continue  # an operation without parameters has no wrong ones
            raise
    assert len(driven) >= least
    assert not server.events("failed"), server.events("failed")[0]


def samples() -> dict[str, bytes]:
    """A small valid file of each accepted format and of the kinds that decoders treat apart."""
    image = picture("disc", 1, (40, 36))
    grey16 = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (20, 20), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {kind: encoded(image, kind) for kind in images.SERVED}
    found |= {
        "progressive": encoded(image, "JPEG", progressive=True),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "exif": encoded(image, "JPEG", exif=exif),
        "palette": encoded(image.quantize(16), "PNG"),
        "alpha": encoded(image.convert("RGBA"), "PNG"),
        "16 bit": encoded(grey16, "PNG"),
        "interlaced": encoded(image, "PNG", interlace=1),
        "lossless": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "animated": encoded(
            image, "GIF", save_all=True, append_images=[picture("box", 2, (40, 36))]
        ),
        "animated WebP": encoded(
            image, "WEBP", save_all=True, append_images=[picture("box", 2, (40, 36))]
        ),
        "bitmap of 8 bit": encoded(image.quantize(16), "BMP"),
    }
    return found


SAMPLES = samples()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, cut out, doubled or put in, most often in its header."""
    data = bytearray(SAMPLES[draw(st.sampled_from(sorted(SAMPLES)))])
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        most = min(len(data), 64) if draw(st.booleans()) else len(data)
        at = draw(st.integers(0, most - 1))
        match draw(st.integers(0, 4)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 64))]
            case 2:
                data[at:at] = draw(st.binary(max_size=32))
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
            case _:
                data[at : at + 4] = draw(
                    st.sampled_from(
                        [
                            b"\xff\xff\xff\xff",
                            b"\0\0\0\0",
                            b"\x7f\xff\xff\xff",
                            b"\0\0\xff\xff",
                            b"\x80\0\0\0",
                        ]
                    )
                )
    return bytes(data)


@settings(
    max_examples=700,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=mutated(), least=st.sampled_from([None, 16]))
def test_the_decoder_raises_image_errors_and_nothing_else(data: bytes, least: int | None) -> None:
    start = time.perf_counter()
    try:
        photo = images.decode(data, at_least=least, max_pixels=4_000_000)
    except ImageError as error:
        assert str(error) and "Traceback" not in str(error)
    else:
        assert photo.image.mode == "RGB" and photo.width * photo.height <= 4_000_000
        assert photo.image.width * photo.image.height <= 4_000_000
    assert time.perf_counter() - start < 10


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    data=st.binary(max_size=400),
    head=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"BM",
            b"RIFF\0\0\0\0WEBP",
            b"\0\0\0\x20ftypavif",
        ]
    ),
)
def test_noise_behind_a_signature_is_refused(data: bytes, head: bytes) -> None:
    with pytest.raises(ImageError):
        images.decode(head + data, max_pixels=4_000_000)


PIECES = [
    b"--b", b"--b--", b"\r\n", b"\r", b"\n", b"--", b": ", b"Content-Disposition",
    b"Content-Disposition: form-data; ", b'name="photo"', b'; filename="a"',
    b"; filename*=utf-8''a%00", b"Content-Transfer-Encoding: "
                                b"base64", b'name="', b"\0", b"\xff", b'"', b";", b"=", b"x" * 40,
]  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(
    body=st.one_of(
        st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
    ),
    boundary=st.one_of(st.just(b"b"), st.binary(max_size=80)),
)
def test_the_form_parser_raises_problems_and_nothing_else(body: bytes, boundary: bytes) -> None:
    for whole in (body, b"--" + boundary + b"\r\n" + body + b"\r\n--" + boundary + b"--\r\n"):
        try:
            form = parse_form(whole, {b"boundary": boundary}, most_photos=3)
        except Problem as problem:
            assert problem.status in (400, 413)
        else:
            assert len(form.photos) <= 3 and sum(len(photo.data) for photo in form.photos) <= len(
                whole
            )


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    content=st.binary(max_size=3000).filter(lambda data: b"\r\n--b" not in data),
    name=st.text(max_size=40),
)
def test_what_goes_into_a_form_comes_out(content: bytes, name: str) -> None:
    quoted = name.encode("utf-8", "replace").translate(None, b'\r\n\0"\\/;')
    head = (
        b'--b\r\nContent-Disposition: form-data; name="photo"; filename="' + quoted + b'"\r\n\r\n'
    )
    form = parse_form(head + content + b"\r\n--b--\r\n", {b"boundary": b"b"}, most_photos=1)
    assert [photo.data for photo in form.photos] == [content]
    assert form.photos[0].name in (quoted.decode() or None, quoted.decode().strip() or None)


SECRET = b"s" * 32
GOOD = receipts.issue(
    SECRET, photo="0" * 64, model="1" * 64, model_name="shöp", top=(("a.b", 0.5), ("<b>", 0.25))
)


@settings(max_examples=800, deadline=None, derandomize=True, database=None)
@given(
    text=st.one_of(
        st.text(max_size=200),
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 40), st.text(max_size=5)).map(
            lambda cut: GOOD[: cut[0]] + cut[2] + GOOD[cut[0] + cut[1] :]
        ),
    )
)
def test_only_receipts_we_signed_are_read(text: str) -> None:
    if text == GOOD:
        assert receipts.read(SECRET, text).label == "a.b"
        return
    with pytest.raises(Problem) as refused:
        receipts.read(SECRET, text)
    assert refused.value.status in (409, 422)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    payload=st.one_of(
        st.binary(max_size=100),
        st.recursive(
            st.none() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ipmnt"), inner)
            ),
        ).map(lambda value: __import__("json").dumps(value).encode()),
    )
)
def test_a_signed_receipt_of_another_version_is_refused_politely(payload: bytes) -> None:
    from itsdangerous import Signer
    from itsdangerous.encoding import base64_encode

    serializer = receipts._serializer(SECRET)
    signer = Signer(SECRET, salt=serializer.salt, **serializer.signer_kwargs)
    with pytest.raises(Problem) as refused:
        receipts.read(SECRET, signer.sign(base64_encode(payload)).decode())
    assert refused.value.status == (409 if payload else 422)
