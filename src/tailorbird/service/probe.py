"""Ask a service whether it accepts requests, for health checks of containers and scripts.

Uses the standard library only.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request

from tailorbird.errors import RunError, SettingsError

SECONDS = 4.0
"""Timeout of one question, below the 5 seconds that a container's health check may take."""

PAUSE = 0.2
"""Seconds between two questions to a service that is starting."""


def wait_until_ready(url: str, *, wait: float = 0.0) -> None:
    """Return once `URL/readyz` answers 200; ask again for `wait` seconds.

    Proxies of the environment are not used.

    Raises SettingsError for what is not an HTTP address, RunError with the last answer.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{url!r} is not the address of a service; write it as http://127.0.0.1:8000"
        )
    until = time.monotonic() + wait
    while True:
        problem = _ask(f"{url.rstrip('/')}/readyz")
        if problem is None:
            return
        if time.monotonic() + PAUSE > until:
            raise RunError(f"{url} is not ready: {problem}")
        time.sleep(PAUSE)


def _ask(url: str) -> str | None:
    """Return None when the service is ready, otherwise what is wrong."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return None if answer.status == 200 else f"it answers {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(300).decode("utf-8", "replace")
            return f"it answers {error.code} {text.strip()}".strip()
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
