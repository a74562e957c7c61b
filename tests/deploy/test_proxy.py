"""The proxies of deploy/, run for real: nginx and Caddy with TLS in front of a service."""

from __future__ import annotations

import http.client
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.data import encoded, picture
from support.deployed import DEPLOY, TOKEN, Proxy, Service
from tailorbird.service import ServeSettings
from tailorbird.service.web.server import KEEP_ALIVE

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
MIB = 2**20


@pytest.fixture(scope="module")
def service(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"), trained, "--allow-host", "localhost")
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    started = Proxy(request.param, tmp_path_factory.mktemp(request.param), service.url)
    yield started
    started.stop()


def client(proxy: Proxy, address: str = "127.0.0.1") -> httpx.Client:
    """A client at an address of its own: all of 127.0.0.0/8 is this machine."""
    transport = httpx.HTTPTransport(verify=proxy.context, local_address=address)
    return httpx.Client(transport=transport, base_url=proxy.url, timeout=30, headers=AUTHORIZED)


def logged(service: Service, request_id: str) -> dict[str, object]:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for line in service.log():
            if line.get("request_id") == request_id:
                return line
        time.sleep(0.05)
    raise AssertionError(f"no line about {request_id}")


def test_a_photo_goes_through_tls_from_the_services_own_page(
    proxy: Proxy, service: Service
) -> None:
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Forwarded-Proto": "gopher",
    }
    with client(proxy, "127.0.0.2") as visitor:
        page = visitor.get("/", headers={"Authorization": ""})
        photo = encoded(picture("disc", 5, (1600, 1200)), quality=100)
        # As a browser sends it from that page, whose origin has the proxy's port.
        answer = visitor.post(
            "/v1/predict",
            content=photo,
            headers={"Origin": proxy.url, "Content-Type": "image/jpeg", **forged},
        )
        elsewhere = visitor.post(
            "/v1/predict", content=photo, headers={"Origin": "https://elsewhere.example"}
        )
        nobody = visitor.post("/v1/predict", content=photo, headers={"Authorization": ""})
    assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert (
        page.headers["strict-transport-security"].startswith("max-age=")
        and "default-src 'none'" in page.headers["content-security-policy"]
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["label"] in {"disc", "box", "cross"}
    line = logged(service, answer.headers["x-request-id"])
    assert line["client"] == "127.0.0.2", (
        "the visitor's address, not the proxy's and not what the visitor claims"
    )
    assert line["received"] == len(photo)
    assert elsewhere.status_code == 403 and elsewhere.json()["error"]["code"] == "forbidden"
    assert nobody.status_code == 401 and nobody.headers["www-authenticate"] == "Bearer"


def test_a_photo_larger_than_the_proxys_memory_buffer_arrives_whole(proxy: Proxy) -> None:
    photo = encoded(picture("box", 6, (2400, 1600)), "PNG")
    assert len(photo) > 2 * MIB
    with client(proxy) as visitor:
        answer = visitor.post("/v1/predict", files=[("photo", ("a b ü.png", photo))] * 2)
    assert [result["name"] for result in answer.json()["results"]] == ["a b ü.png"] * 2


@pytest.mark.parametrize(("size", "by_service"), [(20 * MIB + 1, True), (31_000_000, False)])
def test_what_is_too_large_is_refused_in_the_services_words(
    proxy: Proxy, size: int, by_service: bool
) -> None:
    with client(proxy) as visitor:
        answer = visitor.post("/v1/predict", content=bytes(size))
        said = answer.json()["error"]
        assert (answer.status_code, said["status"], said["code"]) == (413, 413, "body-too-large")
        assert ("request_id" in said) == by_service and "20 MiB" in said["message"]
        assert visitor.get("/healthz").status_code == 200, "and the next request is answered"


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics", "/metrics?a=b"]
)
def test_metrics_stay_inside(proxy: Proxy, service: Service, path: str) -> None:
    # Not through httpx, which would tidy the path up.
    connection = http.client.HTTPSConnection(
        "localhost", proxy.port, context=proxy.context, timeout=30
    )
    connection.request("GET", path, headers=AUTHORIZED)
    answer = connection.getresponse()
    assert answer.status == 404 and b"tailorbird_" not in answer.read()
    connection.close()
    assert (
        "tailorbird_http_requests_total"
        in httpx.get(f"{service.url}/metrics", headers=AUTHORIZED).text
    )


