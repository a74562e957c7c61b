"""Begin or resume a review: find the items to decide about, apply former decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tailorbird.backbone import open_backbone
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import DataSettings, Sample, listed_photos, printable
from tailorbird.dataset.layout import find
from tailorbird.dataset.table import Row, read_header, read_table
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.features import Embedder
from tailorbird.label_errors import Suspect, judge_prepared
from tailorbird.preparation import prepare_data
from tailorbird.progress import Progress
from tailorbird.review.items import make_items
from tailorbird.review.manifest import HEADER, Manifest, Resumed, content_hash, fresh_rows, resume
from tailorbird.review.session import Review
from tailorbird.validation import Problems, same_file

NAMED = 3
"""Maximum number of photos that a note names; it gives the number of the others."""


def default_manifest(photos: Path) -> Path:
    """Return the default manifest: `photos.reviewed.csv` beside the photos.

    For the manifest of a review it is that file, which is resumed.
    """
    if is_review(photos):
        return photos
    place = photos if photos.name not in ("", "..") else photos.resolve()
    stem = place.stem if place.suffix.lower() == ".csv" else place.name
    return place.parent / f"{stem or 'photos'}.reviewed.csv"


def is_review(path: Path) -> bool:
    """Whether a file is the manifest of a review. Raises DatasetError if it is unreadable."""
    return path.is_file() and tuple(read_header(path)) == HEADER


def open_review(
    photos: str | Path,
    manifest: str | Path | None = None,
    *,
    backbone: str | Path = DEFAULT,
    mirror: bool = False,
    find_suspects: bool = True,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> Review:
    """Scan photos, find suspect labels, and begin or resume the manifest.

    photos: a folder, a CSV, or the manifest of a former review.
    manifest: the file to write; None for `default_manifest`.
    backbone, mirror: compute the features for finding suspect labels, as in `suspects`.
    find_suspects: False finds duplicates and leaks only, and needs no features.
    progress: receives the stages `scan`, or `embed` and `labels`.

    Raises DatasetError for unusable photos or a file that is not a manifest, SettingsError for an
    invalid name, StorageError when it cannot be written, BackboneError.
    """
    source = Path(photos)
    former = is_review(source)
    target = Path(manifest) if manifest is not None else default_manifest(source)
    with Problems() as problems:
        # A review's own manifest is rewritten in place, and so may be read and written at once.
        read = None if former and same_file(source, target) else source
        problems.overlaps(
            {"manifest": target}, inputs={"dataset": read}, photos=listed_photos(source, data)
        )
    before, seen = _former(source if former else None, target)
    embedder = Embedder(open_backbone(backbone, mirror=mirror)) if find_suspects else None

    layout = find(source, data=data, as_before_review=former)
    prepared = prepare_data(layout, embedder, progress=progress)
    dataset = prepared.dataset
    notes = []
    reported: Sequence[Suspect] = ()
    judged: dict[Sample, Suspect] = {}
    if find_suspects:
        try:
            found = judge_prepared(prepared, seed=seed, progress=progress)
            reported, judged = found.reported, {suspect.sample: suspect for suspect in found.ranked}
        except DatasetError as error:
            notes.append(f"no label could be judged: {error}")
    rows = fresh_rows(target, dataset.samples)
    resumed = Resumed(tuple(rows))
    if before is not None:
        where, former_rows = before
        resumed = resume(target, rows, where, former_rows)
        if not resumed.found:
            raise DatasetError(
                f"{_show(target)} is the review of other photos: none of its "
                f"{len(former_rows):,} is in {_show(source)}; give another name with -o"
            )
        notes += _notes(resumed)
    result = Manifest(target, resumed.rows, removed=resumed.removed_rows, seen=seen)
    result.write()
    return Review(source, dataset, make_items(dataset, reported, judged), judged, result, notes)


def _former(source: Path | None, target: Path) -> tuple[tuple[Path, list[Row]] | None, str | None]:
    """Return the manifest to resume with its rows, and the hash of the file at `target`.

    source: the manifest of a review that was given as the photos, or None.

    Raises SettingsError or DatasetError for a target that is not a manifest.
    """
    if target.suffix.lower() != ".csv" or target.is_dir():
        raise SettingsError(f"the manifest is {_show(target)!r}; give the name of a .csv file")
    seen = content_hash(target)
    if seen is None:
        return ((source, read_table(source)) if source else None), None
    if not is_review(target):
        raise DatasetError(
            f"{_show(target)} exists and is not the manifest of a review (its first line is not "
            f"{','.join(HEADER)}); it was not changed; give another name with -o"
        )
    return (target, read_table(target)), seen


def _notes(resumed: Resumed) -> list[str]:
    """Return messages about a former review."""
    decisions = sum(bool(row.decision) for row in resumed.rows)
    notes = [
        f"resumes a former review: {decisions:,} of {len(resumed.rows):,} photos have a decision"
    ]
    if resumed.added:
        notes.append(f"{_named(resumed.added)} added since")
    if resumed.removed:
        kept = (
            f"; {len(resumed.removed_rows):,} decisions about them stay in the manifest"
            if resumed.removed_rows
            else ""
        )
        notes.append(f"{_named(resumed.removed)} removed since{kept}")
    if resumed.relabelled:
        notes.append(
            f"{_named(resumed.relabelled)} given another label in the dataset since; decisions "
            "about the old label were dropped"
        )
    return notes


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} {'photo' if len(names) == 1 else 'photos'} ({shown}{more})"


def _show(path: Path) -> str:
    return printable(str(path))
