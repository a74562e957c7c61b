"""Results of a scan: samples, findings, and the dataset they make up."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailorbird.errors import DatasetError

SPLITS: Final = ("train", "validation", "test")
"""The names of the splits, in the order in which they are shown."""

KINDS: Final = (
    "unreadable",
    "unsupported",
    "too-large",
    "duplicate",
    "near-duplicate",
    "leak",
    "conflicting-label",
    "missing-class",
    "small-class",
    "imbalance",
    "outside-link",
    "suspect-label",
    "nested-class",
    "similar-labels",
    "one-scene",
    "almost-black",
    "augmented-copy",
    "unfamiliar",
)
"""Every kind a finding can have. Programs read these; none is renamed without a new major version.

To add a kind: one name here and one function in `checks.CHECKS`.
"""

DECIDABLE: Final = (
    "suspect-label",
    "unfamiliar",
    "conflicting-label",
    "leak",
    "duplicate",
    "near-duplicate",
)
"""Kinds of findings that a person can decide about, in the order in which they are shown."""

UNUSABLE: Final = frozenset({"unreadable", "unsupported", "too-large", "outside-link"})
"""Kinds of findings whose files are not among the samples."""

_BREAKING: Final = ("Cc", "Zl", "Zp")
"""Unicode categories of control characters, line and paragraph separators."""


def printable(text: str) -> str:
    r"""Return a file name as text that every terminal and JSON writer accepts.

    Bytes that are not UTF-8 (surrogate escapes in Python) become `\xNN`, control characters and
    line separators become escapes such as `\n`; the rest stays. The result is for people and
    programs to read; only for an ordinary name is it also a path that can be opened.
    """
    if text.isprintable():
        return text
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _BREAKING else c
        for c in text
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable photo.

    path: the file. label: its class, such as `shoes/boots`. split: `train`, `validation`,
    `test`, or None where the source names no splits. digest: SHA-256 of the file, 64 hexadecimal
    digits. name: the path relative to the dataset, as shown to people (see `printable`). group:
    name of the item, patient or video it shows, where the source or `DataSettings.group_by` says.
    """

    path: Path
    label: str
    split: str | None
    digest: str
    name: str
    group: str | None = None

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise DatasetError(
                f"{self.name}: the split is {self.split!r}; it must be one of {', '.join(SPLITS)}"
            )
        if not self.label or len(self.digest) != 64:
            raise DatasetError(
                f"{self.name}: a sample needs a label and a SHA-256 of 64 hexadecimal digits"
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of a dataset.

    paths: names relative to the dataset, safe to print; may be empty.
    """

    kind: str
    paths: tuple[str, ...]
    message: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"the kind of a finding is {self.kind!r}; it must be one of {', '.join(KINDS)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as in `scan --json`."""
        return {"kind": self.kind, "paths": list(self.paths), "message": self.message}


def count(samples: Iterable[Sample]) -> dict[str, int]:
    """Return the number of samples of each class, classes sorted by name."""
    return dict(sorted(Counter(sample.label for sample in samples).items()))


@dataclass(frozen=True)
class Dataset:
    """Usable photos, their classes, and what is wrong with the source.

    root: the folder that `Sample.name` is relative to. samples: sorted by name; either every sample
    has a split or none has. groups: one integer per sample; samples with the same stay on one side
    of every split and fold, because they show the same picture or the same item. excluded: names of
    photos that a review left out of the source, which are not among the samples. one_scene: classes
    whose photos are so alike that nearly all are in one group, with nothing in their names to tell
    them apart: they cannot be split. pictures: one integer per sample; samples with the same show
    the same picture; by default the groups. table: the CSV that listed them, if one did.
    """

    root: Path
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...] = ()
    groups: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    one_scene: tuple[str, ...] = ()
    pictures: tuple[int, ...] = ()
    table: Path | None = None

    def __post_init__(self) -> None:
        if not self.groups and self.samples:
            object.__setattr__(self, "groups", tuple(range(len(self.samples))))
        if len(self.pictures) != len(self.samples):
            object.__setattr__(self, "pictures", self.groups)
        if len(self.groups) != len(self.samples):
            raise DatasetError(
                f"{len(self.samples)} samples need as many groups, not {len(self.groups)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of all samples, each once, sorted."""
        return tuple(sorted({sample.label for sample in self.samples}))

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each class over all splits."""
        return count(self.samples)

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Number of samples of each class in each split; empty where no split is named."""
        present = {sample.split for sample in self.samples}
        return {name: count(self.of(name)) for name in SPLITS if name in present}

    def of(self, split: str | None) -> tuple[Sample, ...]:
        """Return the samples of one split, sorted by name."""
        return tuple(sample for sample in self.samples if sample.split == split)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted (digest, label, split) of every sample: 64 hexadecimal digits.

        It depends on the photos, their labels and splits, not on their folders and file names.
        """
        rows = sorted(
            f"{sample.digest}\t{sample.label}\t{sample.split or ''}\n" for sample in self.samples
        )
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return what `scan --json` writes; every string is valid UTF-8."""
        return {
            "images": len(self.samples),
            "classes": self.counts,
            "splits": self.splits,
            "findings": [finding.as_dict() for finding in self.findings],
            "excluded": list(self.excluded),
        }
