"""Keep third-party libraries from sending telemetry, leaving files in the home folder, and writing
to the terminal while they start.

Every variable is set before the library that reads it is imported; most libraries look only once.
This module imports nothing of tailorbird, so that `import tailorbird` can run it at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ALLOW = "TAILORBIRD_ALLOW_TELEMETRY"
"""Environment variable; 1 leaves the telemetry of the libraries at its defaults."""

TELEMETRY = {
    # Since 1.29 ONNX Runtime keeps a device id and a queue of events in the home folder and
    # uploads them; disable_telemetry_events() comes too late to prevent the files.
    "ORT_DISABLE_TELEMETRY": "1",
    # Versions of other installed packages in the User-Agent of downloads.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Usage reports of Ray's head node.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that switch telemetry off, with the value that does."""

_FOLDERS = {
    "matplotlib": ("MPLCONFIGDIR", ("~/.config/matplotlib", "~/.cache/matplotlib")),
    "keras": ("KERAS_HOME", ("~/.keras",)),
}
"""By library: the variable that names its folder, and its usual folders in the home folder."""


def disable_telemetry() -> None:
    """Disable the telemetry of every library used here, unless the user allows it.

    A variable that the user has set keeps its value.
    """
    if os.environ.get(ALLOW) != "1":
        for name, value in TELEMETRY.items():
            os.environ.setdefault(name, value)


def redirect_files(library: str) -> None:
    """Make a library keep its files in tailorbird's cache folder; call before importing it.

    Does nothing if the library is imported already, or the user has a folder for it: named by its
    variable, or at one of its usual places.

    Args:
        library: "matplotlib" (its list of fonts) or "keras" (its settings, downloaded weights).
    """
    variable, usual = _FOLDERS[library]
    if library in sys.modules or variable in os.environ:
        return
    if any(Path(folder).expanduser().exists() for folder in usual):
        return
    from tailorbird.files.cache import cache_folder

    os.environ[variable] = str(cache_folder() / "libraries" / library)


@contextlib.contextmanager
def stderr_discarded() -> Iterator[None]:
    """Discard what C++ libraries write to standard error while they start.

    TensorFlow and Ray write some lines before they read their log level. Exceptions are not
    affected.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed
            sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
