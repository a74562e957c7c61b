"""People's answers to predictions: stored, counted, and returned as training data."""

from tailorbird.corrections.database import default_photos
from tailorbird.corrections.exporting import Export, export
from tailorbird.corrections.joining import Joined, join
from tailorbird.corrections.labelling import Labelled, LabelledPhoto, labelled, read_labelled
from tailorbird.corrections.statistics import NONE_OF_THESE, Stats, is_right
from tailorbird.corrections.store import Corrections, Forgotten, Row, open_existing, open_store

__all__ = [
    "NONE_OF_THESE",
    "Corrections",
    "Export",
    "Forgotten",
    "Joined",
    "Labelled",
    "LabelledPhoto",
    "Row",
    "Stats",
    "default_photos",
    "export",
    "is_right",
    "join",
    "labelled",
    "open_existing",
    "open_store",
    "read_labelled",
]
