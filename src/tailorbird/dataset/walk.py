"""List the files below a dataset's folder: hidden files skipped, links resolved in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from tailorbird.dataset.samples import Finding, printable
from tailorbird.errors import DatasetError

HIDDEN: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"}
)
"""Files and folders, lower case, that systems leave in folders of photos."""

_LINKS: Final = 1
_LINKS_FOLLOWED: Final = 3
"""Maximum depth of linked folders inside linked folders; bounds the cost of circular links."""


@dataclass(frozen=True, slots=True)
class File:
    """A file on disk. parts: names of the folders between the root and it, then its own."""

    path: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path relative to the root, `/` between folders."""
        return "/".join(self.parts)


@dataclass
class Tree:
    """What lies below a root: files, folders without any file, and what could not be read."""

    files: list[File] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    outside: dict[str, list[str]] = field(default_factory=dict)
    """Skipped links that lead outside the root, by the folder they are in."""


@dataclass(frozen=True)
class _Folder:
    path: str
    parts: tuple[str, ...]
    resolved: tuple[str, ...]
    """Real paths of the linked folders that led here."""


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is never part of a dataset."""
    return name.startswith(".") or name.lower() in HIDDEN


def walk(root: Path, *, follow_links: bool = False) -> Tree:
    """List everything below `root`.

    Links that lead inside the root are followed; those that lead outside are reported as
    outside-link and skipped unless `follow_links`. A link to a folder that contains it is skipped.

    Raises:
        DatasetError: the root cannot be listed.
    """
    tree = Tree()
    tree.files.extend(each_file(root, tree, follow_links=follow_links))
    tree.findings = skipped(tree)
    return tree


def each_file(root: Path, tree: Tree, *, follow_links: bool = False) -> Iterator[File]:
    """Yield the files below `root` as `walk` finds them, sorted by name, without a list of them.

    tree: receives what else is found.
    """
    real_root = os.path.realpath(root)
    stack = [_waiting(_Folder(os.fspath(root), (), ()), root, tree)]
    while stack:
        folder, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            continue
        parts = (*folder.parts, child.name)
        target = os.path.realpath(child.path) if child.is_symlink() else None
        if target is not None and not follow_links and not _within(target, real_root):
            name = "/".join(parts) + ("/" if _is_folder(child) else "")
            tree.outside.setdefault("/".join(folder.parts), []).append(name)
        elif not _is_folder(child):
            yield File(child.path, parts)
        elif target is None:
            inner = _Folder(child.path, parts, folder.resolved)
            stack.append(_waiting(inner, root, tree))
        elif _enter(folder, target, _LINKS_FOLLOWED if follow_links else _LINKS):
            inner = _Folder(child.path, parts, (*folder.resolved, target))
            stack.append(_waiting(inner, root, tree))


def _waiting(folder: _Folder, root: Path, tree: Tree) -> tuple[_Folder, Iterator[os.DirEntry[str]]]:
    """Return a folder and what is in it."""
    children = _children(folder, root, tree)
    if folder.parts and children == []:
        tree.empty.append("/".join(folder.parts))
    return folder, iter(children or ())


def _children(folder: _Folder, root: Path, tree: Tree) -> list[os.DirEntry[str]] | None:
    """Return what is in a folder and not hidden, sorted.

    None, with a finding, where the folder cannot be listed.
    """
    try:
        with os.scandir(folder.path) as found:
            children = [child for child in found if not hidden(child.name)]
    except OSError as error:
        if not folder.parts:
            raise DatasetError(
                f"{printable(str(root))} cannot be read: {error.strerror}; "
                "allow this user to list the folder"
            ) from None
        name = printable("/".join(folder.parts))
        tree.findings.append(
            Finding("unreadable", (name,), f"the folder {name} cannot be read: {error.strerror}")
        )
        return None
    # As the whole paths would be sorted: a folder's begin with its name and a slash.
    return sorted(children, key=lambda child: child.name + "/" * _is_folder(child))


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        return False  # a link to itself; reading it as a file reports it


def _enter(folder: _Folder, target: str, most: int) -> bool:
    """Whether to enter a linked folder: not one that contains the link, nor too many in a row."""
    return (
        len(folder.resolved) < most
        and target not in folder.resolved
        and not _within(os.path.realpath(folder.path), target)
    )


def skipped(tree: Tree) -> list[Finding]:
    """Return the findings about folders and links that were skipped."""
    return [*tree.findings, *_outside_findings(tree.outside)]


def _outside_findings(outside: dict[str, list[str]]) -> Iterator[Finding]:
    """Yield one finding per folder with links that lead outside the dataset."""
    for folder, names in sorted(outside.items()):
        shown = tuple(printable(name) for name in sorted(names))
        where = f"{printable(folder)}/" if folder else "the dataset's folder"
        what = f"{shown[0]} is a link that leads" if len(shown) == 1 else (
            f"{len(shown):,} links in {where} lead"
        )  # fmt: skip
        yield Finding(
            "outside-link",
            shown,
            f"{what} outside the dataset: skipped; --follow-links (follow_links=True) reads them",
        )


def _within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; both resolved."""
    return PurePosixPath(path).is_relative_to(folder)
