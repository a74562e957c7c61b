"""Scan a dataset and optionally search for wrong labels: the work of `tailorbird scan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.backbone import find
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import Dataset, DataSettings, listed_photos, scan, split, write_manifest
from tailorbird.label_errors.find import Suspects, suspects, tiles
from tailorbird.progress import Progress
from tailorbird.rendering.contact_sheets import SUFFIXES, contact_sheet, save_sheet
from tailorbird.validation import Problems


@dataclass(frozen=True)
class Inspection:
    """A scanned dataset, and its suspect labels if they were asked for."""

    dataset: Dataset
    suspects: Suspects | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `scan --json`."""
        judged = {} if self.suspects is None else {"suspects": self.suspects.as_dict()}
        return {**self.dataset.as_dict(), **judged}


def inspect_dataset(
    photos: str | Path,
    *,
    manifest: str | Path | None = None,
    judge_labels: bool = False,
    backbone: str | Path | None = None,
    sheet: str | Path | None = None,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Scan a dataset, and look for labels that are probably wrong if asked to.

    Args:
        photos: a folder of class folders, or a CSV.
        manifest: file to write the photos to, with their labels and splits, as a CSV.
        judge_labels: also look for photos whose label is probably wrong.
        backbone: backbone to judge labels with; None: the shipped one.
        sheet: contact sheet of the suspect photos to write; not written if there are none.
        seed: of the manifest's split, and of the folds that judge labels.
        data: how the folder or CSV is read.
        progress: receives stages and steps.

    Raises:
        SettingsError: invalid options, or an output that is one of the inputs.
        DatasetError: no photo can be used; or labels cannot be judged.
        BackboneError, StorageError.
    """
    with Problems() as problems:
        problems.seed(seed)
        for option, value in (("--backbone", backbone), ("--contact-sheet", sheet)):
            problems.need(
                judge_labels or value is None,
                f"{option} without --suspects: only the search for wrong labels uses it; "
                "add --suspects",
            )
        problems.ending("contact sheet", sheet, *SUFFIXES)
        problems.outputs(
            {"manifest": manifest, "contact sheet": sheet},
            inputs={"dataset": photos, "backbone": find(backbone) if backbone else None},
            photos=listed_photos(photos, data),
        )
    judged = None
    if judge_labels:
        judged = suspects(
            photos, backbone=backbone or DEFAULT, seed=seed, data=data, progress=progress
        )
    dataset = judged.dataset if judged else scan(photos, data=data, progress=progress)
    if manifest is not None:
        write_manifest(split(dataset, seed=seed), manifest)
    if judged is not None and sheet is not None and judged.reported:
        save_sheet(contact_sheet(tiles(judged.reported)), sheet)
    return Inspection(dataset, judged)
