"""A classifier trained elsewhere becomes a model file: opened, given its classes, checked, calibrated and scored on photos."""

from tailorbird.importing.classes import read_classes
from tailorbird.importing.pipeline import import_application, import_model
from tailorbird.importing.result import ImportResult

__all__ = ["ImportResult", "import_application", "import_model", "read_classes"]
