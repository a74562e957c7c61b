"""A folder or a CSV in, the files to read and their labels out. Nothing is opened here except the CSV."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from tailorbird.dataset.samples import Finding, printable
from tailorbird.dataset.table import read_table
from tailorbird.errors import DatasetError
from tailorbird.images import EXTENSIONS

_SPLIT_NAMES: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_HIDDEN: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"}
)
_DOCUMENT_NAMES: Final = (
    "license",
    "licence",
    "copying",
    "readme",
    "notice",
    "citation",
    "authors",
    "changelog",
    "makefile",
)
_DOCUMENT_SUFFIXES: Final = frozenset(
    f".{suffix}"
    for suffix in (
        *(
            "md",
            "rst",
            "txt",
            "json",
            "jsonl",
            "csv",
            "tsv",
            "xml",
            "yaml",
            "yml",
            "toml",
            "html",
            "htm",
            "pdf",
            "bib",
            "log",
        ),
        *(
            "py",
            "ipynb",
            "sh",
            "db",
            "sqlite",
            "onnx",
            "zip",
            "tar",
            "gz",
            "tgz",
            "7z",
            "rar",
            "sha256",
            "md5",
        ),
    )
)
_VALID: Final = (
    "valid is a folder with one folder of photos per class, such a folder in each of train/, validation/ and test/, "
    "or a CSV file with the columns path,label or path,label,split"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to read. name: relative to the root, `/` between folders, as the operating system gave it."""

    path: Path
    name: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, sorted by name, and what was wrong on the way to them."""

    root: Path
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    excluded: tuple[str, ...] = ()
    """Names of the files a review left out."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file on disk; parts: the names of the folders between the root and it, then its own."""

    path: str
    parts: tuple[str, ...]


def find(source: str | Path, *, as_before_review: bool = False) -> Layout:
    """The photos of a folder or a CSV, with their labels and splits.

    Rows of a CSV that a review excluded are left out. as_before_review: nothing is left out and every label is what it was.

    Raises DatasetError when `source` does not exist, is neither a folder nor a CSV, or holds no labelled file.
    """
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DatasetError(f"{_show(path)} does not exist; {_VALID}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{_show(path)} cannot be opened: {reason}; {_VALID}") from None
    if stat.S_ISDIR(mode):
        layout = _from_folder(path)
    elif stat.S_ISREG(mode):
        layout = _from_table(path, as_before_review)
    else:
        raise DatasetError(f"{_show(path)} is neither a folder nor a file; {_VALID}")
    return replace(layout, entries=tuple(sorted(layout.entries, key=lambda entry: entry.name)))


def _from_table(path: Path, as_before_review: bool) -> Layout:
    rows = read_table(path)
    used = [row for row in rows if as_before_review or row.decision != "exclude"]
    if not used:
        raise DatasetError(
            f"{_show(path)}: every one of its {len(rows):,} photos is excluded; keep some of them"
        )
    entries = (
        Entry(
            path.parent / row.path,
            row.path,
            row.original if as_before_review else row.label,
            row.split,
        )
        for row in used
    )
    excluded = (
        ()
        if as_before_review
        else (printable(row.path) for row in rows if row.decision == "exclude")
    )
    return Layout(path.parent, tuple(entries), (), tuple(sorted(excluded)))


def _show(path: Path) -> str:
    return printable(str(path))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HIDDEN


def _document(name: str) -> bool:
    """A file that belongs beside a dataset's photos rather than among them, told by its name."""
    name = name.lower()
    suffix = PurePosixPath(name).suffix
    return suffix in _DOCUMENT_SUFFIXES or (
        name.startswith(_DOCUMENT_NAMES) and suffix not in EXTENSIONS
    )


def _from_folder(root: Path) -> Layout:
    findings: list[Finding] = []
    files = list(_walk(root, findings))
    splits, leave_out_others = _split_folders(files)
    entries: list[Entry] = []
    unlabelled: dict[str, list[str]] = {}
    misplaced: dict[str, list[str]] = {}
    for file in files:
        *folders, name = file.parts
        split = splits.get(folders[0]) if folders else None
        if split is not None:
            folders = folders[1:]
        elif splits and folders and leave_out_others:
            if not _document(name):
                misplaced.setdefault(folders[0], []).append("/".join(file.parts))
            continue
        if folders:
            label = printable(unicodedata.normalize("NFC", "/".join(folders)))
            entries.append(
                Entry(
                    Path(file.path),
                    "/".join(file.parts),
                    label,
                    split or ("train" if splits else None),
                )
            )
        elif not _document(name):
            unlabelled.setdefault("/".join(file.parts[:-1]), []).append("/".join(file.parts))
    for folder, names in sorted(unlabelled.items()):
        where = f"in {printable(folder)}/" if folder else "in the dataset's own folder"
        findings.append(
            _about(
                names,
                f"{_files(names)} directly {where}, and so without a label; move into a class folder",
            )
        )
    for folder, names in sorted(misplaced.items()):
        message = (
            f"{_files(names)} in {printable(folder)}/, beside train/ rather than in it; left out"
        )
        findings.append(_about(names, message))
    if not entries:
        raise DatasetError(_nothing(root, files, unlabelled, findings))
    return Layout(root, tuple(entries), tuple(findings))


