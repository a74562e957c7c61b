"""Photos of a dataset that no output may overwrite; see `validation.Problems.outputs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tailorbird.dataset.layout import find
from tailorbird.dataset.settings import DataSettings
from tailorbird.validation import PathLike


def listed_photos(source: PathLike, data: DataSettings | None = None) -> Iterator[Path]:
    """Yield the photos of a dataset that may lie outside its folder.

    They are all photos that a CSV lists, excluded ones included, and with `follow_links` all photos
    of a folder. Raises DatasetError for a file that is not a CSV of photos.
    """
    if Path(source).is_file() or (data is not None and data.follow_links):
        for entry in find(source, data=data, as_before_review=True).entries:
            yield entry.path
