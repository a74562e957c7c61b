"""Where cached files live."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The cache folder: the environment variable TAILORBIRD_CACHE, else the operating system's place for caches."""
    chosen = os.environ.get("TAILORBIRD_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("tailorbird", appauthor=False)
