"""Location of the cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: TAILORBIRD_CACHE, else the system's folder for caches."""
    chosen = os.environ.get("TAILORBIRD_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("tailorbird", appauthor=False)
