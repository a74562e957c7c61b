"""Recognise which folders of a dataset are splits, and which wrap the class folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from tailorbird.dataset.samples import printable
from tailorbird.errors import DatasetError

SPLIT_WORDS: Final[Mapping[str, str]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Words that name a split, lower case, in folder names and in CSV files."""

_AROUND: Final = frozenset(
    {
        "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos",
        "picture", "pictures", "split", "samples", "folder",
    }
)  # fmt: skip
"""Words that may stand beside a split's word: `train_set`, `Test Data`, `val-images`."""

_WORD: Final = re.compile(
    rf"({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})(set|data|images|imgs|split)?(\d*)"
)

Folders = tuple[str, ...]
"""Names of the folders between a dataset's root and a photo."""


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, whatever its case, or None."""
    split, around = _parts(name)
    return split if _AROUND.issuperset(around) else None


def _parts(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split whose word is in a name, if exactly one is, and the other words."""
    splits, around = [], []
    for word in filter(None, re.split(r"[\W_]+", name.casefold())):
        match = _WORD.fullmatch(word)
        if match:
            splits.append(SPLIT_WORDS[match[1]])
            around += [match[3]] if match[3] else []
        else:
            around.append(word)
    return (splits[0] if len(splits) == 1 else None), tuple(around)


def _named(folders: Collection[str]) -> dict[str, str]:
    """Return the folders that are named like splits: {folder: split}.

    Folders beside each other that share everything but the split's word count as well, such as
    `seg_train` and `seg_test`, `train2017` and `val2017`, or `1_train` and `2_test`.
    """
    found = {folder: split for folder in folders if (split := split_of(folder))}
    siblings: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for folder in folders:
        split, around = _parts(folder)
        if split:
            siblings[tuple(word for word in around if not word.isdigit())][folder] = split
    for alike in siblings.values():
        if len(set(alike.values())) > 1 and "train" in alike.values():
            found |= alike
    return found


@dataclass(frozen=True)
class Arrangement:
    """How the folders of a dataset are to be read.

    wrapper: folders above the splits that hold everything else. splits: {folder: split}; it is the
    `first` or the last folder below the wrapper. inner: {split folder: folder that holds all of its
    class folders}. others_left_out: folders beside the splits are ignored.
    """

    wrapper: Folders = ()
    splits: Mapping[str, str] | None = None
    first: bool = True
    inner: Mapping[str, str] | None = None
    others_left_out: bool = False

    def read(self, folders: Folders) -> tuple[Folders | None, str | None]:
        """Return a photo's class folders and its split; None for folders that are left out."""
        if folders[: len(self.wrapper)] != self.wrapper:
            return folders, "train" if self.splits else None
        folders = folders[len(self.wrapper) :]
        if not self.splits or not folders:
            return folders, "train" if self.splits else None
        split = self.splits.get(folders[0] if self.first else folders[-1])
        if split is None:
            return (None, None) if self.others_left_out else (folders, "train")
        if not self.first:
            return folders[:-1], split
        inner = (self.inner or {}).get(folders[0])
        skipped = 2 if inner is not None and folders[1:2] == (inner,) else 1
        return folders[skipped:], split


def arrange(paths: Sequence[Folders], names: Mapping[str, str] | None) -> Arrangement:
    """Find wrapper and split folders among the folders of a dataset's photos.

    Args:
        paths: the folders of each photo.
        names: the folders that are splits, {folder: split}; empty: no folder is a split; None:
            splits are recognised by their usual names.

    Raises:
        DatasetError: folders look like splits under names that are not known, or a folder in
            `names` does not exist.
    """
    paths = [folders for folders in paths if folders]
    wrapper = _wrapper(paths, names)
    below = [folders[len(wrapper) :] for folders in paths]
    if names:
        return _explicit(below, wrapper, names)
    if names is None:
        found = _by_name(below, wrapper)
        if found is not None:
            return found
        _refuse_look_alikes(below)
    return Arrangement()


def _wrapper(paths: Sequence[Folders], names: Mapping[str, str] | None) -> Folders:
    """Return the folders at the top that hold all photos, each in a further folder."""
    wrapper: Folders = ()
    while paths:
        depth = len(wrapper)
        top = {folders[depth : depth + 1] for folders in paths}
        if len(top) != 1 or any(len(folders) < depth + 2 for folders in paths):
            break
        [(name,)] = top
        if _folded(name) in map(_folded, names or ()) or (names is None and split_of(name)):
            break
        wrapper += (name,)
    return wrapper


def _folded(name: str) -> str:
    return name.strip().casefold()


