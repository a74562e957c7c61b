"""Find the photos of a folder or CSV with their labels and splits; no photo is opened."""

from __future__ import annotations

import os
import stat
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from tailorbird.dataset.labels import NONE_OF_THESE, normal_label, shown_label
from tailorbird.dataset.samples import Finding, printable
from tailorbird.dataset.settings import DataSettings
from tailorbird.dataset.split_folders import arrange
from tailorbird.dataset.table import Row, read_table
from tailorbird.dataset.walk import Tree, each_file, hidden, skipped, walk
from tailorbird.errors import DatasetError
from tailorbird.images import EXTENSIONS

_DOCUMENT_NAMES: Final = (
    "license", "licence", "copying", "readme", "notice", "citation", "authors", "changelog",
    "makefile",
)  # fmt: skip
_DOCUMENT_SUFFIXES: Final = frozenset(
    {
        ".md", ".rst", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml",
        ".html", ".htm", ".pdf", ".bib", ".log", ".py", ".ipynb", ".sh", ".db", ".sqlite", ".onnx",
        ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".sha256", ".md5",
    }
)  # fmt: skip
_VALID: Final = (
    "valid is a folder with one folder of photos per class, such a folder in each of train/, "
    "validation/ and test/, or a CSV file with the columns path,label or path,label,split"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to read.

    name: relative to the root, `/` between folders, as the operating system gave it. group: photos
    of the same group stay on one side of every split; None if the source does not group them.
    """

    path: Path
    name: str
    label: str
    split: str | None
    group: str | None = None


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, sorted by name, and the problems found while listing them.

    excluded: names of the files that a review left out. data: the settings it was found with.
    """

    root: Path
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    excluded: tuple[str, ...] = ()
    data: DataSettings = field(default_factory=DataSettings)
    table: Path | None = None
    """The CSV the files are listed in."""


def find(
    source: str | Path,
    *,
    data: DataSettings | None = None,
    as_before_review: bool = False,
) -> Layout:
    """List the photos of a folder or CSV, with their labels and splits.

    Rows of a CSV that a review excluded are left out, unless `as_before_review`: then nothing is
    left out and every label is the original one.

    Raises:
        DatasetError: `source` does not exist, is neither a folder nor a CSV, holds no labelled
            file, or holds folders that look like splits under unknown names.
    """
    path, data = Path(source), data or DataSettings()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DatasetError(f"{_show(path)} does not exist; {_VALID}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{_show(path)} cannot be opened: {reason}; {_VALID}") from None
    if stat.S_ISDIR(mode):
        layout = _from_folder(path, data)
    elif stat.S_ISREG(mode):
        layout = _from_table(path, as_before_review)
    else:
        raise DatasetError(f"{_show(path)} is neither a folder nor a file; {_VALID}")
    entries = sorted(layout.entries, key=lambda entry: entry.name)
    return replace(layout, entries=tuple(entries), data=data)


def _from_table(path: Path, as_before_review: bool) -> Layout:
    rows = read_table(path)
    used = [row for row in rows if as_before_review or row.decision != "exclude"]
    if not used:
        raise DatasetError(
            f"{_show(path)}: all of its {len(rows):,} photos are excluded; keep some of them"
        )
    entries = (
        Entry(
            _located(path.parent, row),
            row.path,
            row.original if as_before_review else row.label,
            row.split,
            row.group or None,
        )
        for row in used
    )
    excluded = () if as_before_review else (printable(r.path) for r in rows if r.excluded)
    written: dict[str, set[str]] = defaultdict(set)
    for row in used:
        written[row.label].add(row.written)
    findings = tuple(_merged_findings(written, "labels"))
    return Layout(path.parent, tuple(entries), findings, tuple(sorted(excluded)), table=path)


def _located(folder: Path, row: Row) -> Path:
    r"""Return a row's file.

    `\` between folders, `~` for the home folder and spaces around the path are understood.
    """
    path, name = folder / row.path, row.path.strip()
    if ("\\" in name or name.startswith("~") or name != row.path) and not path.exists():
        other = Path(name.replace("\\", "/") if os.sep == "/" else name).expanduser()
        if (folder / other).exists():
            return folder / other
    return path


def _show(path: Path) -> str:
    return printable(str(path))


def _document(name: str) -> bool:
    """Whether a file, by its name, belongs beside a dataset's photos rather than among them."""
    name = name.lower()
    suffix = PurePosixPath(name).suffix
    return suffix in _DOCUMENT_SUFFIXES or (
        name.startswith(_DOCUMENT_NAMES) and suffix not in EXTENSIONS
    )


def with_none_of_these(layout: Layout, folder: str | Path) -> Layout:
    """Add the photos of a folder to a layout, as photos of no class.

    Where the layout has splits, they are dealt out by a hash of their names: a fifth to test and a
    seventh of the rest to validation, where there are such; otherwise `split` divides them later.

    Raises:
        DatasetError: the folder cannot be listed or holds no photo.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{_show(root)} is no folder; give one with photos of no class")
    paths, findings = photo_paths(root, follow_links=layout.data.follow_links)
    if not paths:
        raise DatasetError(f"{_show(root)} holds no photos; give a folder with photos of no class")
    present = {entry.split for entry in layout.entries}
    added = []
    for path in paths:
        name = (Path(root.resolve().name) / path.relative_to(root)).as_posix()
        added.append(Entry(path, name, NONE_OF_THESE, _dealt(name, present)))
    entries = sorted([*layout.entries, *added], key=lambda entry: entry.name)
    return replace(layout, entries=tuple(entries), findings=(*layout.findings, *findings))


def _dealt(name: str, present: set[str | None]) -> str | None:
    """Return the split of a photo of no class, one of those present."""
    if None in present or not present:
        return None
    place = zlib.crc32(os.fsencode(name)) % 35
    if place < 7 and "test" in present:
        return "test"
    if place % 7 == 0 and "validation" in present:
        return "validation"
    return "train" if "train" in present else min(filter(None, present))


def each_photo(
    folder: Path, *, follow_links: bool = False, findings: list[Finding] | None = None
) -> Iterator[Path]:
    """Yield the files below a folder that a scan would open as photos, sorted by name.

    As in `find`, hidden files and documents are left out, and every other file is listed; whether
    it is a photo is decided later, by its content. No list of the files is made: millions of them
    take no memory.

    Args:
        folder: where to look.
        follow_links: also read files outside the folder, through links inside it.
        findings: receives, at the end, what was skipped: folders and links.

    Raises:
        DatasetError: the folder cannot be listed.
    """
    tree = Tree()
    for file in each_file(folder, tree, follow_links=follow_links):
        if not _document(file.parts[-1]):
            yield Path(file.path)
    if findings is not None:
        findings += skipped(tree)


def photo_paths(folder: Path, *, follow_links: bool = False) -> tuple[list[Path], list[Finding]]:
    """Return what `each_photo` yields, and what was skipped. Raises DatasetError."""
    findings: list[Finding] = []
    return list(each_photo(folder, follow_links=follow_links, findings=findings)), findings


def looks_like_a_photo(name: str) -> bool:
    """Return whether a scan would open a file of this name: it is neither hidden nor a document."""
    return not hidden(name) and not _document(name)


def _from_folder(root: Path, data: DataSettings) -> Layout:
    tree = walk(root, follow_links=data.follow_links)
    photos = [file.parts[:-1] for file in tree.files if not _document(file.parts[-1])]
    arrangement = arrange(photos, data.splits)
    entries: list[Entry] = []
    unlabelled: dict[str, list[str]] = defaultdict(list)
    misplaced: dict[str, list[str]] = defaultdict(list)
    written: dict[str, set[str]] = defaultdict(set)
    for file in tree.files:
        folders, split = arrangement.read(file.parts[:-1])
        if folders:
            label = _label("/".join(folders))
            written[label].add("/".join(folders))
            entries.append(Entry(Path(file.path), file.name, label, split))
        elif not _document(file.parts[-1]):
            place = unlabelled if folders is not None else misplaced
            depth = None if folders is not None else len(arrangement.wrapper) + 1
            place["/".join(file.parts[:-1][:depth])].append(file.name)
    findings = [*tree.findings, *_placement_findings(unlabelled, misplaced)]
    if not entries:
        raise DatasetError(_nothing(root, tree, unlabelled, findings))
    findings += _empty_findings(tree)
    findings += _merged_findings(written, "folders")
    findings += _class_folder_findings(entries)
    return Layout(root, tuple(entries), tuple(findings))


def _label(name: str) -> str:
    return normal_label(printable(name)) or printable(name)


def _placement_findings(
    unlabelled: Mapping[str, list[str]], misplaced: Mapping[str, list[str]]
) -> Iterable[Finding]:
    for folder, names in sorted(unlabelled.items()):
        where = f"in {printable(folder)}/" if folder else "in the dataset's own folder"
        message = f"{_files(names)} directly {where}, without a class; move into a class folder"
        yield _about(names, message)
    for folder, names in sorted(misplaced.items()):
        where = f"in {printable(folder)}/, beside train/ rather than in it"
        yield _about(names, f"{_files(names)} {where}; left out")


def _files(names: list[str]) -> str:
    return "1 file lies" if len(names) == 1 else f"{len(names):,} files lie"


def _about(names: Iterable[str], message: str) -> Finding:
    return Finding("unsupported", tuple(printable(name) for name in sorted(names)), message)


def _merged_findings(written: Mapping[str, set[str]], what: str) -> Iterable[Finding]:
    for label, names in sorted(written.items()):
        if len(names) > 1:
            shown = tuple(map(shown_label, sorted(names)))
            message = f"the {what} {' and '.join(shown)} are read as one class, {label}"
            yield Finding("similar-labels", shown, message)


def _empty_findings(tree: Tree) -> Iterable[Finding]:
    for folder in sorted(map(printable, tree.empty)):
        yield Finding("missing-class", (folder,), f"{folder}/ is empty: no class is made from it")


def _class_folder_findings(entries: Iterable[Entry]) -> Iterable[Finding]:
    """Yield findings about nested folders, which are read as classes of their own."""
    counts: dict[str, int] = defaultdict(int)
    for entry in entries:
        counts[entry.label] += 1
    below: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        for parent in PurePosixPath(label).parents:
            if str(parent) in counts:
                below[str(parent)].append(label)
    for label, inner in sorted(below.items()):
        message = (
            f"{label}/ holds photos and folders with photos, read as the classes {label}, "
            f"{', '.join(inner[:4])}{' ...' if len(inner) > 4 else ''}; "
            "move the photos into one folder if they are one class"
        )
        yield Finding("nested-class", (label, *inner), message)
    nested = sorted(label for label in counts if "/" in label)
    if nested:
        names = f"{', '.join(nested[:4])}{' ...' if len(nested) > 4 else ''}"
        folders = "1 folder inside another is" if len(nested) == 1 else (
            f"{len(nested)} folders inside others are"
        )  # fmt: skip
        message = f"{folders} read as classes of their own: {names}"
        tops = {label.partition("/")[0] for label in counts}
        if len(tops) == 1 and len(counts) > 1:
            message += f"; give {tops.pop()}/ itself if it only holds the classes"
        yield Finding("nested-class", tuple(nested), message)


def _nothing(
    root: Path, tree: Tree, unlabelled: Mapping[str, list[str]], findings: list[Finding]
) -> str:
    """Return why a folder holds no labelled file."""
    if unlabelled:
        where = ", ".join(
            printable(folder) + "/" if folder else "the folder itself"
            for folder in sorted(unlabelled)
        )
        total = sum(map(len, unlabelled.values()))
        return (
            f"{_show(root)} has no class folders: {total:,} files lie directly in {where}; {_VALID}"
        )
    if findings:
        return f"{_show(root)} holds no labelled photos: {findings[0].message}; {_VALID}"
    reason = " (only documents)" if tree.files else "; it is empty"
    return f"{_show(root)} holds no photos{reason}; {_VALID}"
