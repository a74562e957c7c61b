"""Check that what a command writes is none of the photos it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tailorbird.dataset.layout import find
from tailorbird.dataset.settings import DataSettings
from tailorbird.validation import PathLike, Problems


def listed_photos(source: PathLike, data: DataSettings | None = None) -> Iterator[Path]:
    """Yield the photos of a dataset that need not lie in its folder.

    They are the photos a CSV lists, excluded ones included, and with `follow_links` those of a
    folder. Raises DatasetError for a file that is no CSV of photos.
    """
    if Path(source).is_file() or (data is not None and data.follow_links):
        for entry in find(source, data=data, as_before_review=True).entries:
            yield entry.path


def check_outputs(
    source: PathLike,
    files: Mapping[str, PathLike | None],
    *,
    inputs: Mapping[str, PathLike | None] | None = None,
    data: DataSettings | None = None,
) -> None:
    """Raise one SettingsError unless each output can be written and is none of the inputs.

    Args:
        source: the dataset that is read, a folder or a CSV.
        files: the outputs by what they are; None: not written.
        inputs: other files that are read, by what they are.
        data: how the dataset is read.
    """
    with Problems() as problems:
        problems.outputs(
            files,
            inputs={"dataset": source, **(inputs or {})},
            photos=listed_photos(source, data),
        )
