"""What counts as a photo of a request, and how everything else is refused by name."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.data import encoded, picture
from support.server import Server, serve

PHOTO = encoded(picture("disc", 5))
BASE64 = base64.b64encode(PHOTO).decode()


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    with serve(trained, "--corrections", "off") as running:
        yield running


@pytest.fixture(scope="module")
def probability(server: Server) -> float:
    """What the photo's own bytes are answered with."""
    (result,) = server.predict(PHOTO).json()["results"]
    answer: float = result["probability"]
    return answer


def results(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def refused(answer: httpx.Response, words: str, status: int = 422) -> None:
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def part(server: Server, headers: bytes, data: bytes = PHOTO) -> httpx.Response:
    body = b"--b\r\n" + headers + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return server.post("/v1/predict", content=body, headers=kind)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        (
            b"Content-Disposition: form-data; name=\"x\"; filename*=UTF-8''na%C3%AFve.jpg",
            "naïve.jpg",
        ),
        (b"Content-Disposition: form-data; name=\"x\"; filename*=latin1''n%EFve", "nïve"),
        (b"Content-Disposition: form-data; name=\"x\"; filename*=nonsense''a.jpg", "a.jpg"),
        (b'Content-Disposition: form-data; name="x"\r\nContent-Type: image/jpeg', None),
        (b'Content-Disposition: form-data; name="x"\r\nContent-Type: IMAGE/PNG', None),
        (b'Content-Disposition: form-data; name="photo"', None),
    ],
)
def test_a_part_with_a_file_name_or_of_an_images_type_is_a_photo(
    server: Server, headers: bytes, name: str | None
) -> None:
    (result,) = results(part(server, headers))
    assert result["name"] == name


@pytest.mark.parametrize(
    "body",
    [
        {"image": BASE64},
        {"image": BASE64.rstrip("=")},
        {"image": base64.urlsafe_b64encode(PHOTO).decode()},
        {"image": f"data:image/jpeg;base64,{BASE64}"},
        {"image": f"data:;base64,{BASE64}"},
        {"instances": [{"b64": BASE64}]},
        {"instances": [{"image_bytes": {"b64": BASE64}}]},
    ],
)
def test_base64_in_json_is_a_photo(server: Server, probability: float, body: object) -> None:
    (result,) = results(server.post("/v1/predict", json=body))
    assert result["probability"] == probability and result["name"] is None


def test_several_instances_are_several_photos(server: Server, probability: float) -> None:
    broken = base64.b64encode(PHOTO[:100]).decode()
    body = {"instances": [{"b64": BASE64}, {"b64": broken}, {"b64": BASE64}]}
    first, second, third = results(server.post("/v1/predict", json=body))
    assert first["probability"] == third["probability"] == probability
    assert second["error"]["code"] == "unreadable-image"
    many = {"instances": [{"b64": BASE64}] * 33}
    refused(server.post("/v1/predict", json=many), "more than 32 photos", 400)


def test_a_data_url_is_a_photo_wherever_a_photo_may_be(server: Server, probability: float) -> None:
    url = f"data:image/jpeg;base64,{BASE64}".encode()
    raw = server.post("/v1/predict", content=url, headers={"Content-Type": "image/jpeg"})
    form = part(server, b'Content-Disposition: form-data; name="photo"', url)
    for answer in (raw, form):
        assert results(answer)[0]["probability"] == probability


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "x",
        {"image": 1},
        {"image": BASE64, "top": 5},
        {"images": [BASE64]},
        {"instances": []},
        {"instances": BASE64},
        {"instances": [BASE64]},
        {"instances": [{"b64": BASE64, "key": 1}]},
    ],
)
def test_other_json_is_refused_with_the_right_form(server: Server, body: object) -> None:
    refused(server.post("/v1/predict", json=body), '{"instances": [{"b64": "BASE64"}]}')


def test_json_that_is_no_photo_costs_no_long_parsing(server: Server) -> None:
    flat = {"image": [0] * 20_000}
    refused(server.post("/v1/predict", json=flat), "too many values", 413)
    refused(server.post("/v1/predict", json={"image": "no base64!"}), "not valid base64")


def test_addresses_and_bare_base64_are_refused_in_words(server: Server) -> None:
    address = "https://shop.example/photo.jpg"
    refused(server.predict(address.encode()), "fetches nothing")
    refused(server.post("/v1/predict", json={"image": address}), "fetches nothing")
    refused(
        part(server, b'Content-Disposition: form-data; name="photo"', address.encode()),
        "fetches nothing",
    )
    for format in ("JPEG", "PNG", "GIF", "WEBP"):
        text = base64.b64encode(encoded(picture("disc", 5), format))
        refused(server.predict(text), "this is base64")


def test_unknown_fields_and_parameters_are_refused_by_name(server: Server) -> None:
    form = server.post("/v1/predict", files={"photo": ("a.jpg", PHOTO)}, data={"top": "5"})
    refused(form, "unknown field 'top'")
    refused(form, "/v1/predict?top=5")
    refused(server.predict(PHOTO, "/v1/predict?topk=5"), "unknown query parameter 'topk'")
    refused(server.predict(PHOTO, "/v1/predict?topk=5"), "valid: top, heatmap")


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "WEBP", "PNG", "JPEG"])
def test_bare_base64_of_every_format_gets_its_hint(server: Server, kind: str) -> None:
    text = base64.b64encode(encoded(picture("disc", 5), kind))
    refused(server.predict(text), "this is base64")


@pytest.mark.parametrize(
    "body", [{"url": "https://a.example/b.jpg"}, {"instances": [{"image_url": "s3://a/b.jpg"}]}]
)
def test_addresses_in_json_are_refused_in_words(server: Server, body: object) -> None:
    refused(server.post("/v1/predict", json=body), "the service fetches nothing")


def test_a_parameter_that_is_given_twice_is_refused(server: Server) -> None:
    refused(server.post("/v1/predict?top=2&top=3", content=PHOTO), "'top' is given 2 times")


def test_a_quoted_extended_file_name_makes_a_photo(server: Server) -> None:
    disposition = b"Content-Disposition: form-data; name=x; filename*=\"UTF-8''%c3%a4.jpg\""
    assert results(part(server, disposition))[0]["name"] == "\u00e4.jpg"
