"""Photos named on the command line: files, folders, globs and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.model import Source


def sources(names: list[str], follow_links: bool = False) -> tuple[Iterator[Source], int | None]:
    """Return the photos of the arguments and their number; None with standard input among them.

    They are listed as they are read, and once before to count them: millions take no memory.
    follow_links: also read files outside a folder, through links inside it. Raises DatasetError for
    a folder or a glob without photos.
    """

    def photos(warn: bool) -> Iterator[Source]:
        for name in names:
            yield from (
                _standard_input(follow_links) if name == "-" else _expand(name, follow_links, warn)
            )

    if "-" in names:
        return photos(warn=True), None
    return photos(warn=False), sum(1 for _ in photos(warn=True))


def _expand(name: str, follow_links: bool, warn: bool = True) -> Iterator[Path]:
    """Yield the photos of one argument: a file, a folder, or a glob the shell did not expand."""
    from tailorbird.errors import DatasetError

    if not name:
        raise DatasetError("an empty name was given; name a photo or folder, or . for this folder")
    path = Path(name)
    try:
        is_folder = path.is_dir()
        is_pattern = any(sign in name for sign in "*?[") and not path.exists()
        matches = []
        if is_pattern:
            matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (OSError, ValueError):
        yield path  # too long or not permitted: opening it raises the precise error
        return
    if is_folder:
        yield from _photos_in(path, follow_links, warn)
    elif matches:
        for match in matches:
            yield from _photos_in(match, follow_links, warn) if match.is_dir() else [match]
    elif is_pattern:
        raise DatasetError(f"no file matches {name}; check the pattern and the folder")
    else:
        yield path


def _photos_in(folder: Path, follow_links: bool, warn: bool) -> Iterator[Path]:
    """Yield the files of a folder that `scan` would open too. Raises DatasetError for none."""
    from tailorbird.dataset.layout import each_photo
    from tailorbird.dataset.samples import Finding
    from tailorbird.errors import DatasetError

    findings: list[Finding] = []
    found = False
    for path in each_photo(folder, follow_links=follow_links, findings=findings):
        found = True
        yield path
    for finding in findings if warn else ():
        output.print_error(f"warning: {folder}: {finding.message}")
    if not found:
        raise DatasetError(f"{folder} holds no photos, or only documents and hidden files")


def _standard_input(follow_links: bool) -> Iterator[Source]:
    """Yield one photo's bytes if standard input begins like a photo, else a path per line."""
    from tailorbird.errors import DatasetError
    from tailorbird.images import starts_like_a_photo

    head = sys.stdin.buffer.peek(16)[:16] if hasattr(sys.stdin.buffer, "peek") else b""
    if starts_like_a_photo(head):
        yield sys.stdin.buffer.read()
        return
    for line in sys.stdin.buffer:
        name = line.rstrip(b"\r\n").decode(sys.getfilesystemencoding(), "surrogateescape")
        if not name:
            continue
        try:
            yield from _expand(name, follow_links)
        except DatasetError as error:
            # One invalid line among many is reported like an unusable photo.
            output.print_error(str(error))
            yield Path(name)
