"""Who is answered: hosts and origins as proxies, apps and browsers really send them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.data import encoded, picture
from support.server import Server, serve_with
from tailorbird.errors import SettingsError
from tailorbird.service import ServeSettings
from tailorbird.service.web.middleware import security_headers

PHOTO = encoded(picture("disc", 5))


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    with serve_with(
        trained,
        allow_hosts=["Shop.Example:443", "Bücher.example"],
        allow_origins=["HTTPS://Portal.Example:443/", "capacitor://localhost"],
        frame_ancestors=["https://portal.example"],
    ) as running:
        yield running


def predicted(server: Server, host: str, origin: str | None = None) -> httpx.Response:
    headers = {"Host": host, "Content-Type": "image/jpeg"}
    if origin is not None:
        headers["Origin"] = origin
    return server.post("/v1/predict", content=PHOTO, headers=headers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_health_checks_answer_any_host(server: Server, path: str) -> None:
    for host in ("10.1.2.3:8000", "pod-7f", "[fd00::1]"):
        assert server.get(path, headers={"Host": host}).status_code == 200


def test_other_paths_answer_only_their_hosts(server: Server) -> None:
    for path in ("/", "/metrics", "/v1/model"):
        answer = server.get(path, headers={"Host": "10.1.2.3:8000"})
        assert answer.status_code == 400 and "--allow-host 10.1.2.3" in answer.text
    for host in ("shop.example", "SHOP.example.", "shop.example:443", "xn--bcher-kva.example"):
        assert server.get("/v1/model", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("shop.example:443", "https://shop.example"),
        ("shop.example", "https://shop.example:443"),
        ("shop.example:80", "http://shop.example"),
        ("shop.example", "https://SHOP.example"),
        ("shop.example:8443", "https://shop.example:8443"),
        ("shop.example", "https://portal.example"),
        ("shop.example", "capacitor://localhost"),
    ],
)
def test_default_ports_and_allowed_sites_are_accepted(
    server: Server, host: str, origin: str
) -> None:
    assert predicted(server, host, origin).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("shop.example:80", "https://shop.example"),
        ("shop.example:8443", "https://shop.example"),
        ("shop.example", "https://shop.example:8443"),
        ("shop.example", "https://evil.example"),
        ("shop.example", "https://portal.example:8443"),
        ("shop.example", "ionic://localhost"),
        ("shop.example", "null"),
        ("shop.example", "https://[bad"),
    ],
)
def test_other_ports_and_other_sites_are_refused(server: Server, host: str, origin: str) -> None:
    answer = predicted(server, host, origin)
    assert answer.status_code == 403 and "--allow-origin" in answer.text


def test_cross_origin_headers_name_the_normalised_origin(server: Server) -> None:
    answer = predicted(server, "shop.example", "https://portal.example")
    assert answer.headers["access-control-allow-origin"] == "https://portal.example"


def test_only_named_sites_may_frame_the_page(server: Server) -> None:
    headers = server.get("/").headers
    assert "frame-ancestors https://portal.example" in headers["content-security-policy"]
    assert "x-frame-options" not in headers
    closed = security_headers()
    assert "frame-ancestors 'none'" in closed["Content-Security-Policy"]
    assert closed["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_hosts", "https://shop.example"),
        ("allow_hosts", "shop.example/classify"),
        ("allow_hosts", "shop.example:8443"),
        ("allow_hosts", "*.shop.example"),
        ("allow_hosts", "*"),
        ("allow_origins", "shop.example"),
        ("allow_origins", "https://shop.example/page"),
        ("allow_origins", "https://user@shop.example"),
        ("allow_origins", "*"),
        ("allow_origins", "https://shop.example:99999"),
        ("allow_origins", "https://shop..example"),
        ("allow_origins", "https://[::1"),
        ("allow_origins", "http://127.1"),
        ("allow_origins", "null"),
        ("allow_origins", "file://"),
        ("frame_ancestors", "https://*"),
        ("frame_ancestors", "https://a.example; script-src *"),
        ("host", "unix:/run/tailorbird.sock"),
        ("host", "/run/tailorbird.sock"),
    ],
)
def test_what_could_never_match_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=r"write|not supported") as refused:
        ServeSettings(
            model=Path("shop.onnx"),
            **{name: value if name == "host" else (value,)},  # type: ignore[arg-type]
        )
    assert repr(value) in str(refused.value)


def test_a_trusted_proxy_must_be_an_address() -> None:
    with pytest.raises(SettingsError, match="FORWARDED_ALLOW_IPS"):
        ServeSettings(model=Path("shop.onnx"), trusted_proxies=("proxy.example",))


def test_every_address_of_this_machine_is_loopback(trained: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        settings = ServeSettings(model=trained, host=host)
        assert settings.is_loopback and "localhost" in settings.hosts, host
    for host in ("0.0.0.0", "::", "10.0.0.1", "shop.example"):
        settings = ServeSettings(model=trained, host=host)
        assert not settings.is_loopback and not settings.hosts, host
    assert "127.0.0.2" in ServeSettings(model=trained, host="127.0.0.2").hosts
