"""Read a folder or CSV: samples, classes, splits, and findings about what is wrong with them."""

from tailorbird.dataset.labels import (
    NONE_OF_THESE,
    folded_label,
    is_none_of_these,
    similar_label,
)
from tailorbird.dataset.outputs import listed_photos
from tailorbird.dataset.reading import picture_of, pixels_of, stacked_pixels
from tailorbird.dataset.samples import KINDS, SPLITS, UNUSABLE, Dataset, Finding, Sample, printable
from tailorbird.dataset.scanner import Visitor, scan
from tailorbird.dataset.settings import DataSettings
from tailorbird.dataset.splits import clean, split
from tailorbird.dataset.table import write_manifest

__all__ = [
    "KINDS",
    "NONE_OF_THESE",
    "SPLITS",
    "UNUSABLE",
    "DataSettings",
    "Dataset",
    "Finding",
    "Sample",
    "Visitor",
    "clean",
    "folded_label",
    "is_none_of_these",
    "listed_photos",
    "picture_of",
    "pixels_of",
    "printable",
    "scan",
    "similar_label",
    "split",
    "stacked_pixels",
    "write_manifest",
]
