"""Serve a model: upload page, HTTP API, corrections; and a page to review a dataset. Needs the extra `tailorbird[serve]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tailorbird.errors import MissingExtra
from tailorbird.service.settings import ServeSettings

if TYPE_CHECKING:
    from tailorbird.review import Review
    from tailorbird.service.app import Service

__all__ = ["ServeSettings", "create_app", "need_extra", "serve", "serve_review"]


def create_app(settings: ServeSettings) -> Service:
    """The ASGI application, for any server that runs one.

    Raises MissingExtra, ModelFileError, SettingsError or StorageError.
    """
    need_extra()
    from tailorbird.service.app import Service

    return Service(settings)


def serve(
    settings: ServeSettings, *, announce: Callable[[str], None] = print, quiet: bool = False
) -> None:
    """Serve until SIGTERM or Ctrl-C; both let accepted requests finish.

    announce: called with the service's address once it takes requests. quiet: log only what goes wrong.
    Raises MissingExtra, ModelFileError, SettingsError, StorageError (the address is taken), RunError.
    """
    need_extra()
    from tailorbird.service.server import run
    from tailorbird.service.supervisor import supervise
    from tailorbird.service.web.logs import configure_logging
    from tailorbird.service.web.server import address, listen

    bound = listen(settings)
    try:
        configure_logging(quiet=quiet)
        if settings.workers > 1:
            from tailorbird.service.served import open_served

            open_served(
                settings.model
            )  # a bad model is one clear error here, not one from each process
            supervise(
                settings, bound, quiet=quiet, announce=lambda: announce(address(settings, bound))
            )
        else:
            service = create_app(settings)
            run(service, bound, announce=lambda: announce(address(settings, bound)))
    finally:
        bound.close()


def serve_review(
    review: Review,
    *,
    port: int = 0,
    announce: Callable[[str], None] = print,
    launch: Callable[[str], None] | None = None,
) -> None:
    """Show a review's page on this machine alone until SIGTERM or Ctrl-C; what was decided is on the disk all the time.

    port: 0 takes a free one. announce: called with the page's address, whose key lets in whoever knows it, once it answers.
    launch: called with an address that works once, for a browser's command line.
    Raises MissingExtra, SettingsError, StorageError (the port is taken).
    """
    need_extra()
    from tailorbird.service.review.app import run

    run(review, port=port, announce=announce, launch=launch)


def need_extra() -> None:
    """Raise MissingExtra, which names what is missing, where the packages of the extra `serve` are not installed."""
    missing = []
    for name in (
        "starlette",
        "uvicorn",
        "httptools",
        "python_multipart",
        "sqlalchemy",
        "prometheus_client",
    ):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise MissingExtra(
            f"serving needs {', '.join(missing)}; install them with: pip install 'tailorbird[serve]'"
        )
