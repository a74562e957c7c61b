"""Serve a model, or the local page of a review or a labelling; needs the extra `serve`.

The modules of this folder serve models: pages, HTTP API, batching, corrections. `review/` and
`labelling/` are local pages. `web/` is shared by all.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tailorbird import installing
from tailorbird.errors import MissingExtra
from tailorbird.service.page_settings import PageSettings, read_page
from tailorbird.service.settings import ServeSettings, storage_for

if TYPE_CHECKING:
    from tailorbird.labelling import Labelling
    from tailorbird.review import Review
    from tailorbird.service.app import Service

__all__ = [
    "PageSettings",
    "ServeSettings",
    "create_app",
    "need_extra",
    "read_page",
    "serve",
    "serve_labelling",
    "serve_review",
    "storage_for",
]

PACKAGES = (
    "starlette",
    "uvicorn",
    "httptools",
    "python_multipart",
    "itsdangerous",
    "sqlalchemy",
    "prometheus_client",
)
"""Packages of the extra `serve`."""


def create_app(settings: ServeSettings) -> Service:
    """Return the ASGI application, for any server or to mount in another application.

    Raises MissingExtra, ModelFileError, SettingsError or StorageError.
    """
    need_extra()
    from tailorbird.service.app import Service

    service = Service(settings)
    # Not in Service: a process that starts again must serve a newer model with other classes.
    settings.page.check_classes(service.state.slot.current.classifier.classes)
    return service


def serve(
    settings: ServeSettings, *, announce: Callable[[str], None] = print, quiet: bool = False
) -> None:
    """Serve until SIGTERM or Ctrl-C; both let accepted requests finish.

    announce: called with the service's address once it accepts requests.
    quiet: log problems only.

    Raises MissingExtra, ModelFileError, SettingsError, StorageError (such as an address in use),
    RunError.
    """
    need_extra()
    from tailorbird.service.served import open_served
    from tailorbird.service.server import run
    from tailorbird.service.supervisor import supervise
    from tailorbird.service.web.logs import configure_logging
    from tailorbird.service.web.server import address, listen

    bound = listen(settings)

    def started() -> None:
        announce(address(settings, bound))

    try:
        configure_logging(quiet=quiet)
        if settings.workers > 1:
            # A bad model, or page, is reported once here, not once per process.
            opened = open_served(settings.model, strict=settings.strict, device=settings.choice)
            settings.page.check_classes(opened.classifier.classes)
            supervise(settings, bound, quiet=quiet, announce=started)
        else:
            run(create_app(settings), bound, announce=started)
    finally:
        bound.close()


def serve_review(
    review: Review,
    *,
    port: int = 0,
    announce: Callable[[str], None] = print,
    launch: Callable[[str], None] | None = None,
) -> None:
    """Serve a review's page on this machine alone until SIGTERM or Ctrl-C.

    Decisions are saved at once.

    port: 0 takes a free one.
    announce: called with the page's address, which contains the key.
    launch: called with an address that works only once, for a browser's command line.

    Raises MissingExtra, SettingsError, StorageError (the port is in use).
    """
    need_extra()
    from tailorbird.service.review.app import run

    run(review, port=port, announce=announce, launch=launch)


def serve_labelling(
    labelling: Labelling,
    *,
    port: int = 0,
    announce: Callable[[str], None] = print,
    launch: Callable[[str], None] | None = None,
) -> None:
    """Start a labelling and serve its page on this machine alone until SIGTERM or Ctrl-C.

    Answers are saved at once; the labelling is closed at the end.

    port: 0 takes a free one.
    announce: called with the page's address, which contains the key.
    launch: called with an address that works only once, for a browser's command line.

    Raises MissingExtra, SettingsError, StorageError (the port is in use).
    """
    need_extra()
    from tailorbird.service.labelling.app import run

    run(labelling, port=port, announce=announce, launch=launch)


def need_extra() -> None:
    """Raise MissingExtra, naming the missing packages, if the extra `serve` is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"serving needs {', '.join(missing)}; install with: {installing.install('serve')}"
        )
