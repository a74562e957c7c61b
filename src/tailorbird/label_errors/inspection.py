"""Scan a dataset and optionally search for wrong labels: the work of `tailorbird scan`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tailorbird.advice import Advice, after_scan
from tailorbird.backbone import files_read
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import (
    Dataset,
    DataSettings,
    clean,
    listed_photos,
    scan,
    split,
    write_manifest,
)
from tailorbird.dataset.samples import DECIDABLE
from tailorbird.label_errors.find import Suspects, suspects, tiles
from tailorbird.progress import Progress
from tailorbird.rendering.contact_sheets import SUFFIXES, contact_sheet, save_sheet
from tailorbird.validation import Problems, build


@dataclass(frozen=True)
class Inspection:
    """A scanned dataset, and its suspect labels if they were asked for.

    left_out: number of photos of the written manifest that training leaves out; see `clean`.
    advice: what to do next, at most two steps.
    """

    dataset: Dataset
    suspects: Suspects | None
    left_out: int = 0
    advice: tuple[Advice, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `scan --json`."""
        judged = {} if self.suspects is None else {"suspects": self.suspects.as_dict()}
        advice = [step.as_dict() for step in self.advice]
        return {**self.dataset.as_dict(), **judged, "advice": advice}


@dataclass(frozen=True)
class InspectionSettings:
    """Settings of `inspect_dataset`.

    Attributes:
        manifest: file to write the photos to, with their labels and splits, as a CSV.
        judge_labels: also look for photos whose label is probably wrong.
        backbone: backbone to judge labels with, as in `suspects`; None: the default one.
        mirror: judge by features that are averaged with those of the mirrored photo.
        sheet: contact sheet of the suspect photos to write; not written if there are none.
        seed: of the manifest's split, and of the folds that judge labels.
        data: how the folder or CSV is read.
    """

    manifest: str | Path | None = None
    judge_labels: bool = False
    backbone: str | Path | None = None
    mirror: bool = False
    sheet: str | Path | None = None
    seed: int = 0
    data: DataSettings | None = None

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.seed(self.seed)
            for option, given in (
                ("--backbone", self.backbone is not None),
                ("--mirror", self.mirror),
                ("--contact-sheet", self.sheet is not None),
            ):
                problems.need(
                    self.judge_labels or not given,
                    f"{option} without --suspects: only the search for wrong labels uses it; "
                    "add --suspects",
                )
            problems.ending("contact sheet", self.sheet, *SUFFIXES)


def inspect_dataset(
    photos: str | Path, *, progress: Progress | None = None, **options: Any
) -> Inspection:
    """Scan a dataset, and look for labels that are probably wrong if asked to.

    Args:
        photos: a folder of class folders, or a CSV.
        progress: receives stages and steps.
        options: fields of InspectionSettings.

    Raises:
        SettingsError: invalid options, or an output that is one of the inputs.
        DatasetError: no photo can be used; or labels cannot be judged.
        BackboneError, StorageError.
    """
    backbone = options.get("backbone")
    with Problems() as problems:
        settings = problems.attempt(partial(build, InspectionSettings, options, "scan"))
        problems.outputs(
            {"manifest": options.get("manifest"), "contact sheet": options.get("sheet")},
            inputs={"dataset": photos, **(files_read(backbone) if backbone else {})},
            photos=listed_photos(photos, options.get("data")),
        )
    assert settings is not None, "a SettingsError was raised otherwise"
    judged = None
    if settings.judge_labels:
        judged = suspects(
            photos,
            backbone=settings.backbone or DEFAULT,
            mirror=settings.mirror,
            seed=settings.seed,
            data=settings.data,
            progress=progress,
        )
    dataset = judged.dataset if judged else scan(photos, data=settings.data, progress=progress)
    left_out = 0
    if settings.manifest is not None:
        divided = split(dataset, seed=settings.seed)
        write_manifest(divided, settings.manifest)
        left_out = len(clean(divided)[1])
    if judged is not None and settings.sheet is not None and judged.reported:
        save_sheet(contact_sheet(tiles(judged.reported)), settings.sheet)
    return Inspection(dataset, judged, left_out, _advice(dataset, judged, photos))


def _advice(dataset: Dataset, judged: Suspects | None, photos: str | Path) -> tuple[Advice, ...]:
    """Return what to do next."""
    ranked = judged.ranked if judged else ()
    return after_scan(
        dataset,
        photos,
        to_review=sum(finding.kind in DECIDABLE for finding in dataset.findings),
        judged=len(ranked),
        suspects=len(judged.reported) if judged else 0,
        confused=(
            (one.label, one.suggested)
            for one in ranked
            if one.suggested_probability > one.label_probability
        ),
    )
