"""Begin or resume a review: find the items to decide about, apply former decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from tailorbird.backbone import Backbone, open_backbone
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import DataSettings, Sample, listed_photos, printable
from tailorbird.dataset.layout import find
from tailorbird.dataset.table import Row, read_header, read_table
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.features import Embedder
from tailorbird.label_errors import Suspect, Unlike, judge_prepared
from tailorbird.preparation import prepare_data
from tailorbird.progress import Progress
from tailorbird.review.items import make_items
from tailorbird.review.manifest import HEADER, Manifest, Resumed, content_hash, fresh_rows, resume
from tailorbird.review.predictions import (
    Predictions,
    doubtful,
    is_predictions,
    read_predictions,
)
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


class SuspectSearch(TypedDict, total=False):
    """How suspect labels are searched: the options of `suspects` that have these names."""

    backbone: str | Path
    mirror: bool
    seed: int


def open_review(
    photos: str | Path,
    manifest: str | Path | None = None,
    *,
    find_suspects: bool = True,
    predictions: str | Path | None = None,
    data: DataSettings | None = None,
    progress: Progress | None = None,
    **search: Unpack[SuspectSearch],
) -> Review:
    """Scan photos, find suspect labels, and begin or resume the manifest.

    photos: a folder, a CSV, the CSV of `predict` with the guessed labels, or the manifest of a
        former review.
    manifest: the file to write; None for `default_manifest`.
    find_suspects: False finds duplicates and leaks only, and needs no features.
    predictions: the CSV of `predict` about these photos; unsure ones and contradicted labels then
        come first. None: `photos` itself, if it is one.
    progress: receives the stages `scan`, or `embed` and `labels`.
    search: backbone, mirror and seed of the search for suspect labels; see SuspectSearch.

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
    told = _predictions(source, predictions)
    before, seen = _former(source if former else None, target)
    embedder = Embedder(_backbone(search)) if find_suspects else None

    layout = find(source, data=data, as_before_review=former)
    prepared = prepare_data(layout, embedder, progress=progress)
    dataset = prepared.dataset
    notes = []
    reported: Sequence[Suspect] = ()
    unlike: Sequence[Unlike] = ()
    judged: dict[Sample, Suspect] = {}
    if find_suspects:
        try:
            found = judge_prepared(prepared, seed=search.get("seed", 0), progress=progress)
            reported, judged = found.reported, {suspect.sample: suspect for suspect in found.ranked}
            unlike = found.unlike
        except DatasetError as error:
            notes.append(f"no label could be judged: {error}")
    unsure: list[Suspect] = []
    if told is not None:
        guesses = told.of(dataset.samples)
        unsure, contradicted = doubtful(guesses)
        first = {guess.sample: guess for guess in (*unsure, *contradicted)}
        reported = [*contradicted, *(each for each in reported if each.sample not in first)]
        judged = {**judged, **first}
        notes.append(_about(told, len(guesses), len(dataset.samples)))
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
    return Review(
        source,
        dataset,
        make_items(dataset, reported, judged, unsure, unlike),
        judged,
        result,
        notes,
    )


def _backbone(search: SuspectSearch) -> Backbone:
    return open_backbone(search.get("backbone", DEFAULT), mirror=search.get("mirror", False))


def _predictions(source: Path, named: str | Path | None) -> Predictions | None:
    """Return the predictions to order by, if there are any."""
    if named is not None:
        return read_predictions(Path(named))
    return read_predictions(source) if source.is_file() and is_predictions(source) else None


def _about(told: Predictions, used: int, photos: int) -> str:
    """Return a message about the predictions."""
    photo = "photo" if told.failed == 1 else "photos"
    failed = f"; {told.failed:,} {photo} could not be predicted" if told.failed else ""
    return f"predictions of {used:,} of {photos:,} photos; unsure ones come first{failed}"


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
