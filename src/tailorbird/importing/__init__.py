"""Import a classifier trained elsewhere: convert, check, calibrate and score it."""

from tailorbird.importing.classes import read_classes
from tailorbird.importing.pipeline import import_application, import_model
from tailorbird.importing.result import ImportResult
from tailorbird.importing.settings import ImportSettings

__all__ = ["ImportResult", "ImportSettings", "import_application", "import_model", "read_classes"]
