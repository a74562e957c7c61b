"""Ask a service whether it accepts requests, and make it reload its model, from scripts.

Uses the standard library only.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request

from tailorbird.errors import ModelFileError, RunError, SettingsError

SECONDS = 4.0
"""Timeout of one question, below the 5 seconds that a container's health check may take."""

MOST_BYTES = 100_000
"""The part of an answer that is read."""

RELOAD_SECONDS = 60.0
"""Timeout of a reload: a service on a busy machine audits and tests the file first."""

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
    check_address(url)
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


def check_address(url: str) -> None:
    """Raise SettingsError for what is not an HTTP address."""
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{url!r} is not the address of a service; write it as http://127.0.0.1:8000"
        )


def reload_model(url: str, token: str | None, sha256: str) -> None:
    """Make a service load its model file again, and check that it now serves the expected one.

    Args:
        url: the service's address.
        token: its token; a service without one refuses to reload over HTTP.
        sha256: of the expected model file.

    Raises:
        SettingsError: what is not an HTTP address.
        ModelFileError: the service refused the file and still serves the former model.
        RunError: the service did not reload, or serves another file.
    """
    check_address(url)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/model/reload", b"", headers, method="POST"
    )
    try:
        with _opener().open(request, timeout=RELOAD_SECONDS) as answer:
            found = json.loads(answer.read(MOST_BYTES)).get("sha256")
    except urllib.error.HTTPError as error:
        with error:
            message = _message(error.read(MOST_BYTES))
        if error.code == 409:
            raise ModelFileError(f"{url} refused the new model: {message}") from None
        raise RunError(
            f"{url} did not reload its model: it answers {error.code}: {message}"
        ) from None
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        why = getattr(cause, "strerror", None) or cause
        raise RunError(f"{url} did not reload its model: {why}") from None
    if found != sha256:
        raise RunError(
            f"{url} reloaded, but serves the model {str(found)[:12]}, not {sha256[:12]}; is it "
            "started with the same file?"
        )


def _message(body: bytes) -> str:
    """Return the message in a refusal's JSON, or the start of another body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, LookupError):
        return body[:300].decode("utf-8", "replace").strip()


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _ask(url: str) -> tuple[str | None, str | None]:
    """Return what is wrong, None when the service is ready, and the service's warning."""
    try:
        with _opener().open(url, timeout=SECONDS) as answer:
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
