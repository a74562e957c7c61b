"""Parse, normalise and compare host names and origins as browsers write them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[^\]]*\]|[^:/]*)(?::(\d{1,5}))?")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def host_name(host: str) -> str:
    """Return a Host header's name in lower case, without its port and without a final dot."""
    name = host.lower()
    if not name.endswith("]"):
        name = re.sub(r":\d*$", "", name)
    return name.removesuffix(".")


def origin_authority(origin: str) -> tuple[str, int | None, int | None] | None:
    """Return an origin's host name, its port and its scheme's default port.

    None for `null` and whatever else is not an origin.
    """
    try:
        parts = urlsplit(origin.lower())
        port = parts.port
    except ValueError:
        return None
    if not parts.netloc:
        return None
    default = _DEFAULT_PORTS.get(parts.scheme)
    return host_name(parts.netloc), port or default, default


def same_authority(origin: tuple[str, int | None, int | None], host: str) -> bool:
    """Whether a Host header names the origin's server; a missing port is the scheme's default."""
    name, port, default = origin
    found = re.search(r":(\d{1,5})$", host)
    return host_name(host) == name and (int(found[1]) if found else default) == port


def normal_origin(text: str) -> str | None:
    """Return an origin as browsers send it: lower case, no default port, no final slash.

    Origins of apps, such as capacitor://localhost, are origins too. None for what a browser
    would never send or what would admit any site: `null`, `*`, file: and addresses of pages.
    """
    found = _ORIGIN.fullmatch(_ascii(text.strip().lower().removesuffix("/")) or "")
    if found is None or found[1] == "file":
        return None
    scheme, name, port = found[1], _name(found[2]), int(found[3] or 0)
    if name is None or port > 65535 or (found[3] and port == 0):
        return None
    shown = "" if port in (0, _DEFAULT_PORTS.get(scheme)) else f":{port}"
    return f"{scheme}://{name}{shown}"


def normal_host(text: str) -> str | None:
    """Return a host name as it is compared: lower case, no default port, no final dot.

    None for what can never match a Host header's name: addresses of pages, patterns, and other
    ports, which are not compared.
    """
    name = _ascii(text.strip().lower())
    if name is None:
        return None
    name = re.sub(r":(80|443)$", "", name).removesuffix(".")
    return _name(f"[{name}]" if ":" in name and not name.startswith("[") else name)


def _name(text: str) -> str | None:
    """Return a host's name or address as browsers write it; None for what is neither."""
    try:
        if text.startswith("["):
            return f"[{ipaddress.IPv6Address(text.strip('[]')).compressed}]"
        if re.fullmatch(r"(.*\.)?\d+", text):
            return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None
    return text if _NAME.fullmatch(text) and len(text) <= 253 else None


def _ascii(text: str) -> str | None:
    """Return a name with letters outside ASCII as browsers send it (IDNA); None if it has none."""
    if text.isascii():
        return text
    scheme, separator, rest = text.rpartition("://")
    host, colon, port = rest.partition(":")
    try:
        return f"{scheme}{separator}{host.encode('idna').decode()}{colon}{port}"
    except UnicodeError:
        return None
