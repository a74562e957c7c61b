"""Asking a service whether it takes requests: for health checks of containers, unit files and scripts. Standard library only."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request

from tailorbird.errors import RunError, SettingsError

SECONDS = 4.0
"""For one question; below the 5 seconds a container's health check is given."""

PAUSE = 0.2
"""Seconds between two questions of a service that is starting."""


def wait_until_ready(url: str, *, wait: float = 0.0) -> None:
    """Return once `URL/readyz` answers 200; ask again for `wait` seconds.

    Proxies of the environment are not used: it is this service that is asked. Raises SettingsError for what is no HTTP address
    and RunError with the last answer.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{url!r} is no address of a service; write it as http://127.0.0.1:8000"
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
    """None when ready, else what is wrong."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return None if answer.status == 200 else f"it answers {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"it answers {error.code} {error.read(300).decode('utf-8', 'replace').strip()}".strip()
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
