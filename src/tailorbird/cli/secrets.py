"""Options whose value may be read from a file: container platforms mount secrets as files."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 64 * 1024
"""Maximum number of bytes to read, so that a device or a wrong file does not fill the memory."""


def secret_from(name: str, value: str | None, file: Path | None) -> str | None:
    """Return the value of `--NAME`, or the content of `--NAME-file` without a final newline.

    None if neither is given. The content of the file is never part of a message.

    Raises:
        SettingsError: both are given, or the file cannot be read, is empty, too large or not UTF-8.
    """
    from tailorbird.errors import SettingsError

    if file is None:
        return value
    variable = f"TAILORBIRD_{name.upper()}"
    if value is not None:
        raise SettingsError(
            f"--{name} and --{name}-file were both given (or {variable} and {variable}_FILE); "
            "give one, and leave the other out or empty"
        )
    try:
        # Open without blocking: a pipe that nobody writes to must not delay the start.
        with os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            raw = opened.read(MOST + 1) or b""
        value = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(
            f"--{name}-file {file} is not text in UTF-8; write the bare value into it"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"--{name}-file {file} cannot be read: {error.strerror}; it must be a file that user "
            f"{_user()} may read"
        ) from None
    if len(raw) > MOST:
        raise SettingsError(
            f"--{name}-file {file} is longer than {MOST:,} bytes; write the bare value into it"
        )
    if not value.strip():
        raise SettingsError(f"--{name}-file {file} is empty; write the bare value into it")
    return value


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "of this program"
