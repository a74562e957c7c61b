"""Structured logs: one JSON object per line on standard error, for every logger of the process."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
import traceback
from typing import Any, TextIO

_LOGGER = logging.getLogger("tailorbird.service")

LONGEST_TRACEBACK = 8000
"""Characters of a traceback that are kept, from its end."""


class JsonLines(logging.Formatter):
    """Format a record as one JSON object: time, level, event, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; records of other packages carry their text as `message`."""
        own = record.name == _LOGGER.name
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if own else _event_of(record.name),
            "pid": record.process,
        }
        if not own:
            line |= {"logger": record.name, "message": record.getMessage()}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            text = "".join(traceback.format_exception(*record.exc_info))
            line["traceback"] = text[-LONGEST_TRACEBACK:]
        return json.dumps(line, default=str)


def _event_of(logger: str) -> str:
    return {"uvicorn": "server", "py": "warning"}.get(logger.partition(".")[0], "library")


def log(
    event: str, level: str = "info", exc_info: BaseException | None = None, **fields: object
) -> None:
    """Log one event with its fields."""
    number = logging.getLevelNamesMapping()[level.upper()]
    if _LOGGER.isEnabledFor(number):
        _LOGGER.log(number, event, extra={"fields": fields}, exc_info=exc_info)


def configure_logging(*, quiet: bool = False, stream: TextIO | None = None) -> None:
    """Send the records of all loggers to standard error as JSON lines.

    That includes warnings, exceptions of threads and of tasks that nobody awaited, and the
    messages of libraries from level WARNING on.

    quiet: leave out what is not a problem, such as the line of each answered request.
    stream: where the lines go; by default standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
        # Handlers that libraries gave their own loggers would write lines of another form.
        logger.handlers = [each for each in logger.handlers if _writes_elsewhere(each)]
        logger.propagate = True
    _LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failure


def _writes_elsewhere(handler: logging.Handler) -> bool:
    """Whether a handler writes to a file or nowhere, rather than to the terminal."""
    to_terminal = isinstance(handler, logging.StreamHandler)
    return isinstance(handler, logging.FileHandler) or not to_terminal


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    log(
        "thread-failed",
        level="error",
        exc_info=failure.exc_value,
        thread=failure.thread.name if failure.thread else None,
    )