def _files(names: list[str]) -> str:
    return "1 file lies" if len(names) == 1 else f"{len(names):,} files lie"


def _about(names: Iterable[str], message: str) -> Finding:
    return Finding("unsupported", tuple(printable(name) for name in sorted(names)), message)


def _nothing(
    root: Path, files: list[_File], unlabelled: dict[str, list[str]], findings: list[Finding]
) -> str:
    """Why a folder holds no labelled file."""
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
        return f"{_show(root)} holds nothing to learn from: {findings[0].message}; {_VALID}"
    return (
        f"{_show(root)} holds no photos"
        + (" (only documents)" if files else "; it is empty")
        + f"; {_VALID}"
    )


def _split_folders(files: list[_File]) -> tuple[dict[str, str], bool]:
    """Which top folders are splits, {folder: split}, and whether photos in the other top folders are left out.

    A folder called train, val, valid, validation or test is a split when class folders lie in it. So that trains and buses
    can be told apart, it is a class where ordinary class folders lie beside it, unless they too say that splits are meant:
    there is a training and another split, or the same class names occur inside it and beside it.
    """
    inside: dict[str, set[str]] = {}
    for file in files:
        if len(file.parts) > 1 and not _document(file.parts[-1]):
            inside.setdefault(file.parts[0], set()).update(
                file.parts[1:2] if len(file.parts) > 2 else ()
            )
    named = {
        folder: _SPLIT_NAMES[folder.lower()] for folder in inside if folder.lower() in _SPLIT_NAMES
    }
    real = {folder: split for folder, split in named.items() if inside[folder]}
    others = {folder for folder in inside if folder not in named}
    if not others:
        return named, False
    has_train = "train" in real.values()
    if has_train and len(set(real.values())) > 1:
        return named, True
    if any(inside[folder] & others for folder in real):
        return real, has_train
    return {}, False


def _walk(root: Path, findings: list[Finding]) -> Iterator[_File]:
    """Every file below `root` that is not hidden, links resolved once.

    A link to a folder is followed unless it was met inside a folder that was itself reached through a link, or leads to a
    folder it lies in: so there is no cycle, and a folder with many links costs no more than their number.
    """
    real_root = os.path.realpath(root)
    stack: list[tuple[str, tuple[str, ...], bool]] = [(os.fspath(root), (), False)]
    while stack:
        folder, parts, linked = stack.pop()
        try:
            with os.scandir(folder) as found:
                children = sorted(found, key=lambda child: child.name)
        except OSError as error:
            if not parts:
                raise DatasetError(
                    f"{_show(root)} cannot be read: {error.strerror}; allow this user to list the folder"
                ) from None
            name = printable("/".join(parts))
            findings.append(
                Finding(
                    "unreadable", (name,), f"the folder {name} cannot be read: {error.strerror}"
                )
            )
            continue
        for child in children:
            if _hidden(child.name):
                continue
            here = (*parts, child.name)
            is_link = child.is_symlink()
            if is_link:
                target = os.path.realpath(child.path)
                if target != real_root and not target.startswith(real_root.rstrip(os.sep) + os.sep):
                    name = printable("/".join(here))
                    findings.append(
                        Finding(
                            "outside-link",
                            (name,),
                            f"{name} is a link that leads outside the dataset; skipped",
                        )
                    )
                    continue
            try:
                is_folder = child.is_dir()
            except OSError:
                is_folder = False  # a link to itself; reading it says so
            if not is_folder:
                yield _File(child.path, here)
            elif not is_link:
                stack.append((child.path, here, linked))
            elif not linked and not _within(os.path.realpath(folder), target):
                stack.append((child.path, here, True))


def _within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; both resolved."""
    return PurePosixPath(path).is_relative_to(folder)