def test_plain_http_is_sent_to_https(proxy: Proxy) -> None:
    answer = httpx.get(
        f"http://127.0.0.1:{proxy.plain_port}/v1/model", headers={"Host": "localhost"}
    )
    assert answer.status_code in (301, 308) and answer.headers["location"].startswith(
        "https://localhost"
    )


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_503_passes_through_and_an_absent_service_is_503_with_retry_after(
    kind: str, trained: Path, tmp_path: Path
) -> None:
    service = Service(tmp_path / "service", trained, "--drain", "2")
    proxy = Proxy(kind, tmp_path / kind, service.url)
    try:
        with client(proxy) as visitor:
            assert visitor.get("/readyz").json() == {"status": "ready"}
            service.process.send_signal(signal.SIGTERM)
            stopping = eventually(lambda: visitor.get("/readyz"), 503)
            assert stopping.json() == {"status": "stopping"}, "the service's own answer"
            assert service.stop() == 0
            gone = visitor.post("/v1/predict", content=b"photo")
            assert (gone.status_code, gone.json()["error"]["code"]) == (503, "not-ready")
            assert (
                int(gone.headers["retry-after"]) > 0
                and gone.headers["content-type"] == "application/json"
            )
    finally:
        proxy.stop()
        service.stop()


def eventually(ask: Callable[[], httpx.Response], status: int) -> httpx.Response:
    until = time.monotonic() + 5
    while (answer := ask()).status_code != status and time.monotonic() < until:
        time.sleep(0.02)
    assert answer.status_code == status
    return answer


def test_whose_word_on_the_visitors_address_is_believed(
    service: Service, trained: Path, tmp_path: Path
) -> None:
    """By default a proxy's on 127.0.0.1; compose.yaml's FORWARDED_ALLOW_IPS=* believes the only one
    that can connect.
    """
    for running, believed in (
        (service, False),
        (Service(tmp_path, trained, FORWARDED_ALLOW_IPS="*"), True),
    ):
        transport = httpx.HTTPTransport(local_address="127.0.0.3")
        with httpx.Client(transport=transport, base_url=running.url) as direct:
            answer = direct.get(
                "/healthz", headers={"X-Forwarded-For": "203.0.113.7", "Host": "localhost"}
            )
        line = logged(running, answer.headers["x-request-id"])
        assert line["client"] == ("203.0.113.7" if believed else "127.0.0.3")
    running.stop()


def test_times_and_sizes_of_the_proxies_fit_the_services(tmp_path: Path) -> None:
    """The service must be the one that answers: its deadline ends first, its limit is met first, it
    closes idle connections last.
    """
    settings = ServeSettings(model=tmp_path / "model.onnx")

    def number(name: str, pattern: str) -> int:
        found = re.search(pattern, (DEPLOY / name).read_text(encoding="utf-8"), re.M)
        assert found, f"{name} says nothing that matches {pattern}"
        return int(found[1])

    assert (
        settings.deadline
        < number("nginx.conf", r"proxy_read_timeout (\d+)s;")
        <= settings.deadline + 10
    )
    assert (
        settings.deadline
        < number("Caddyfile", r"response_header_timeout (\d+)s")
        <= settings.deadline + 10
    )
    assert number("nginx.conf", r"^ {4}keepalive_timeout (\d+)s;  #") < KEEP_ALIVE
    assert number("Caddyfile", r"^\t+keepalive (\d+)s") < KEEP_ALIVE
    assert (
        settings.max_body
        < number("nginx.conf", r"client_max_body_size (\d+)m;") * MIB
        <= settings.max_body + MIB
    )
    assert number("nginx.conf", r"proxy_send_timeout (\d+)s;") >= settings.receive_timeout
    # The largest body at the least rate: the service, not the proxy, says when that is too slow.
    slowest = settings.receive_timeout + settings.max_body / settings.min_rate
    assert number("Caddyfile", r"read_body (\d+)s") >= slowest