def _explicit(paths: Sequence[Folders], wrapper: Folders, names: Mapping[str, str]) -> Arrangement:
    """Return the arrangement in which exactly the folders in `names` are splits."""
    wanted = {_folded(name): split for name, split in names.items()}
    for first in (True, False):
        there = {folders[0 if first else -1] for folders in paths}
        splits = {name: wanted[_folded(name)] for name in there if _folded(name) in wanted}
        if len(set(map(_folded, splits))) == len(wanted):
            train = "train" in splits.values()
            return Arrangement(wrapper, splits, first, _inner(paths, splits, first), train)
    tops = ", ".join(sorted({printable(folders[0]) for folders in paths})[:8])
    missing = sorted(set(wanted) - set(map(_folded, there | {folders[0] for folders in paths})))
    raise DatasetError(
        f"split_names: there is no folder {' or '.join(missing) or 'layout'} of that kind; "
        f"the folders are {tops}"
    )


def _by_name(paths: Sequence[Folders], wrapper: Folders) -> Arrangement | None:
    """Return the arrangement if folders named like splits are splits, else None.

    A folder named like a split is a split if it contains class folders. If ordinary class folders
    lie beside it, it is a class itself (`train` beside `bus`), unless there is a training split and
    another one, or the same class names occur inside it and beside it.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for folders in paths:
        inside[folders[0]].update(folders[1:2])
    named = _named(inside)
    real = {folder: split for folder, split in named.items() if inside[folder]}
    others = set(inside) - set(named)
    splits: Mapping[str, str] = {}
    left_out = False
    if named and not others:
        splits = named
    elif "train" in real.values() and len(set(real.values())) > 1:
        splits, left_out = named, True
    elif any(inside[folder] & others for folder in real):
        splits, left_out = real, "train" in real.values()
    if splits:
        return Arrangement(wrapper, splits, True, _inner(paths, splits, True), left_out)
    last = {folders[-1] for folders in paths if len(folders) > 1}
    named = _named(last)
    everywhere = last and set(named) == last and all(len(folders) > 1 for folders in paths)
    if everywhere and len(set(named.values())) > 1:
        return Arrangement(wrapper, named, first=False)
    return None


def _inner(paths: Sequence[Folders], splits: Mapping[str, str], first: bool) -> dict[str, str]:
    """Return the folder inside each split that holds all of its class folders, where there is one.

    It counts if it is named like the split itself (`seg_train/seg_train/`), or if every split has
    one of the same general name (`train/images/`, `test/images/`).
    """
    only: dict[str, str] = {}
    for top in splits if first else ():
        below = [folders[1:] for folders in paths if folders[0] == top and len(folders) > 1]
        names = {folders[0] for folders in below}
        if len(names) == 1 and all(len(folders) > 1 for folders in below):
            only[top] = names.pop()
    general = {_folded(name) for name in only.values()}
    if len(only) == len(splits) > 1 and len(general) == 1 and general <= _AROUND:
        return only
    return {
        top: name
        for top, name in only.items()
        if _folded(name) == _folded(top) or split_of(name) == splits[top]
    }


def _refuse_look_alikes(paths: Sequence[Folders]) -> None:
    """Raise a DatasetError if sibling folders hold the same subfolders, as splits do."""
    inside: dict[str, set[str]] = defaultdict(set)
    for folders in paths:
        inside[folders[0]].update(map(_folded, folders[1:2]))
    alike: set[str] = set()
    shared: set[str] = set()
    for a, b in combinations([top for top, names in inside.items() if len(names) > 1], 2):
        both = inside[a] & inside[b]
        if len(both) > 1 and 2 * len(both) >= min(len(inside[a]), len(inside[b])):
            alike |= {a, b}
            shared |= both
    if alike:
        tops = sorted(map(printable, alike))
        example = ",".join(f"{top}={split}" for top, split in _guessed(tops).items())
        raise DatasetError(
            f"the folders {_listed(tops)} hold the same subfolders ({_listed(sorted(shared))}), "
            "as splits of one dataset do, but their names are not those of splits (train, "
            f"validation, test). If they are splits, say which: --split-names {example} "
            f'(split_names="{example}"); if every folder is a class of its own: --split-names none'
        )


def _guessed(folders: Sequence[str]) -> dict[str, str]:
    """Return a split for some look-alikes, as an example: by the words in their names, if any."""
    named = {folder: split for folder in folders if (split := _parts(folder)[0])}
    others = iter([folder for folder in folders if folder not in named])
    if "train" not in named.values() and (first := next(others, None)):
        named[first] = "train"
    if len(set(named.values())) < 2 and (second := next(others, None)):
        named[second] = "test"
    return named


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
