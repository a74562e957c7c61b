"""A folder or CSV in; samples, classes, splits, and what is wrong with them out."""

from tailorbird.dataset.reading import picture_of, pixels_of
from tailorbird.dataset.samples import KINDS, SPLITS, UNUSABLE, Dataset, Finding, Sample, printable
from tailorbird.dataset.scanner import Visitor, scan
from tailorbird.dataset.splits import clean, split
from tailorbird.dataset.table import write_manifest

__all__ = [
    "KINDS",
    "SPLITS",
    "UNUSABLE",
    "Dataset",
    "Finding",
    "Sample",
    "Visitor",
    "clean",
    "picture_of",
    "pixels_of",
    "printable",
    "scan",
    "split",
    "write_manifest",
]
