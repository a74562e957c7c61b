"""Settings of how a folder or CSV is read as a dataset, for every operation that reads one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from tailorbird.dataset.samples import SPLITS
from tailorbird.validation import Problems

NearDuplicates = Literal["group", "keep", "drop"]
"""Handling of nearly identical photos; see `DataSettings`."""

_MODES: Final[tuple[NearDuplicates, ...]] = get_args(NearDuplicates)


@dataclass(frozen=True)
class DataSettings:
    """How a folder or CSV is read. Frozen and checked; the defaults suit most datasets.

    Args:
        split_names: folder name -> train, validation or test, as a mapping or as text such as
            `Training=train,Testing=test`; these folders are then the splits, and no others.
            An empty mapping or `none`: every folder is part of a class name. None: splits are
            recognised by their usual names.
        near_duplicates: `group` keeps nearly identical photos on one side of every split and fold;
            `keep` treats them as different photos; `drop` keeps one photo of each group. Identical
            files are always grouped.
        group_by: a regular expression searched in each photo's name (its path below the dataset).
            Photos whose first group (or whole match, where there is none) is equal stay on one side
            of every split and fold. Photos without a match are grouped as usual.
        follow_links: also read files and folders outside the dataset, through links inside it. By
            default links that lead outside the dataset are reported and skipped.

    Raises:
        SettingsError: names every invalid value.
    """

    split_names: Mapping[str, str] | str | None = None
    near_duplicates: NearDuplicates = "group"
    group_by: str | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        with Problems() as problems:
            if isinstance(self.split_names, str):
                object.__setattr__(self, "split_names", _parsed(self.split_names, problems))
            for folder, split in (self.splits or {}).items():
                problems.choice(f"split_names: the split of {folder!r}", split, SPLITS)
            problems.choice("near_duplicates", self.near_duplicates, _MODES)
            try:
                re.compile(self.group_by or "")
            except re.error as error:
                problems.add(
                    f"group_by is {self.group_by!r}, which is not a regular expression: {error}"
                )

    @property
    def splits(self) -> Mapping[str, str] | None:
        """`split_names` as a mapping, or None if splits are recognised by their usual names."""
        assert not isinstance(self.split_names, str)
        return self.split_names


def _parsed(text: str, problems: Problems) -> dict[str, str]:
    """Return the mapping of `FOLDER=SPLIT,FOLDER=SPLIT`; empty for `none`."""
    if text.strip().lower() in ("none", ""):
        return {}
    result: dict[str, str] = {}
    for part in text.split(","):
        folder, equals, split = part.rpartition("=")
        if not equals or not folder.strip():
            problems.add(
                f"split_names: {part.strip()!r} is not FOLDER=SPLIT; "
                "write for example Training=train,Testing=test, or none"
            )
        else:
            result[folder.strip()] = split.strip().lower()
    return result
