"""Corrections as training data: the kept photos with the labels that people gave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailorbird.corrections.photos import kept_photos
from tailorbird.corrections.statistics import NONE_OF_THESE
from tailorbird.corrections.store import Corrections, Row, open_existing, row_from
from tailorbird.dataset import NONE_OF_THESE as OF_NO_CLASS
from tailorbird.errors import SettingsError


@dataclass(frozen=True)
class LabelledPhoto:
    """A kept photo: its path, the newest answer about it, a name to show, and that answer's row."""

    path: Path
    label: str
    name: str
    row: Row


@dataclass(frozen=True)
class Labelled:
    """The kept photos, sorted by name, and counts of the answers that are not among them.

    missing: names of kept photos whose file no longer exists.
    conflicts: photos about which answers to different predictions differ; the newest counts.
    without_photo: different photos that people answered about but that were not kept.
    none: kept photos whose newest answer is that they show none of the classes; their label is that
        of photos of no class.
    """

    photos: tuple[LabelledPhoto, ...]
    missing: tuple[str, ...]
    conflicts: int
    without_photo: int
    none: tuple[LabelledPhoto, ...] = ()


def labelled(store: Corrections) -> Labelled:
    """Return the newest answer about each kept photo.

    Raises SettingsError when the store has no folder of photos, StorageError.
    """
    from sqlalchemy import and_, case, func, literal, select

    from tailorbird.corrections.tables import corrections, newest

    if store.photos is None:
        raise SettingsError(
            f"the folder of kept photos of {store.shown} is not known; name it with --photos"
        )
    found = kept_photos(store.photos)
    columns = corrections.c
    kept = func.sum(case((columns.photo_kept, 1), else_=0))
    last = select(func.max(columns.id)).group_by(columns.sha256).having(kept > 0)
    of_kept = select(columns.sha256).where(columns.photo_kept)
    differing = (
        select(columns.sha256)
        .where(and_(newest, columns.sha256.in_(of_kept)))
        .group_by(columns.sha256)
        .having(func.min(columns.answer) != func.max(columns.answer))
    )
    photos: list[LabelledPhoto] = []
    none: list[LabelledPhoto] = []
    missing: list[str] = []
    with store.reading() as connection:
        # The newest row about a photo is also the newest for its receipt.
        query = (
            select(corrections, literal(True).label("newest"))
            .where(columns.id.in_(last))
            .order_by(columns.sha256)
        )
        for values in connection.execute(query).mappings():
            row = row_from(values)
            path = found.get(row.sha256)
            shelf = f"{store.photos.name}/{row.sha256[:2]}"
            if path is None:
                missing.append(f"{shelf}/{row.sha256}")
                continue
            name = f"{shelf}/{path.name}"
            if row.answer == NONE_OF_THESE:
                none.append(LabelledPhoto(path, OF_NO_CLASS, name, row))
            else:
                photos.append(LabelledPhoto(path, row.answer, name, row))
        conflicts = connection.execute(
            select(func.count()).select_from(differing.subquery())
        ).scalar_one()
        different = connection.execute(select(func.count(columns.sha256.distinct()))).scalar_one()
    without_photo = different - len(photos) - len(none) - len(missing)
    return Labelled(tuple(photos), tuple(missing), conflicts, without_photo, tuple(none))


def read_labelled(url: str, photos: Path | None = None) -> Labelled:
    """Open an existing database, read the labelled photos and close it.

    photos: as for `open_existing`.

    Raises SettingsError, StorageError, MissingExtra.
    """
    with open_existing(url, photos) as store:
        return labelled(store)
