"""Write small photos into folders, and read labels and findings of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support.data import encoded, picture
from tailorbird.dataset import (
    Dataset,
    Finding,
)


def put(path: Path, seed: int) -> Path:
    """Write a small drawn photo whose content depends on the seed; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture("box", seed, (40, 40))))
    return path


def put_all(root: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        put(root / name, number)
    return root


def of_kind(dataset: Dataset, kind: str) -> list[Finding]:
    return [finding for finding in dataset.findings if finding.kind == kind]


def labels(dataset: Dataset) -> dict[str, tuple[str, str | None]]:
    return {sample.name: (sample.label, sample.split) for sample in dataset.samples}
