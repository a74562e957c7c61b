"""Recognise augmented copies by the file names that augmentation tools give them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from tailorbird.dataset.samples import Finding, Sample

_WORDS: Final = (
    "augment(?:ed|ation)?|aug|[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:at(?:e|ed|ion))?|crop(?:ped)?|"
    "blur(?:red)?|nois[ey]|zoom(?:ed)?|shift(?:ed)?|shear(?:ed)?|bright(?:ness)?|contrast|copy"
)
_ALTERED: Final = re.compile(rf"(.+?)(?:[\s_.\-(]+(?:{_WORDS})[\s_.\-]*-?\d*\)?)+", re.IGNORECASE)
"""`IMG_7_flip`, `IMG_7-rot90-crop`, `IMG_7 (copy)`: the original's name, then what was done."""

_EXPORTED: Final = re.compile(r"(.+)\.rf\.[0-9a-z]{8,}", re.IGNORECASE)
"""`IMG_7_jpg.rf.0f3a...`: Roboflow writes all versions of a photo with its name in front."""


def augmented_copies(samples: Sequence[Sample]) -> list[int]:
    """Return a group number per sample: augmented copies share that of their original.

    A photo named like an altered one counts as a copy only if a photo with the original's name has
    the same label; exported versions of one photo are copies of each other.
    """
    stems = [PurePosixPath(sample.name).stem.casefold() for sample in samples]
    first: dict[tuple[str, str], int] = {}
    for i, (sample, stem) in enumerate(zip(samples, stems, strict=True)):
        first.setdefault((sample.label, stem), i)
    groups = list(range(len(samples)))
    for i, (sample, stem) in enumerate(zip(samples, stems, strict=True)):
        exported, altered = _EXPORTED.fullmatch(stem), _ALTERED.fullmatch(stem)
        if exported:
            groups[i] = first.setdefault((sample.label, exported[1]), i)
        elif altered:
            groups[i] = first.get((sample.label, altered[1]), i)
    return groups


def augmented_findings(samples: Sequence[Sample], groups: Sequence[int]) -> list[Finding]:
    """Return one finding for all photos that are named like augmented copies."""
    members: dict[int, list[str]] = defaultdict(list)
    for sample, group in zip(samples, groups, strict=True):
        members[group].append(sample.name)
    copied = {group: names for group, names in members.items() if len(names) > 1}
    if not copied:
        return []
    copies = sorted(
        name for g, names in copied.items() for name in names if name != samples[g].name
    )
    original = samples[min(copied)].name
    example = next(name for name in members[min(copied)] if name != original)
    message = (
        f"{len(copies):,} photos are named like augmented copies of others, such as {example} of "
        f"{original}: they stay on one side of every split; train on the originals, since "
        "training augments by itself (--views)"
    )
    return [Finding("augmented-copy", tuple(copies), message)]
