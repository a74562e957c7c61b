"""Ask a service whether it accepts requests, for health checks of containers and scripts.

Uses the standard library only.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request

from tailorbird.errors import RunError, SettingsError

SECONDS = 4.0
"""Timeout of one question, below the 5 seconds that a container's health check may take."""

MOST_BYTES = 100_000
"""The part of an answer that is read."""

PAUSE = 0.2
"""Seconds between two questions to a service that is starting."""


def wait_until_ready(url: str, *, wait: float = 0.0, strict: bool = False) -> str | None:
    """Ask `URL/readyz` until it answers 200, for `wait` seconds, and return its warning, if any.

    Proxies of the environment are not used.

    Args:
        url: Address of the service.
        wait: Seconds.
        strict: Whether a warning is an error: the model gives other answers on that device than
            where it was made.

    Raises:
        SettingsError: What is given is not an HTTP address.
        RunError: The service is not ready, or warns; with its last answer.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{url!r} is not the address of a service; write it as http://127.0.0.1:8000"
        )
    until = time.monotonic() + wait
    while True:
        problem, warning = _ask(f"{url.rstrip('/')}/readyz")
        if problem is None:
            if strict and warning is not None:
                raise RunError(warning)
            return warning
        if time.monotonic() + PAUSE > until:
            raise RunError(f"{url} is not ready: {problem}")
        time.sleep(PAUSE)


def _ask(url: str) -> tuple[str | None, str | None]:
    """Return what is wrong, None when the service is ready, and the service's warning."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            if answer.status == 200:
                return None, _warning(answer.read(MOST_BYTES))
            return f"it answers {answer.status}", None
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(300).decode("utf-8", "replace")
            return f"it answers {error.code} {text.strip()}".strip(), None
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason), None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__, None


def _warning(content: bytes) -> str | None:
    """Return the warning in an answer; services of earlier versions, and others, give none."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    warning = said.get("warning") if isinstance(said, dict) else None
    return warning if isinstance(warning, str) else None
